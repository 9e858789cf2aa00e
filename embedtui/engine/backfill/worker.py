"""One worker process's presence in the database: registration, heartbeat, leases, throttle, what operators want."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType

import psycopg
from psycopg.types.json import Jsonb

from embedtui.engine.backfill.backfill import LEASE_SECONDS, LOCK_CLASS
from embedtui.engine.backfill.job import Job, now
from embedtui.engine.backfill.throttle import NAMES, Throttle
from embedtui.engine.resilience import with_database
from embedtui.errors import EmbedtuiError
from embedtui.model import Hold
from embedtui.model.settings import StoredSettings
from embedtui.postgres.connect import Connection, host_name, operator_name

BEAT_SECONDS = 1.0
PACER_NAMES = ("provider", "spend_cap", "rate")
"""Holds that the pacer waits out by itself."""
RATE_SECONDS = 5.0
"""Keeping within a quota is a pace, not a hold, unless no request went out for so long (a long Retry-After)."""
LOOK_SECONDS = 0.1


class Worker:
    """Context in which a process works on a migration; its thread beats once a second.

    While it is entered, an advisory lock tells every other process that this one lives: a killed worker's shards are
    free after a few seconds, not when their lease runs out.
    """

    def __init__(self, job: Job, stop: threading.Event, throttle: Throttle) -> None:
        self._job, self._outer, self._throttle = job, stop, throttle
        self._link = job.link("worker", statement_timeout_ms=10_000)
        self._link.on_open = self._announce
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._ended = threading.Event()
        self._limits: object = None
        """Limits of the throttle as last stored."""

    def __enter__(self) -> Worker:
        try:
            with_database(self._link, self._register, stop=self._outer)
        except BaseException:
            self._link.drop()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._sign_off(self._link.get())
        except (EmbedtuiError, psycopg.Error):
            pass  # the leases run out and the lock is gone without us, too
        self._link.drop()

    # ---------------------------------------------------------------------------------------------------- database

    def _announce(self, conn: Connection) -> None:
        if self._job.worker_id is not None:
            conn.execute("SELECT pg_advisory_lock(%s, %s)", [LOCK_CLASS, self._job.worker_id])

    def _register(self, conn: Connection) -> None:
        if self._job.worker_id is None:
            row = conn.execute(
                "INSERT INTO embedtui.worker (migration, host, pid, operator) VALUES (%s, %s, %s, %s) RETURNING id",
                [self._job.migration.id, host_name(), os.getpid(), operator_name()],
            ).fetchone()
            assert row is not None
            self._job.worker_id = row[0]
            self._announce(conn)

    def _sign_off(self, conn: Connection) -> None:
        with conn.transaction():
            conn.execute(
                "UPDATE embedtui.shard SET state = 'open', worker = NULL, lease_until = NULL"
                " WHERE worker = %s AND state = 'leased'",
                [self._job.worker_id],
            )
            conn.execute(
                "UPDATE embedtui.worker SET stopped_at = now(), heartbeat = now(), rows = %s, doing = '',"
                " threads = '[]', holds = '[]' WHERE id = %s",
                [self._job.rows, self._job.worker_id],
            )

    def _run(self) -> None:
        due = 0.0
        beats = 0
        while not self._ended.is_set():
            if self._outer.is_set():
                self._job.halt()
            if time.monotonic() >= due:
                due = time.monotonic() + BEAT_SECONDS
                beats += 1
                try:
                    with_database(
                        self._link,
                        lambda conn, beats=beats: self._beat(conn, beats),  # type: ignore[misc]
                        stop=self._job.stop if not self._job.stop.is_set() else self._ended,
                        on_lost=lambda message: self._job.hold("database", message),
                        on_back=lambda: self._job.release("database"),
                        # the lock has to be held again before others take it that this process died
                        longest_wait=BEAT_SECONDS,
                    )
                except EmbedtuiError as error:
                    if not self._job.stop.is_set() and not self._ended.is_set():
                        self._job.pending_failure = error
                        self._job.halt()
                        return
            self._ended.wait(LOOK_SECONDS)

    def _beat(self, conn: Connection, beats: int) -> None:
        self._job.replace_holds(NAMES, self._throttle.check(conn))
        for text in self._throttle.news():
            self._job.note(text)
        self._job.replace_holds(PACER_NAMES, self._pacer_holds())
        threads = self._job.activity()
        main = next((each.doing for each in threads if each.name == "MainThread"), "")
        row = conn.execute(
            "WITH beat AS (UPDATE embedtui.worker SET heartbeat = now(), rows = %(rows)s, threads = %(threads)s,"
            " holds = %(holds)s,"
            " since = CASE WHEN doing = %(doing)s THEN since ELSE now() END, doing = %(doing)s WHERE id = %(w)s"
            " RETURNING stop_wanted)"
            " SELECT desired, coalesce((settings->>'index_held')::boolean, false), (SELECT stop_wanted FROM beat),"
            " settings->'throttle' FROM embedtui.migration WHERE id = %(m)s",
            {
                "rows": self._job.rows,
                # ages and not times: hosts' clocks differ, and the database's is what the screens count from
                "threads": Jsonb([[each.name, each.doing, (now() - each.since).total_seconds()] for each in threads]),
                "holds": Jsonb(
                    [
                        {"name": hold.name, "detail": hold.detail, "since": hold.since and hold.since.isoformat()}
                        for hold in self._job.holds
                    ]
                ),
                "doing": main or (threads[0].doing if threads else "idle"),
                "w": self._job.worker_id,
                "m": self._job.migration.id,
            },
        ).fetchone()
        self._job.paused = row is None or row[0] == "pause"
        self._job.index_held = row is not None and row[1]
        if row is not None and row[2]:
            self._job.halt()
        if row is not None and row[3] != self._limits:
            if self._limits is not None:  # an operator changed them
                self._throttle.adopt(StoredSettings.of({"throttle": row[3]}).throttle)
            self._limits = row[3]
        if beats % 5 == 0:
            conn.execute(
                "UPDATE embedtui.shard SET lease_until = now() + make_interval(secs => %s)"
                " WHERE worker = %s AND state = 'leased'",
                [LEASE_SECONDS, self._job.worker_id],
            )

    def _pacer_holds(self) -> list[Hold]:
        waits = self._job.waits_for()
        if waits is None or waits.name not in PACER_NAMES:
            return []
        brief = (
            waits.name == "rate" and waits.since is not None and (now() - waits.since).total_seconds() < RATE_SECONDS
        )
        return [] if brief else [waits]
