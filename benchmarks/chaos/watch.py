"""Measures the longest time without progress while a row could be embedded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.chaos.common import Background
from embedtui.demo.api import LoopbackServer
from embedtui.demo.api.batches import FINAL

LOOK_SECONDS = 0.25
LONGEST = 60.0
"""Seconds that may pass so."""
_STATE = """
SELECT m.desired, m.phase, (SELECT count(*) FROM embedtui.queue), (SELECT min(id) FROM embedtui.queue),
       (SELECT count(*) FROM embedtui.shard WHERE state <> 'done'), (SELECT count(*) FROM embedtui.fault),
       (SELECT string_agg(w.doing || ' ' || w.threads::text || ' ' || w.holds::text, ' | ') FROM embedtui.worker w
        WHERE w.stopped_at IS NULL AND w.heartbeat > now() - interval '5 s')
FROM embedtui.migration m
"""


class Watch(Background):
    """Looks at the database and the provider a few times a second.

    A row could be embedded where it is queued, or its shard is open and not at the provider, while the database is up,
    nobody has paused, and the provider refuses not all. Progress is a text that is embedded, an entry or a shard that
    is settled, a row that is blamed.
    """

    def __init__(self, dsn: str, api: LoopbackServer, refusing: Callable[[], bool]) -> None:
        super().__init__("watch")
        self.longest = 0.0
        self.then = ""
        """What the workers said of themselves at the end of it."""
        self._dsn, self._api, self._refusing = dsn, api, refusing
        self._since, self._seen = time.monotonic(), object()

    def _run(self) -> None:
        conn: psycopg.Connection[Any] | None = None
        while not self._stop.wait(LOOK_SECONDS):
            try:
                conn = conn or psycopg.connect(
                    self._dsn, autocommit=True, connect_timeout=5, options="-c statement_timeout=5s"
                )
                row = conn.execute(_STATE).fetchone()
            except psycopg.Error:
                if conn is not None:
                    conn.close()
                conn, row = None, None
            self._look(row)
        if conn is not None:
            conn.close()

    def _look(self, row: tuple[Any, ...] | None) -> None:
        now = time.monotonic()
        could, seen, said = False, object(), ""
        if row is not None:
            desired, phase, queued, first, shards, faults, said = row
            # a postponed key is left for up to a minute, and nothing else waits then
            open_shards = phase == "backfill" and shards and not self._at_the_provider()
            could = desired == "run" and not self._refusing() and bool(queued or open_shards)
            seen = (self._api.inputs + self._api.batches.inputs, first, queued == 0, shards, faults)
        if not could or seen != self._seen:
            self._since, self._seen = now, seen
        elif now - self._since > self.longest:
            self.longest, self.then = now - self._since, str(said)

    def _at_the_provider(self) -> bool:
        batches, now = self._api.batches, time.monotonic()
        return any(job.status not in FINAL and now < job.created + batches.seconds for job in [*batches.jobs.values()])
