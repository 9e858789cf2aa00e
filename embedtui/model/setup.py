"""What is chosen before there is a migration, and the settings in force afterwards, for faces that show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from embedtui.errors import EmbedtuiError
from embedtui.model.plan import Check


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A vector column that a migration could start from."""

    name: str
    """The table's, as SQL writes it."""
    column: str
    type: str
    rows: int | None = None
    """None: unknown."""
    made_by: str = ""
    """The framework whose table it looks like."""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A migration as it would be by what is chosen so far."""

    values: Mapping[str, str] = field(default_factory=dict)
    """Settings by their names in the file, as they are typed; proposed where nobody chose."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Settings that the file cannot change, each with what comes before it: a variable."""
    refused: EmbedtuiError | None = None
    """Why it cannot be so; what could not be found out for that is empty."""
    text_columns: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    """The first rows' texts as they would be sent."""
    checks: tuple[Check, ...] = ()
    """What is worth knowing of the choice."""
    old: str = ""
    """The old side in a few words."""
    new: str = ""
    placement: str = ""
    """Where the new vectors go, and why."""
    view: str = ""
    """What follows by a routed view; empty: none is made."""
    left_out: str = ""
    """What is decided and will not be in the file."""
    key_variable: str = ""
    """The variable that the new model's key is taken from; empty: none."""
    keys_missing: tuple[str, ...] = ()
    """The variables of both models' keys that hold nothing."""
    file: str = ""
    """What becomes of the settings file."""


@dataclass(frozen=True, slots=True)
class SettingLine:
    """A setting as it is in force."""

    path: str
    value: str
    """As it is typed; empty: unset."""
    origin: str
    """A flag, a variable, the file's name, ``database`` or ``default``."""
    comment: str
    fixed: str = ""
    """Why it cannot be changed from here now; empty where it can."""
    later: bool = False
    """A change counts from the next start on."""
    written: str | None = None
    """What its origin says by now, where that is not in force yet; reading the settings again takes it."""


@dataclass(frozen=True, slots=True)
class SettingsInForce:
    """All settings, in the order of the file."""

    lines: tuple[SettingLine, ...]
    file: str
    seen: str
    """Stands for what the file said."""
    problem: str = ""
    """What keeps it from being the whole picture: a file that is wrong by now, a database that is away."""
