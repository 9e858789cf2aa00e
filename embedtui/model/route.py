"""The pointer: which side serves, who follows it, and its moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from embedtui.model.bridge import BridgeStatus
from embedtui.model.words import Side


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """One Router heard from."""

    host: str
    pid: int
    application: str
    epoch: int
    searches_old: int
    searches_new: int
    seen_seconds: float
    """Seconds since it was heard from."""
    flip_ms: float | None = None
    """How long the last flip took to reach it."""


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """The pointer: which side serves."""

    active: Side = Side.OLD
    canary: int = 0
    """Percent of keys that read the new side while ``active`` is old (0..100)."""
    epoch: int = 0
    changed_at: datetime | None = None
    changed_by: str = ""
    listeners: tuple[ListenerStatus, ...] = ()
    pending: str = ""
    """A postponed cutover and what it waits for."""
    ending: str | None = None
    """``cleanup`` or ``abort``, from its first step until its drop."""
    bridging: bool = False
    """While the old side is active, it is searched by the new model's vectors, through a map."""
    bridge: int | None = None
    """Version of that map, or of the last one."""
    bridge_found: BridgeStatus | None = None
    """What was found of it when it was fitted."""

    @property
    def bridged(self) -> bool:
        """Whether searches go through the map now."""
        return self.bridging and self.active is Side.OLD


@dataclass(frozen=True, slots=True)
class RollbackStatus:
    """Whether a rollback would find the old side current."""

    fresh: bool | None = None
    """None: unknown."""
    stale: int = 0
    """Rows whose old vector is of earlier content, or waits to be made; those that are missing are not among them."""
    why: str = ""
    missing: int | None = None
    """Rows without an old vector; None: not counted."""
    unknown: int | None = None
    """Rows of whose old vector nobody knows whether it is of the present content; None: not counted."""
    rows: int | None = None
    """All rows of the side, with something to embed; None: not counted."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A move of the pointer."""

    active: Side
    canary: int
    epoch: int
    milliseconds: float
    changed: bool
    """False where the pointer was there already (a repeat is a no-op)."""
    left: str = ""
    """Applications that go by a search path, and have not followed."""
