"""Rows that the application keeps locked: sync leaves them alone until they are free, and says who has them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psycopg

from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.upkeep import Database
from embedtui.formatting import counted
from embedtui.model import Key
from embedtui.model.snapshot import LOCKED_ROWS
from embedtui.postgres.blocking import name_row_locker
from embedtui.postgres.connect import Connection, lost

TOLD_SECONDS = 3.0
"""Rows that are locked for so long are told of."""
LOOK_SECONDS = (1.0, 5.0)
"""Between two looks at whether they are free: the first, and where a look takes long, up to the second …"""
LOOK_SHARE = 20.0
"""… so many times what it took."""


class LockedRows:
    """Of one sync; used by its thread alone."""

    def __init__(self, job: Job, database: Database) -> None:
        self._job, self._database = job, database
        self._rows: set[Key] = set()
        self._since = self._look_at = 0.0

    def met(self, keys: Iterable[Key]) -> None:
        """These could not be written: they were locked, or changed meanwhile."""
        if not self._rows:
            self._since = time.monotonic()
        self._rows.update(keys)

    def still(self) -> set[Key]:
        """Those to leave alone now; embedded again they would be paid for, and could not be written."""
        began = time.monotonic()
        if self._rows and began >= self._look_at:
            said = self._database(self._look)
            least, most = LOOK_SECONDS
            self._look_at = time.monotonic() + min(most, max(least, LOOK_SHARE * (time.monotonic() - began)))
            if not said:
                self.forget()
            elif began - self._since >= TOLD_SECONDS:
                self._job.hold(LOCKED_ROWS, said)
        return self._rows

    def forget(self) -> None:
        """None is known to be locked."""
        self._rows = set()
        self._job.release(LOCKED_ROWS)

    def wait_to_send(self) -> None:
        """As the job's; while that lasts nobody looks whether they are still locked."""
        if self._job.held:
            self.forget()
        self._job.wait_to_send(self._job.stop)

    def _look(self, conn: Connection) -> str:
        """Keep those that are locked; who has them."""
        found = self._job.placement.locked(conn, list(self._rows))
        self._rows = set(found)
        if not found:
            return ""
        what = counted(len(found), "changed row", "changed rows")
        try:
            said = name_row_locker(conn, set(found.values()), what)
        except psycopg.Error as error:
            if lost(error):
                raise
            said = ""  # by a right that was taken from PUBLIC: nobody is named
        if said:
            return said
        why = "more than one transaction may have them" if any(found.values()) else "embedtui grants lets this role see"
        return f"{what} locked, not known by whom: {why}"
