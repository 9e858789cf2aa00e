"""What is queued is embedded before the old side goes: change capture ends, and then the queue can only shrink.

Under writes a queue is never empty. So capture is taken off first, and put back wherever the cleanup ends without its
drop; what was written in between is then found by a scan. Where the process is killed, a worker puts it back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import psycopg

from embedtui.engine.cleanup.steps import TOLD, present, require_held, unbounded
from embedtui.errors import EmbedtuiError, Interrupted, LockTimeout, Remedy
from embedtui.formatting import counted
from embedtui.model import Key, Migration, Phase
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement, cancelled_by, run_ddl
from embedtui.postgres.joined import as_called_now
from embedtui.postgres.sides import capture
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state.audit import add_audit, audit_sql
from embedtui.postgres.state.capture_faults import request_scan_sql
from embedtui.postgres.state.ending import read_ending
from embedtui.postgres.state.faults import count_faulty
from embedtui.postgres.state.queue import count_entries, count_rows_waiting, queue_keys, waiting_keys
from embedtui.postgres.state.workers import count_live_workers

NEARLY = 200
"""Rows waiting with which capture ends: a worker embeds so many within seconds."""
CATCH_UP = 60.0
"""Seconds in which that may be reached."""
PATIENCE = 120.0
"""Seconds without a row less: one that was embedded often is put off for up to a minute."""
ALONE = 10.0
"""Seconds that nobody may be at work."""
HOT = 15.0
"""Seconds after which it is asked whether the application itself keeps what is left from being embedded."""
POLL = 0.2
SCAN_LIMIT = 5_000
LOOKED_AT = 10_000
"""Of so many changes at most it is looked up whether the new vector is current."""
ENDED = "ended by the cleanup: what the application writes from now on is its own"
BACK_PATIENCE = 10.0
"""Seconds in which capture is put back; a worker does it else."""


def end_capture_sql(conn: Connection, migration: Migration) -> list[Statement]:
    """One short transaction: capture goes, and asks for a scan in case it has to come back."""
    if not migration.stored.by_triggers:
        return []
    return [
        *capture.remove_sql(as_called_now(conn, migration)),
        request_scan_sql(migration.id, "a cleanup took change capture off"),
        audit_sql(migration.id, "capture", ENDED),
    ]


def count_for_old_only(conn: Connection, migration: Migration) -> int:
    """Changes that are queued for old vectors alone: the new ones are current. Of so many at most it is looked up."""
    # a key that reads as none, and what is renamed, are the sync's to find out
    with contextlib.suppress(psycopg.DataError, psycopg.ProgrammingError), conn.transaction():
        return make_placement(migration).count_current_queued(conn, LOOKED_AT)
    return 0


def settle(
    conn: Connection, migration: Migration, left: Mapping[str, int], stop: threading.Event, say: Callable[[str], None]
) -> dict[str, int]:
    """End change capture, and wait until what is queued is embedded; gives what the drop that follows may leave.

    That is this drop's alone: where capture comes back before another try, other rows wait then.

    What the application goes on changing for itself so fast that it cannot be embedded keeps the vector that it has.

    Args:
        conn: in autocommit.
        migration: being cleaned up.
        left: how many the operator lets be left, see :attr:`Ending.left`.
        stop: ends the waiting.
        say: gets a line with numbers every few seconds.

    Raises:
        LockTimeout: nobody embeds them, or they do not become fewer.
        Refused: a rollback took the cleanup back.
        Interrupted: ``stop`` was set.
    """
    before = capture.state(conn, migration)
    unseen = bool(before.faults) or not before.installed
    waiting = _Waiting(conn, migration, left, stop, say)
    if migration.stored.by_triggers:  # also where some of it is missing: the rest would go on
        waiting.until_nearly()
        run_ddl(
            conn,
            end_capture_sql(conn, migration),
            migration=migration.id,
            stop=stop,
            on_wait=say,
            relations=capture.tables(as_called_now(conn, migration)),
            check=lambda: require_held(conn, migration, "cleanup"),
        )
    gone = migration.text_table is not None and as_called_now(conn, migration).text_table is None
    if unseen and not gone:  # taken off by a cleanup that was killed, scanned for from the start, or failed
        _queue_unseen(conn, migration, stop, left["uncovered"])
    return {**left, "queued": max(left["queued"], waiting.until_done())}


def _queue_unseen(conn: Connection, migration: Migration, stop: threading.Event, accepted: int) -> None:
    """Queue rows without a current vector, unless they are no more than an operator has accepted to be without one."""
    while True:
        with cancelled_by(conn, stop), unbounded(conn):
            keys = make_placement(migration).sweep(conn, SCAN_LIMIT)
            if len(keys) <= accepted:
                return
            queue_keys(conn, migration.id, keys, "s")
        if len(keys) < SCAN_LIMIT:
            return


@contextlib.contextmanager
def put_back(conn: Connection, migration: Migration) -> Iterator[None]:
    """However it ends inside: where nothing was dropped, changes are captured as before."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(EmbedtuiError, psycopg.Error):
            _put_back(conn, migration)
        raise


