"""Reads a shard's rows in pieces that bound memory and keep within the statement time-out."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg

from embedtui.engine.backfill.job import Job
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.state.shards import SHARD_BLOCKS, Shard, pages_of

READ_BYTES = 16 << 20
"""Text read ahead of the requests, about; bounds memory whatever the table's size."""
FIRST_READ_SHARE = 4
"""The first read is of so small a part of a shard, so that the first requests go out soon."""


class ShardReader:
    """Reads for one thread."""

    def __init__(self, job: Job, stop: threading.Event) -> None:
        self._job, self._stop = job, stop
        self._first = True
        self._blocks_per_read = SHARD_BLOCKS[1]
        """Made smaller by the statement time-out, and kept: what was too much once is too much again."""

    def chunks(self, link: Link, shard: Shard) -> Iterator[list[SourceRow]]:
        """The shard's rows in block ranges of no more than READ_BYTES of text each (a block at least)."""
        first = max(0, shard.first_block)
        pages = self._job.with_database(link, lambda conn: pages_of(conn, shard.leaf), self._stop)
        end = min(shard.last_block, pages - 1)  # a worker's role may have written any other
        if self._first:
            self._first = False
            most = -(-(end - first + 1) // FIRST_READ_SHARE)
        else:
            most = end - first + 1
        while first <= end and not self._stop.is_set():

            def read(conn: Connection, first: int = first, most: int = most) -> tuple[list[SourceRow], int]:
                return self._read_blocks(conn, shard, first, min(first + most - 1, end))

            rows, last = self._job.with_database(link, read, self._stop)
            yield rows
            first, most = last + 1, end - last

    def _read_blocks(self, conn: Connection, shard: Shard, first: int, last: int) -> tuple[list[SourceRow], int]:
        """Rows of as many blocks from ``first`` as READ_BYTES and the statement time-out allow, and the last block."""
        place = self._job.placement
        while True:
            end = min(last, first + self._blocks_per_read - 1)
            try:
                end = place.last_block_within(conn, shard.leaf, first, end, READ_BYTES)
                return place.read_shard(conn, shard.leaf, first, end, shard.filenode), end
            except (psycopg.errors.QueryCanceled, psycopg.errors.OutOfMemory):
                if end == first:
                    raise
                self._blocks_per_read = (end - first + 1) // 2
