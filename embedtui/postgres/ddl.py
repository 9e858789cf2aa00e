"""DDL that never blocks production: waits for long transactions first, then takes its lock in short, bounded tries."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embedtui.chance import chance
from embedtui.errors import Interrupted, LockTimeout
from embedtui.formatting import duration
from embedtui.model import Hold, TableName
from embedtui.model.snapshot import CHANGE
from embedtui.postgres.connect import APPLICATION, Connection
from embedtui.postgres.locks import awaiting, read_awaited
from embedtui.redaction import redact

FIRST_TRY = 0.2
"""Seconds of lock_timeout at the first try."""
LONGEST = 2.0
"""Seconds a whole try may take, waiting and working: the most that a statement queued behind ours can be held up."""
SECOND_LOCK = 0.5
"""Seconds of lock_timeout once a lock is held. Below PostgreSQL's deadlock_timeout of 1 s, so that a deadlock with
the application ends with our statement, never with the application's."""
POLL = 0.2

# Comments and quoted names may hold a quote, with which a literal would seem to begin; a nested comment takes the rest.
_LITERALS = re.compile(
    r"""(?P<name>"[^"]*"?) | (?P<note>--[^\n]* | /\*(?:(?!/\*).)*?\*/ | /\*.*)
    | (?<![\w$])\$((?:[^\W\d]\w*)?)\$.*?(?:\$\3\$|\Z)
    | (?P<escapes>(?<![\w$])[eE])'(?:[^'\\]|''|\\.)*(?:'|\Z|\\\Z) | '(?:[^']|'')*'? | (?<![\w$.])\.?\d[\w.]*""",
    re.DOTALL | re.VERBOSE,
)

_NOT_THIS_TIME = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
)

Statement = sql.SQL | sql.Composed

_HOLDERS = """
WITH RECURSIVE wanted AS (
    SELECT to_regclass(name)::oid AS oid FROM unnest(%(names)s::text[]) AS name
    UNION
    SELECT edge.target
    FROM wanted JOIN (
        SELECT indexrelid AS source, indrelid AS target FROM pg_catalog.pg_index
        UNION ALL
        SELECT inhparent, inhrelid FROM pg_catalog.pg_inherits
    ) AS edge ON edge.source = wanted.oid
)
SELECT DISTINCT ON (lock.virtualtransaction)
       lock.virtualtransaction,
       coalesce(lock.pid, 0),
       coalesce(activity.application_name, ''),
       extract(epoch FROM clock_timestamp() - coalesce(prepared.prepared, activity.xact_start))::float8,
       coalesce(activity.state, ''),
       coalesce(activity.query, ''),
       coalesce(prepared.gid, '')
FROM pg_catalog.pg_locks AS lock
JOIN wanted ON wanted.oid = lock.relation
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = lock.pid
LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared ON lock.virtualtransaction = '-1/' || prepared.transaction
WHERE lock.locktype = 'relation' AND lock.granted
  AND lock.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND lock.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND (%(reads)s OR lock.mode NOT IN ('AccessShareLock', 'RowShareLock'))
  -- a plain autovacuum makes way by itself for a lock request of more than deadlock_timeout
  AND NOT (activity.backend_type IS NOT DISTINCT FROM 'autovacuum worker'
           AND activity.query NOT LIKE '%%to prevent wraparound%%')
ORDER BY lock.virtualtransaction
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A session or prepared transaction that something waits for."""

    pid: int
    """0 for a prepared transaction."""
    application: str = ""
    age_seconds: float | None = None
    """Age of its transaction; None where the role may not see it (pg_read_all_stats)."""
    state: str = ""
    query: str = ""
    """Head of its statement, literals taken out."""
    gid: str = ""
    """Name of a prepared transaction."""
    transaction: str = ""
    """Virtual transaction id: tells two transactions of one session apart."""

    def __str__(self) -> str:
        """Who it is, for how long, and what it does: one line for an operator."""
        age = f", open for {duration(self.age_seconds, exact=True)}" if self.age_seconds is not None else ""
        does = f"{', ' if self._rests else ': '}{self.does}" if self.does else ""
        return f"{self.who}{age}{does}"

    @property
    def who(self) -> str:
        """Its name."""
        if self.gid:
            return f"prepared transaction {self.gid}"
        return f"pid {self.pid}" + (f" ({self.application})" if self.application else "")

    @property
    def does(self) -> str:
        """Its state, where that is not to be at work, and its statement."""
        return ": ".join(part for part in (self._rests, self.query) if part)

    @property
    def _rests(self) -> str:
        return self.state if self.state != "active" else ""


