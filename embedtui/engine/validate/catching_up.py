"""Waiting for the sync before rows are judged: an edit of a second ago is no fault while a worker embeds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from embedtui.errors import Interrupted
from embedtui.formatting import counted
from embedtui.model import Migration, VerifyReport
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.protocol import Placement
from embedtui.postgres.state.queue import count_rows_waiting, last_entry, waits
from embedtui.postgres.state.workers import live_workers

CATCH_UP_SECONDS = 10.0
"""Longest wait for what is queued as a look at the rows begins: some batches of the sync."""
LOOK_SECONDS = 0.25
LEFT_COUNTED = 10_000
"""Rows that stay are counted up to here; none may."""


@dataclass(frozen=True, slots=True)
class Caught:
    """Who embeds the changes, and whether those that waited at first are embedded."""

    worker: str = ""
    """A worker that is at work, ``host:pid``; empty where none is."""
    up: bool = False
    """Nothing waits but what came in since."""

    def what_stays(self, conn: Connection, placement: Placement, report: VerifyReport) -> VerifyReport:
        """The report without the rows that came in since; ``conn`` is in the transaction that counted them."""
        wrong = report.missing + report.stale
        if not (self.up and wrong):
            return report
        left = len(placement.sweep(conn, LEFT_COUNTED))
        if left:
            return report
        return replace(report, missing=0, stale=0, awaited=wrong)


NOT_WAITED = Caught()
"""Nobody looked for a worker: what waits counts as it is."""


def catch_up(
    conn: Connection, migration: Migration, stop: threading.Event | None, say: Callable[[str], None]
) -> Caught:
    """Wait until what is queued now is worked off, while a worker is alive; ``conn`` is in autocommit.

    Raises:
        Interrupted: ``stop`` was set.
    """
    stop = stop or threading.Event()
    last, end = last_entry(conn, migration.id), time.monotonic() + CATCH_UP_SECONDS
    said = False
    while workers := live_workers(conn, migration.id):
        worker = "{}:{}".format(*workers[0])
        if last is None or not waits(conn, migration.id, up_to=last):
            return Caught(worker, True)
        if time.monotonic() >= end:
            return Caught(worker)
        if not said:
            said = True
            rows = counted(count_rows_waiting(conn, migration.id), "change", "changes")
            say(f"Waiting up to {CATCH_UP_SECONDS:.0f} s: {worker} embeds {rows}.")
        if stop.wait(LOOK_SECONDS):
            raise Interrupted("Stopped while the changes were embedded.")
    return Caught()
