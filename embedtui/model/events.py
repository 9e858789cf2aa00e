"""What happened: events for whoever watches, and the audit log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from embedtui.model.faults import FaultClass
from embedtui.model.snapshot import Hold
from embedtui.model.words import Phase, Side


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; handed to a callback that must not block."""

    at: datetime
    text: str
    """One plain line for a log."""


@dataclass(frozen=True, slots=True)
class PhaseChanged(Event):
    """The migration entered another phase."""

    phase: Phase = Phase.PLAN


@dataclass(frozen=True, slots=True)
class Progressed(Event):
    """Work advanced; may be coalesced."""

    rows: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Held(Event):
    """The work is held, or no longer (``holds`` empty)."""

    holds: tuple[Hold, ...] = ()
    """All that hold it now."""
    names: tuple[str, ...] = ()
    """Those that this tells of: the one that began, or those that are over."""


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """Something failed that the operator has to know; never coalesced."""

    fault_class: FaultClass | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RouteFlipped(Event):
    """The pointer moved."""

    active: Side = Side.OLD
    canary: int = 0
    epoch: int = 0
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Noted(Event):
    """An act or fact worth a line in the log."""


EventSink = Callable[[Event], None]
"""Receives events from engine threads; must return at once and is never called under a lock."""