def _put_back(conn: Connection, migration: Migration) -> None:
    migration = present(conn, migration)  # a fold may have made it another
    state = read_ending(conn, migration)
    if not migration.stored.by_triggers or state.has("contracted") or state.phase not in _CAPTURED:
        return
    if capture.state(conn, migration).installed:
        return
    watched = as_called_now(conn, migration)
    run_ddl(
        conn,
        capture.install_sql(watched, capture.attaching_roles(conn, watched)),
        migration=migration.id,
        stop=threading.Event(),
        relations=capture.tables(watched),
        patience=BACK_PATIENCE,
    )
    add_audit(conn, migration.id, "capture", "put back: the cleanup did not end")


_CAPTURED = (Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)


@dataclass
class _Waiting:
    """Waits for the queue."""

    conn: Connection
    migration: Migration
    left: Mapping[str, int]
    stop: threading.Event
    say: Callable[[str], None]
    _told: float = field(default=0.0, init=False)
    _seen: tuple[float, int] | None = field(default=None, init=False)
    """When a line was said, and the rows waiting then."""

    def until_nearly(self) -> None:
        """Until so few wait that they take no time; a key put off, or a busy table, is not waited for longer."""
        deadline = time.monotonic() + CATCH_UP
        while time.monotonic() < deadline and count_live_workers(self.conn, self.migration.id):
            rows = count_rows_waiting(self.conn, self.migration.id)
            if rows <= NEARLY:
                return
            self._wait(rows)

    def until_done(self) -> int:
        """Until no more need a new vector than may be left; how many entries remain, the old side's with them."""
        began = got_on = worked = time.monotonic()
        least: int | None = None
        first = self._contents()
        while True:
            entries, faulty = count_entries(self.conn, self.migration.id), self._faulty()
            queued = entries - count_for_old_only(self.conn, self.migration) if entries else 0
            if queued <= self.left["queued"] and faulty <= self.left["faulty"]:
                return entries
            now = time.monotonic()
            if least is None or queued < least:
                least, got_on = queued, now
            worked = now if count_live_workers(self.conn, self.migration.id) else worked
            if queued and now - began > HOT and now - got_on > HOT / 2 and (handed_on := self._hand_on(first)):
                return handed_on
            if now - worked > ALONE or now - got_on > PATIENCE or not queued:
                raise self._gave_up(queued, faulty)
            self._wait(count_rows_waiting(self.conn, self.migration.id))

    def _faulty(self) -> int:
        return count_faulty(self.conn, self.migration.id)

    def _gave_up(self, queued: int, faulty: int) -> LockTimeout:
        if not queued:
            rows = counted(faulty - self.left["faulty"], "row was", "rows were")
            return LockTimeout(
                f"{rows} rejected meanwhile and would have no vector; the old side was not dropped.",
                hint="`embedtui faults` lists them: retry, shorten or skip them, and clean up again.",
                remedies=(Remedy.CLEANUP,),
            )
        return LockTimeout(
            f"Changes kept waiting to be synced ({queued:,}); the old side was not dropped.",
            hint="Let a worker catch up (`embedtui faults` lists what was rejected), and clean up again.",
            remedies=(Remedy.FOLLOW, Remedy.CLEANUP),
        )

    def _wait(self, rows: int) -> None:
        require_held(self.conn, self.migration, "cleanup")
        now = time.monotonic()
        if self._seen is None or (now - self._seen[0] >= TOLD and rows != self._seen[1]):
            pace = ""
            if self._seen is not None and rows < self._seen[1]:
                pace = f", {(self._seen[1] - rows) / (now - self._seen[0]):.1f} fewer a second"
            self.say(f"{counted(rows, 'change waits for its vector', 'changes wait for their vectors')}{pace}")
            self._seen = (now, rows)
        if self.stop.wait(POLL):
            raise Interrupted("Stopped before the old side was dropped.", hint="Run it again.")

    # ------------------------------------------------------------------------------------------- what never holds still

    def _contents(self) -> dict[Key, int]:
        """Fingerprint of each waiting row that has a new vector, as of now."""
        keys = list(waiting_keys(self.conn, self.migration.id))[:SCAN_LIMIT]
        # a key that reads as none, and texts that are gone, are the sync's to find out
        with contextlib.suppress(psycopg.DataError, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            rows = make_placement(self.migration).read_keys(self.conn, keys) if keys else []
            return {row.asked: row.row.source for row in rows if row.new_present}
        return {}

    def _hand_on(self, first: Mapping[Key, int]) -> int:
        """Entries of what waits, where all of it has a vector and was changed since capture ended; else 0.

        It is the application's by now.
        """
        with self.conn.transaction():
            now, keys = self._contents(), waiting_keys(self.conn, self.migration.id)
            if not keys or len(keys) < count_rows_waiting(self.conn, self.migration.id):
                return 0  # a text of other rows is still to be looked at
            if any(key not in now or first.get(key, now[key]) == now[key] for key in keys):
                return 0
            rows = counted(len(keys), "row that the application keeps", "rows that the application keeps")
            self.say(f"{rows} changing keep the vector of what they said before")
            add_audit(self.conn, self.migration.id, "cleanup", f"{rows} changing: the vector is of earlier content")
            return count_entries(self.conn, self.migration.id)
