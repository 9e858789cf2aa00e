"""What production suffers from, measured about once a second: named reasons that hold the backfill until they pass."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from embedtui.config import ThrottleSettings
from embedtui.errors import SettingsError
from embedtui.formatting import duration, percent
from embedtui.model import Hold, Migration
from embedtui.postgres.connect import Connection, is_ours, lost
from embedtui.postgres.ddl import Session, query_head
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side
from embedtui.redaction import redact

NAMES = ("replica_lag", "probe_latency", "lock_waits", "long_transactions", "autovacuum", "wal_rate")
"""Every reason that :meth:`Throttle.check` can name."""

RELEASE_SHARE = 0.8
"""A hold ends only below this share of its limit …"""
RELEASE_CHECKS = 3
"""… in so many checks running, so that it does not flap."""
BASELINE_PROBES = 5
"""Probes whose median is the usual latency: taken at the first check, before this process puts any load on."""
PROBES = 3
"""Probes whose median is the present latency: a single slow one is no reason."""
PROBE_FLOOR = 0.005
"""Seconds; where the probe is usually faster, multiples of its latency are noise."""
PROBE_TIMEOUT = 5.0
WAL_WINDOW = 5.0
"""Seconds over which the WAL rate is averaged."""
LAG_WINDOW = 900.0
"""Seconds for which positions of the WAL are remembered, to tell a replica's lag by our own clock."""

UNKNOWN_SECONDS = 60.0
"""After so long a measure that could not be had is asked for again: rights and versions change."""

_MEGABYTE = 2**20

# The view's own replay_lag freezes while a standby does not replay at all, so it is a lower bound only.
_REPLICAS = """
SELECT coalesce(nullif(application_name, ''), 'standby') || coalesce(' at ' || host(client_addr), ''),
       pg_catalog.pg_wal_lsn_diff(replay_lsn, '0/0')::int8,
       coalesce(extract(epoch FROM replay_lag), 0)::float8
FROM pg_catalog.pg_stat_replication AS r WHERE replay_lsn IS NOT NULL
  -- a consumer of changes acknowledges what concerns it, and of another database's tables that is never ours
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS s
                  WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
"""

_LOCK_WAITS = f"""
SELECT w.pid, coalesce(w.application_name, ''), extract(epoch FROM clock_timestamp() - w.xact_start)::float8,
       coalesce(w.query, '')
FROM (SELECT DISTINCT pid FROM pg_catalog.pg_locks WHERE NOT granted AND pid IS NOT NULL) AS l
JOIN pg_catalog.pg_stat_activity AS w ON w.pid = l.pid
WHERE w.datname = current_database() AND NOT {is_ours("w")}
  AND EXISTS (SELECT FROM unnest(pg_catalog.pg_blocking_pids(w.pid)) AS b (pid)
              JOIN pg_catalog.pg_stat_activity AS o ON o.pid = b.pid WHERE {is_ours("o")})
ORDER BY w.pid
"""

# VACUUM's own snapshot holds nothing back. A slot's catalog_xmin holds back catalogs only, not the user's tables.
_HORIZON = f"""
SELECT 'session', pid, coalesce(application_name, ''), coalesce(state, ''), coalesce(query, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::float8,
       greatest(age(backend_xmin), age(backend_xid)), coalesce(backend_xid::text, '') || '/' || backend_xmin::text
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND pid <> pg_catalog.pg_backend_pid()
  AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
  AND NOT {is_ours()} AND backend_type <> 'autovacuum worker' AND query !~* '^\\s*vacuum'
UNION ALL
SELECT 'prepared', 0, '', '', gid, extract(epoch FROM clock_timestamp() - prepared)::float8, age(transaction), ''
FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()
UNION ALL
SELECT 'slot', 0, slot_name::text, '', '', NULL, age(xmin), xmin::text
FROM pg_catalog.pg_replication_slots WHERE xmin IS NOT NULL
UNION ALL
SELECT 'standby', r.pid, coalesce(r.application_name, ''), '', '', NULL, age(r.backend_xmin), r.backend_xmin::text
FROM pg_catalog.pg_stat_replication AS r WHERE r.backend_xmin IS NOT NULL
ORDER BY 7 DESC
"""