def query_head(query: str, length: int = 80) -> str:
    """The first characters of somebody's statement on one line, without literals and comments: they may hold secrets.

    Empty where this role may not see it.
    """
    if query == "<insufficient privilege>":
        return ""
    return redact(" ".join(_LITERALS.sub(_shown, query).split()))[:length]


def _shown(found: re.Match[str]) -> str:
    if found["note"]:
        return " "
    return found["name"] or (found["escapes"] or "") + "?"


def lock_holders(
    conn: Connection, relations: Sequence[sql.Identifier], *, blocks_reads: bool = True
) -> tuple[Session, ...]:
    """Who holds locks on the relations (their partitions, the tables of indexes) that DDL would have to wait for.

    ``blocks_reads`` False leaves out readers: for statements that take no more than SHARE ROW EXCLUSIVE.
    """
    rows = conn.execute(
        _HOLDERS, {"names": [relation.as_string(conn) for relation in relations], "reads": blocks_reads}
    ).fetchall()
    return tuple(
        Session(pid, redact(application), age, state, query_head(query), redact(gid), transaction)
        for transaction, pid, application, age, state, query, gid in rows
    )


def session(conn: Connection, pid: int) -> Session:
    """Name one backend, as far as the role may see it."""
    row = conn.execute(
        """SELECT coalesce(application_name, ''), extract(epoch FROM clock_timestamp() - xact_start)::float8,
                  coalesce(state, ''), coalesce(query, '')
           FROM pg_catalog.pg_stat_activity WHERE pid = %s""",
        (pid,),
    ).fetchone()
    if row is None:
        return Session(pid)
    application, age, state, query = row
    return Session(pid, redact(application), age, state, query_head(query))


def read_waits(conn: Connection, migration_id: int, table_oid: int) -> tuple[Hold, ...]:
    """Who waits for whom, so that a change of the migration's can be made: one hold, or none."""
    waits = [
        f"{act.removeprefix(f'{APPLICATION}/')} waits for {_names([session(conn, pid) for pid in pids])}"
        for act, pids in read_awaited(conn, migration_id, table_oid)
    ]
    return (Hold(CHANGE, "; ".join(waits)),) if waits else ()


def run_ddl(
    conn: Connection,
    statements: Sequence[Statement],
    *,
    migration: int | None,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None = None,
    patience: float = 300.0,
    relations: Sequence[TableName] | None = None,
    blocks_reads: bool = True,
    check: Callable[[], None] | None = None,
) -> None:
    """Run all statements in one short transaction, without ever holding production up for more than ``LONGEST``.

    Poll first, with no transaction open, until no transaction that outlives two polls holds a conflicting lock on
    the relations; then try with a lock_timeout growing from ``FIRST_TRY`` to ``LONGEST``, with jittered pauses.

    Args:
        conn: in autocommit, with no transaction open.
        statements: run in this order.
        migration: id of the one that this is for: meanwhile every process's snapshot names whom it waits for.
        stop: ends the waiting.
        on_wait: called when those waited for change, with one line that names them.
        patience: seconds.
        relations: what the locks are on; None: those that the statements name.
        blocks_reads: as for :func:`lock_holders`.
        check: called at every poll, with no transaction open; what it raises ends the waiting.

    Raises:
        LockTimeout: patience ended; names who holds the lock. Nothing has been done, as for all of these.
        Interrupted: ``stop`` was set.
        psycopg.Error: a statement is wrong.
    """
    if not conn.autocommit or conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        raise ValueError("run_ddl needs a connection in autocommit with no transaction open")
    named = [found for statement in statements for found in _identifiers(statement)]
    if relations is not None:
        named = [sql.Identifier(table.schema, table.name) for table in relations]
    deadline, wait = time.monotonic() + patience, FIRST_TRY
    with awaiting(conn, migration) as await_:
        while True:
            _wait_for_long_transactions(
                conn, named, blocks_reads, stop, on_wait, await_, deadline=deadline, patience=patience, check=check
            )
            try:
                _attempt(conn, statements, wait)
            except _NOT_THIS_TIME as error:
                holders = lock_holders(conn, named, blocks_reads=blocks_reads)
                await_(holder.pid for holder in holders)
                if time.monotonic() >= deadline:
                    raise _gave_up(patience, holders, "Try again in a quieter moment") from error
                if on_wait:
                    on_wait(f"lock not granted within {wait:.1f} s" + (f": {_names(holders)}" if holders else ""))
                # those that queued behind us get at least as long to catch up as we held them up
                if stop.wait(wait * chance.uniform(1.0, 2.0)):
                    raise Interrupted("Stopped while waiting for a lock; nothing was changed.") from None
                wait = min(LONGEST, wait * 1.6)
            else:
                return


