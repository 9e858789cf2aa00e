"""The pointer: which side serves, who follows it, and its moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from embedtui.formatting import counted
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
    by_view: bool = False
    """It finds the new side by the routed view alone."""
    latency_old_ms: tuple[float, float] | None = None
    """(p50, p95) of its own last searches; None where it made none of late, or does not time them."""
    latency_new_ms: tuple[float, float] | None = None


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
    """What a rollback would find on the old side."""

    fresh: bool | None = None
    """Every row has the old model's vector of its content. None: unknown (no change capture)."""
    stale: int = 0
    """Rows whose old vector is of earlier content."""
    why: str = ""
    bridged: int = 0
    """Rows whose old vector a bridge made of the new one."""
    missing: int = 0
    """Rows with content and no old vector."""
    rows: int | None = None
    """Rows with content, as last counted."""

    @property
    def found(self) -> str:
        """The rows that are not fresh, in words; empty where none are."""
        said = self.counts
        return f"bridged: {said}" if self.bridged and not self.stale else said

    @property
    def sentence(self) -> str:
        """As ``found``, as a sentence; empty where there is nothing to say."""
        return f"The old side has {self.counts}." if self.counts else ""

    @property
    def counts(self) -> str:
        """The rows that are not fresh, counted."""
        total = "" if self.rows is None else f" of {max(self.rows, self.bridged):,}"
        parts = [
            f"{counted(self.stale, 'row', 'rows')} stale" if self.stale else "",
            f"{self.bridged:,}{total} rows by the bridge" if self.bridged else "",
            f"{counted(self.missing, 'row', 'rows')} without an old vector" if self.missing else "",
        ]
        return ", ".join(part for part in parts if part)


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
