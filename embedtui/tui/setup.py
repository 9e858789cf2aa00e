"""What the welcome screen needs of set-up, and what comes of it. It is handed one, and never imports what is behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from textual.message import Message

from embedtui.model import FoundTable, Proposal
from embedtui.tui.view import Trouble


class Setup(Protocol):
    """Choices that are looked at, then written; every call may block."""

    def tables(self) -> Sequence[FoundTable]:
        """The vector columns that a migration could start from."""

    def look(self, values: Mapping[str, str], *, whole: bool) -> Proposal:
        """What the choice made so far means; ``whole``: the new model is part of it."""

    def write(self, values: Mapping[str, str]) -> object:
        """Write the settings file."""


@dataclass
class TablesFound(Message):
    """The search for tables ended, well or not."""

    tables: tuple[FoundTable, ...]
    trouble: Trouble | None = None


@dataclass
class Looked(Message, bubble=False):
    """A choice was looked at, or could not be."""

    number: int
    """Which look it was."""
    proposal: Proposal | None
    trouble: Trouble | None = None


@dataclass
class Written(Message, bubble=False):
    """The settings file was written, or could not be."""

    trouble: Trouble | None = None


Ask = Callable[[Mapping[str, str], bool, Callable[[Proposal | None, Trouble | None], object]], None]
"""Has a choice looked at, and what comes of it told."""