_VACUUM = """
WITH RECURSIVE tree AS (
    SELECT to_regclass(%s)::oid AS oid
    UNION
    SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits AS i ON i.inhparent = tree.oid
)
SELECT p.relid::regclass::text, coalesce(p.phase, ''), coalesce(p.heap_blks_scanned, 0), coalesce(p.heap_blks_total, 0)
FROM pg_catalog.pg_stat_progress_vacuum AS p
WHERE p.datname = current_database()
  AND p.relid IN (SELECT oid FROM tree
                  UNION SELECT c.reltoastrelid FROM tree JOIN pg_catalog.pg_class AS c ON c.oid = tree.oid)
LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class HorizonHolder:
    """What keeps dead row versions from being removed, and so spoils the HOT share."""

    name: str
    """Reads as part of a sentence."""
    seconds: float | None
    """How long it has been held; None where the server does not tell."""
    transactions: int
    """Age of its snapshot in transactions."""
    key: str
    """Changes once it moves on."""


@dataclass(frozen=True, slots=True)
class _Reading:
    name: str
    value: float
    limit: float
    detail: str


def horizon_holders(conn: Connection) -> tuple[HorizonHolder, ...]:
    """Sessions, prepared transactions, slots and standbys that hold the xmin horizon, oldest first, ours left out."""
    found = []
    for kind, pid, name, state, text, seconds, transactions, moves in conn.execute(_HORIZON).fetchall():
        if kind == "session":
            shown = str(Session(pid, redact(name), seconds, state, query_head(text)))
        elif kind == "prepared":
            shown = str(Session(0, age_seconds=seconds, gid=redact(text)))
        elif kind == "slot":
            shown = f"replication slot {redact(name)}"
        else:
            shown = f"standby {redact(name)} (hot_standby_feedback)"
        found.append(HorizonHolder(shown, seconds, transactions, f"{kind}/{pid}/{name}/{text}/{moves}"))
    return tuple(found)


def xmin_holder(conn: Connection, *, at_least: float = 1.0) -> str:
    """Name what holds the xmin horizon furthest back, to explain a poor HOT share; empty where nothing does.

    Args:
        conn: any connection.
        at_least: seconds below which a transaction is the ordinary business of production.
    """
    return next(
        (holder.name for holder in horizon_holders(conn) if holder.seconds is None or holder.seconds >= at_least), ""
    )


class Throttle:
    """Measurements on one monitoring connection, with what they need from check to check. For one thread.

    ``clock`` counts seconds and is for tests.
    """

    def __init__(
        self, settings: ThrottleSettings, migration: Migration, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._migration = migration
        self._clock = clock
        self._wal: deque[tuple[float, int]] = deque()
        self._first_seen: dict[str, float] = {}
        self._usual: float | None = None
        self._probes: deque[float] = deque(maxlen=PROBES)
        self._held: dict[str, datetime] = {}
        self._easy: dict[str, int] = {}
        self._unknown: dict[str, str] = {}
        self._again_at: dict[str, float] = {}
        self._news: list[str] = []

    def adopt(self, settings: ThrottleSettings) -> None:
        """Go by other limits from now on: what holds can be lifted while it holds."""
        self._settings = settings
        self._again_at.clear()
        self._held.clear()  # what is still over its limit is held anew by the next check

    def news(self) -> list[str]:
        """What has become unknown since the last call, each once."""
        said, self._news = self._news, []
        return said

    @classmethod
    def of(cls, migration: Migration) -> Throttle:
        """The throttle as the migration's stored settings want it, the same on every host."""
        return cls(migration.stored.throttle, migration)

    def check(self, conn: Connection) -> tuple[Hold, ...]:
        """What holds the backfill now; empty where nothing does. Takes a few catalog reads and one probe.

        A measure that is not to be had here is unknown, holds nothing, and is asked for again after UNKNOWN_SECONDS.

        Raises:
            psycopg.Error: the connection failed.
        """
        settings = self._settings
        lag, wal = settings.max_replica_lag_seconds, settings.max_wal_mb_per_second
        probe, waits, long = settings.probe_query, settings.max_lock_waits, settings.long_transaction_seconds
        readings: list[_Reading] = []
        if lag is not None:
            readings += self._measured("replica_lag", conn, lambda: self._replica_lag(conn, lag))
        if wal is not None:
            readings += self._measured("wal_rate", conn, lambda: self._wal_rate(conn, wal))
        if probe is not None:
            factor = settings.probe_latency_factor
            readings += self._measured("probe_latency", conn, lambda: self._probe_latency(conn, probe, factor))
        if waits is not None:
            readings += self._measured("lock_waits", conn, lambda: _lock_waits(conn, waits))
        if long is not None:
            readings += self._measured("long_transactions", conn, lambda: self._long_transactions(conn, long))
        if settings.hold_for_autovacuum:
            readings += self._measured("autovacuum", conn, lambda: self._autovacuum(conn))
        return self._decide(readings)

    def _measured(self, name: str, conn: Connection, measure: Callable[[], Sequence[_Reading]]) -> Sequence[_Reading]:
        if self._clock() < self._again_at.get(name, 0.0):
            return ()
        try:
            found = measure()
        except (psycopg.Error, SettingsError) as error:
            if conn.closed or lost(error):
                raise
            why = error.message if isinstance(error, SettingsError) else redact(error.diag.message_primary or "")
            self._again_at[name] = self._clock() + UNKNOWN_SECONDS
            if self._unknown.get(name) != why:
                self._unknown[name] = why
                self._news.append(f"Not measured here, so nothing is held for it: {name.replace('_', ' ')}: {why}")
            return ()
        self._unknown.pop(name, None)
        return found

    def _decide(self, readings: list[_Reading]) -> tuple[Hold, ...]:
        """Over the limit holds at once; a hold ends after ``RELEASE_CHECKS`` checks below ``RELEASE_SHARE`` of it."""
        worst: dict[str, _Reading] = {}
        for reading in readings:
            if reading.name not in worst or reading.value > worst[reading.name].value:
                worst[reading.name] = reading
        holds = []
        for name in NAMES:
            found = worst.get(name)
            if found is not None and found.value > found.limit:
                self._held.setdefault(name, datetime.now(UTC))
                self._easy[name] = 0
            elif name in self._held:
                eased = found is None or found.value <= found.limit * RELEASE_SHARE
                self._easy[name] = self._easy[name] + 1 if eased else 0
                if self._easy[name] >= RELEASE_CHECKS:
                    del self._held[name]
            if name in self._held:
                detail = found.detail if found is not None else "over; a moment's patience before going on"
                holds.append(Hold(name, detail, self._held[name]))
        return tuple(holds)

    # --------------------------------------------------------------------------------------------------- replicas

    def _note_wal(self, conn: Connection) -> None:
        row = conn.execute("SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::int8").fetchone()
        assert row is not None
        now = self._clock()
        self._wal.append((now, row[0]))
        while self._wal[0][0] < now - LAG_WINDOW:
            self._wal.popleft()

    def _replica_lag(self, conn: Connection, limit: float) -> list[_Reading]:
        self._note_wal(conn)
        now, position = self._wal[-1]
        readings = []
        for name, replayed, told in conn.execute(_REPLICAS).fetchall():
            # since when there has been something that it has not replayed
            since = next((at for at, written in self._wal if written > replayed), now)
            lag = max(now - since, told if replayed < position else 0.0)
            behind = max(0, position - replayed) / _MEGABYTE
            readings.append(
                _Reading(
                    "replica_lag",
                    lag,
                    limit,
                    f"{redact(name)} is {duration(lag, exact=True)} ({behind:.1f} MB) behind,"
                    f" limit {duration(limit, exact=True)}",
                )
            )
        return readings

    def _wal_rate(self, conn: Connection, limit: float) -> list[_Reading]:
        self._note_wal(conn)
        now, position = self._wal[-1]
        at, before = next((at, written) for at, written in self._wal if at >= now - WAL_WINDOW)
        rate = (position - before) / _MEGABYTE / (now - at) if now > at else 0.0
        return [_Reading("wal_rate", rate, limit, f"{rate:.1f} MB/s of WAL are written, limit {limit:g} MB/s")]

    # ------------------------------------------------------------------------------------------------------ probe

    def _probe_latency(self, conn: Connection, query: str, factor: float) -> list[_Reading]:
        if self._usual is None:
            self._usual = max(PROBE_FLOOR, statistics.median(self._probe(conn, query) for _ in range(BASELINE_PROBES)))
            self._probes.extend([self._usual] * (PROBES - 1))
        self._probes.append(self._probe(conn, query))
        present = statistics.median(self._probes)
        limit = self._usual * factor
        detail = (
            f"the probe query takes {present * 1000:.0f} ms, usually {self._usual * 1000:.0f} ms,"
            f" limit {limit * 1000:.0f} ms"
        )
        return [_Reading("probe_latency", present, limit, detail)]

    def _probe(self, conn: Connection, query: str) -> float:
        """Seconds that the query takes, read-only; ``PROBE_TIMEOUT`` where it was cut there."""
        began = time.perf_counter()
        try:
            with conn.transaction():
                conn.execute("SET TRANSACTION READ ONLY")
                conn.execute("SELECT set_config('statement_timeout', %s, true)", (f"{PROBE_TIMEOUT}s",))
                began = time.perf_counter()
                conn.execute(query.encode()).fetchall()
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
            return PROBE_TIMEOUT
        except (psycopg.ProgrammingError, psycopg.errors.ReadOnlySqlTransaction) as error:
            raise SettingsError(
                f"throttle.probe_query fails: {redact(error.diag.message_primary or str(error))}.",
                hint="Give a SELECT that production runs.",
            ) from None
        return time.perf_counter() - began

    # --------------------------------------------------------------------------------------------- the table itself

    def _long_transactions(self, conn: Connection, limit: float) -> list[_Reading]:
        holders = horizon_holders(conn)
        now = self._clock()
        self._first_seen = {holder.key: self._first_seen.get(holder.key, now) for holder in holders}
        readings = []
        for holder in holders:
            seconds = holder.seconds if holder.seconds is not None else now - self._first_seen[holder.key]
            readings.append(
                _Reading(
                    "long_transactions",
                    seconds,
                    limit,
                    f"{holder.name} has held back clean-up for {duration(seconds, exact=True)},"
                    f" limit {duration(limit, exact=True)}",
                )
            )
        return readings

    def _autovacuum(self, conn: Connection) -> list[_Reading]:
        table = relation(new_side(self._migration).table).as_string(conn)
        row = conn.execute(_VACUUM, (table,)).fetchone()
        if row is None:
            return []
        name, phase, scanned, total = row
        share = f", {percent(scanned / total)} scanned" if total else ""
        return [_Reading("autovacuum", 1, 0, f"vacuum is at work on {redact(name)}: {phase}{share}")]


def _lock_waits(conn: Connection, limit: int) -> list[_Reading]:
    waiting = [
        Session(pid, redact(application), seconds, query=query_head(query))
        for pid, application, seconds, query in conn.execute(_LOCK_WAITS).fetchall()
    ]
    if not waiting:
        return []
    many = f"{len(waiting)} statements of production wait" if len(waiting) > 1 else "a statement of production waits"
    return [_Reading("lock_waits", len(waiting), limit, f"{many} for our locks: {waiting[0]}")]
