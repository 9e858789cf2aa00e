"""What held the work up, as episodes: a line when it lasts and one when it is over; what flickers is one of them.

For the audit log and the log file, so that a night can be told the next morning. Of the provider's faults only the
codes are kept: a reply may quote a document.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from embedtui.formatting import duration
from embedtui.model import hold_word
from embedtui.redaction import redact

TOLD_SECONDS = 3.0
"""What lasts so long is told while it lasts."""
SETTLED_SECONDS = 30.0
"""What comes again within so long is the same episode; also how late its end is told …"""
OUTAGE_SECONDS = 5.0
"""… but what was away for as long as is told, and then there for so long, is away anew: another outage."""
OUTAGES = ("provider", "database")
ALWAYS = (*OUTAGES, "rate")
"""Told also where it was shorter; what our own pace or throttle does for a moment is no news."""
HELD, OVER = "held", "over"
"""Acts of the audit log."""

_log = logging.getLogger("embedtui")


@dataclass(slots=True)
class _Episode:
    began: float
    since: datetime
    why: str
    codes: Counter[str] = field(default_factory=Counter)
    times: int = 1
    ended: float | None = None
    until: datetime | None = None
    told: bool = False
    again: float = 0.0
    """When it came last."""
    held: bool = True
    """It lasts until it is ended; else it is but met, time after time."""
    lasted: float = 0.0
    """Seconds of the longest time that it was there without a break."""

    def end(self, now: float) -> None:
        self.ended, self.until, self.held = now, datetime.now(UTC), False
        self.lasted = max(self.lasted, now - self.again)

    def settled(self, name: str, now: float) -> bool:
        """Whether it is over, and what comes now would be another one."""
        outage = name in OUTAGES and self.lasted >= TOLD_SECONDS
        return self.ended is not None and now - self.ended >= (OUTAGE_SECONDS if outage else SETTLED_SECONDS)

    def said(self, now: float) -> str:
        end = f" to {self.until:%H:%M:%S}" if self.until is not None else ""
        often = ", ".join(f"{count:,} × {code}" for code, count in self.codes.most_common(5))
        often = often or (f"{self.times:,} times" if self.times > 1 else "")
        lasted = duration((now if self.ended is None else self.ended) - self.began)
        parts = (f"{lasted}, from {self.since:%Y-%m-%d %H:%M:%S}{end} UTC", often, self.why)
        return "; ".join(part for part in parts if part)


class Episodes:
    """Of one process; every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, _Episode] = {}
        self._over: list[tuple[str, _Episode]] = []
        """Those that the next one of their name has come after."""

    def begin(self, name: str, why: str, since: datetime | None = None) -> None:
        """The work is held for the named reason, since then or from now."""
        ago = (datetime.now(UTC) - since).total_seconds() if since is not None else 0.0
        with self._lock:
            new = self._begin(name, why, ago)
        if new and name == "database":  # the one that no audit log can have before it is over
            _log.warning("%s: %s: %s", HELD, hold_word(name), redact(why))

    def end(self, name: str) -> None:
        """It is held no longer."""
        with self._lock:
            if (found := self._open.get(name)) is not None and found.ended is None:
                found.end(self._clock())

    def pause(self) -> None:
        """Nothing is held for now: the settings are read anew, and what still lasts comes again."""
        with self._lock:
            for found in self._open.values():
                if found.ended is None:
                    found.end(self._clock())

    def met(self, name: str, code: str, ago: float = 0.0) -> None:
        """A fault, which may be one of many, of what began so many seconds ago."""
        with self._lock:
            found = self._open.get(name)
            held = found is not None and found.held
            self._begin(name, "", ago)
            self._open[name].codes[code] += 1
            if not held:
                self._open[name].end(self._clock())

    def due(self, *, leaving: bool = False) -> list[tuple[str, str, str]]:
        """(act, name, detail) of what is to be told now, each once; ``leaving``: all that is left to tell."""
        now = self._clock()
        lines, gone = [], []
        with self._lock:
            for name, found in (*self._over, *self._open.items()):
                lasted = (now if found.ended is None else found.ended) - found.began
                former = self._open.get(name) is not found
                if former or found.settled(name, now) or (leaving and found.ended is not None):
                    if not former:
                        gone.append(name)
                    if found.told or name in ALWAYS or lasted >= TOLD_SECONDS:
                        lines.append((OVER, name, found.said(now)))
                elif not found.told and lasted >= TOLD_SECONDS:
                    found.told = True
                    lines.append((HELD, name, found.said(now)))
                elif leaving and found.told:
                    lines.append((OVER, name, f"not over when the work stopped here; {found.said(now)}"))
            for name in self._open.copy() if leaving else gone:
                del self._open[name]
            self._over.clear()
        for act, name, detail in lines:
            _log.warning("%s: %s: %s", act, hold_word(name), redact(detail))
        return lines

    def _begin(self, name: str, why: str, ago: float = 0.0) -> bool:
        """Whether that is a new episode."""
        found, now = self._open.get(name), self._clock() - ago
        if found is not None and found.settled(name, now):
            self._over.append((name, found))
            found = None
        if found is None:
            self._open[name] = _Episode(now, datetime.now(UTC) - timedelta(seconds=ago), why, again=now)
            return True
        if found.ended is not None:
            found.times += 1
            found.again = now
        found.ended, found.until, found.held = None, None, True
        return False
