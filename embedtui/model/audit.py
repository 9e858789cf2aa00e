"""Who did what: lines of the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the append-only audit log."""

    at: datetime
    who: str
    host: str
    act: str
    detail: str
    role: str = ""
    """The database role that wrote it, by the server's word; ``who``, ``host`` and ``pid`` are by the client's."""
    id: int = 0
    """Grows with every line."""
    pid: int | None = None
    """The process that wrote it; None: one that does not say."""
    own: bool = False
    """Written by this process, or for it."""
