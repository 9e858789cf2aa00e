"""Writes what the provider answered: guarded, in short transactions, in a column by pages that have room again."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from embedtui.engine.backfill.embedding import Outcome
from embedtui.engine.backfill.job import Job, now
from embedtui.engine.backfill.old_writes import each_row, refusing_rows
from embedtui.formatting import counted
from embedtui.model import FaultClass, PlacementKind, Progressed, Side
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.sides.protocol import SourceRow, Vectors, Written
from embedtui.postgres.state.faults import UNWRITTEN, record_faults
from embedtui.postgres.state.shards import Shard, count_written

T = TypeVar("T")

WRITE_SECONDS = 0.25
"""A write transaction may take so long; they shrink and grow to keep to it."""
ROWS_PER_WRITE = (32, 512)
"""Rows of a write transaction, least and most."""
WRITERS = {PlacementKind.COLUMN: 2, PlacementKind.TABLE: 4}
"""Connections that write. In a column each entry that an update leaves in an HNSW index takes milliseconds of a core,
so there they are kept few; a side table has no such index yet."""


def cut(rows: int, most: int, writers: int) -> list[slice]:
    """Slices of ``rows`` of equal size, ``most`` rows at most, as many as keep ``writers`` equally busy."""
    parts = -(-rows // max(1, most))
    parts = min(rows, -(-parts // writers) * writers)
    bounds = [number * rows // parts for number in range(parts + 1)] if parts else [0]
    return [slice(first, end) for first, end in itertools.pairwise(bounds)]


class ReplyWriter:
    """Stores replies and rejected rows on connections of its own; for any thread."""

    def __init__(self, job: Job, stop: threading.Event) -> None:
        self._job, self._stop = job, stop
        placement = job.migration.placement
        self._in_column = placement is PlacementKind.COLUMN
        self._links = [job.link("write", writes=True) for _ in range(WRITERS[placement])]
        self._free: queue.LifoQueue[Link] = queue.LifoQueue()
        for link in self._links:
            self._free.put(link)
        self._pool = ThreadPoolExecutor(len(self._links), thread_name_prefix="write")
        self._turn = threading.Lock()
        """Held while a reply is written to a column, see :meth:`store`."""
        self._rows_per_write = ROWS_PER_WRITE[1] // 2

    def close(self) -> None:
        """Wait for what is being written, and close the connections."""
        self._pool.shutdown()
        for link in self._links:
            link.drop()

    def store(self, shard: Shard, outcome: Outcome) -> int:
        """Store one outcome; the rows settled by it.

        In a column no two rows of a reply share a page, and a page's row finds room for a HOT update only once its
        neighbour's dead version can be pruned, that is when every transaction that ran beside the neighbour's has
        ended. So replies are written one after the other, each by all writers at once.
        """
        if outcome.fault:
            self._job.doing("noting a rejected row")
            self.reject(outcome.rows, outcome.fault)
            return len(outcome.rows)
        self._job.doing(f"writing {counted(len(outcome.rows), 'row', 'rows')}")
        try:
            return self._store(shard, outcome)
        finally:
            self._job.doing("waiting for replies")

    def _store(self, shard: Shard, outcome: Outcome) -> int:
        if not self._in_column:
            return sum(
                self._store_part(shard, outcome, part) for part in cut(len(outcome.rows), self._rows_per_write, 1)
            )
        with self._turn:
            parts = cut(len(outcome.rows), self._rows_per_write, len(self._links))
            return sum(self._pool.map(lambda part: self._store_part(shard, outcome, part), parts))

    def _store_part(self, shard: Shard, outcome: Outcome, part: slice) -> int:
        settled = 0

        def write(some: slice) -> None:
            nonlocal settled
            settled += self._write_part(shard, outcome, slice(part.start + some.start, part.start + some.stop))

        refused = each_row(part.stop - part.start, write)
        for place, refusal in refused.items():
            self.reject([outcome.rows[part.start + place]], f"{UNWRITTEN}{refusal}")
        return settled + len(refused)

    def _write_part(self, shard: Shard, outcome: Outcome, part: slice) -> int:
        rows = outcome.rows[part]
        # shares of the tokens that add up to all of them
        tokens = outcome.tokens * part.stop // len(outcome.rows) - outcome.tokens * part.start // len(outcome.rows)
        written = self.on_connection(lambda conn: self._write(conn, shard, rows, outcome.vectors[part], tokens))
        self._job.add_rows(written.rows)
        self._job.emit(Progressed(now(), f"{written.rows} rows written", written.rows, None))
        return written.rows

    def _adapt(self, rows: int, seconds: float) -> None:
        """Aim at writes of WRITE_SECONDS; small ones say nothing about large ones."""
        least, most = ROWS_PER_WRITE
        if seconds > 2 * WRITE_SECONDS:
            self._rows_per_write = max(least, min(self._rows_per_write, rows) // 2)
        elif seconds < WRITE_SECONDS and rows >= self._rows_per_write // 2:
            self._rows_per_write = min(most, self._rows_per_write * 5 // 4)

    def _write(
        self, conn: Connection, shard: Shard, rows: Sequence[SourceRow], vectors: Vectors, tokens: int
    ) -> Written:
        began = time.monotonic()
        with refusing_rows(), conn.pipeline(), conn.transaction():
            written = self._job.placement.write(conn, shard.leaf, rows, vectors)
            count_written(
                conn,
                shard.id,
                rows=written.rows,
                updates=written.updates,
                hot_updates=written.hot_updates,
                tokens=tokens,
            )
        self._adapt(len(rows), time.monotonic() - began)
        return written

    def reject(self, rows: Sequence[SourceRow], reason: str = "") -> None:
        """Store rows as faulty; without a reason, as longer than the model takes."""
        limit = self._job.migration.new_model.max_input_tokens
        faults = [
            (row.key, reason or f"{row.characters:,} characters: more than {limit:,} tokens can be") for row in rows
        ]
        self.on_connection(lambda conn: record_faults(conn, self._job.migration.id, faults))
        for key, why in faults[:3]:
            self._job.failed(f"Row {', '.join(key)} is rejected ({Side.NEW} side): {why}", FaultClass.ROW)

    def on_connection(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on one of the connections, as soon as one is free."""
        link = self._free.get()
        try:
            # What is paid for is stored even while stopping; only a database that stays away ends that.
            return self._job.with_database(link, work, self._stop)
        finally:
            self._free.put(link)