def _gave_up(patience: float, holders: Sequence[Session], hint: str) -> LockTimeout:
    why = f"the lock is held by {_names(holders)}" if holders else "the lock was always taken"
    return LockTimeout(f"Gave up after {duration(patience, exact=True)}: {why}.", hint=f"{hint}; nothing was changed.")


@contextmanager
def cancelled_by(
    conn: Connection, stop: threading.Event, on_tick: Callable[[], None] | None = None, *, every: float = 0.5
) -> Iterator[None]:
    """Cancel the long statement that ``conn`` runs inside of this block once ``stop`` is set.

    ``on_tick`` is called every so many seconds from a thread of its own; a psycopg error in it is dropped.

    Raises:
        Interrupted: the statement was cancelled so, or ``stop`` was set before it began.
    """
    if stop.is_set():
        raise Interrupted("Stopped; a rerun goes on from here.")
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(every):
            try:
                if stop.is_set():
                    # again and again: a cancel that arrives between two statements is lost
                    conn.cancel_safe(timeout=5)
                elif on_tick is not None:
                    on_tick()
            except psycopg.Error:
                # only the view is lost; the statement itself tells if its own connection is
                pass

    thread = threading.Thread(target=look, name="embedtui-watch", daemon=True)
    thread.start()
    try:
        yield
    except psycopg.errors.QueryCanceled:
        if stop.is_set():
            raise Interrupted("Stopped; a rerun goes on from here.") from None
        raise
    finally:
        ended.set()
        thread.join()


def _attempt(conn: Connection, statements: Sequence[Statement], wait: float) -> None:
    """One try: the whole transaction, waits and work together, ends within ``LONGEST`` seconds."""
    began = time.monotonic()
    with conn.transaction():
        # a slow synchronous standby would have us keep the lock until it answers
        conn.execute("SET LOCAL synchronous_commit = local")
        for position, statement in enumerate(statements):
            left = max(0.001, LONGEST - (time.monotonic() - began))
            limit = min(left, wait if position == 0 else min(wait, SECOND_LOCK))
            conn.execute(
                "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
                (str(max(1, int(limit * 1000))), str(max(1, int(left * 1000)))),
            )
            conn.execute(statement, prepare=False)


def _wait_for_long_transactions(
    conn: Connection,
    relations: Sequence[sql.Identifier],
    blocks_reads: bool,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None,
    await_: Callable[[Iterable[int]], None],
    *,
    deadline: float,
    patience: float,
    check: Callable[[], None] | None,
) -> None:
    """Return once no transaction seen in two polls running holds a lock; LockTimeout where the deadline passes.

    Told by the virtual transaction id, since the age of others' transactions is hidden from an unprivileged role.
    """
    before: set[str] = set()
    told: set[str] = set()
    while True:
        if stop.is_set():
            raise Interrupted("Stopped while waiting for a lock; nothing was changed.")
        if check is not None:
            check()
        holders = lock_holders(conn, relations, blocks_reads=blocks_reads)
        present = {holder.transaction for holder in holders}
        long = tuple(holder for holder in holders if holder.transaction in before)
        await_(holder.pid for holder in long)
        if not present or (before and not long):
            return
        if long and time.monotonic() >= deadline:
            raise _gave_up(patience, long, "End that transaction, or try again later")
        if long and on_wait is not None and {holder.transaction for holder in long} != told:
            told = {holder.transaction for holder in long}
            on_wait(f"waiting for {_names(long)}")
        before = present
        stop.wait(POLL)


def _names(holders: Sequence[Session], most: int = 3) -> str:
    shown = "; ".join(str(holder) for holder in holders[:most])
    return shown + (f"; and {len(holders) - most} more" if len(holders) > most else "")


def _identifiers(statement: sql.Composable) -> Iterator[sql.Identifier]:
    """The identifiers a statement is composed of; those that are no relation's name resolve to nothing."""
    if isinstance(statement, sql.Identifier):
        yield statement
    elif isinstance(statement, sql.Composed):
        for part in statement:
            yield from _identifiers(part)
