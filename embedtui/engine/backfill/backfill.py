"""The backfill pipeline: claim a shard, read it, pack one row per page, embed on many threads, write guarded."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from embedtui.engine.backfill.embedding import RowEmbedder
from embedtui.engine.backfill.job import POLL, Job
from embedtui.engine.backfill.packing import Limits, pack
from embedtui.engine.backfill.reading import ShardReader
from embedtui.engine.backfill.writing import ReplyWriter
from embedtui.engine.resilience import fatal
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.formatting import counted
from embedtui.model import PlacementKind
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.state.shards import Shard, all_done, claim_shard, return_all_shards, return_shard

SMALL_TABLE_PAGES = 128
"""A table of fewer pages sends several rows of each in a request, about so many in all: it loses some of its HOT share,
but takes a few requests, where one row a page would take as many as its fullest page has rows."""
ROWS_PER_REQUEST = 512
"""Rows of a request at most: few enough that many requests are under way at once."""
BATCH_POLL = 1.0
"""Seconds between looks for what batch jobs have left to the live endpoint."""
MAX_PASSES = 3
"""Times a shard is read for rows that were locked, before they are left to the final sweep."""


class _Running:
    """A shard in work: counts its requests until all are settled."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.left = 0
        self._open = 1  # the reader itself
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self._open += 1

    def settle(self, left: int = 0) -> bool:
        """One request, or the reading, is settled; True for the last."""
        with self._lock:
            self.left += left
            self._open -= 1
            return self._open == 0


Batch = tuple[_Running, Sequence[SourceRow]]


def rows_per_page(shard: Shard, rows: Sequence[SourceRow]) -> int:
    """Rows of a page in one request: one, but several in a table so small that requests would hold next to nothing."""
    if shard.first_block or shard.last_block >= SMALL_TABLE_PAGES:  # a large table, or the rest of one
        return 1
    return -(-SMALL_TABLE_PAGES // max(1, len({row.block for row in rows})))


class Backfill:
    """The work on shards until none is open; one per process."""

    def __init__(
        self,
        job: Job,
        embedder: RowEmbedder,
        *,
        threads: int,
        characters_per_token: Callable[[], float],
        room: Callable[[int], int] | None = None,
        only_live: bool = False,
    ) -> None:
        """``room``: rows that may still be begun, of so many under way here; None: all of them.

        ``only_live``: of shards that batch jobs have left to the live endpoint.
        """
        self._live = True if only_live else None
        self._job, self._embedder, self._room = job, embedder, room
        self._under_way = 0
        """Rows handed to the senders and not settled."""
        self._threads = threads
        self._characters_per_token = characters_per_token
        self._batches: queue.Queue[Batch | None] = queue.Queue(maxsize=max(2, threads // 4))
        """None: nothing more will come."""
        self._stop = job.child_stop()
        self._error: EmbedtuiError | None = None
        self._outstanding = 0
        """Shards being read or with requests under way."""
        self._settled = threading.Condition()
        self._lock = threading.Lock()
        self._reader = ShardReader(job, self._stop)
        self._writer = ReplyWriter(job, self._stop)

    def run(self) -> None:
        """Work until no shard of the migration is open, here or elsewhere.

        Raises:
            Interrupted: the job was stopped.
            ConfigurationFault: the provider refuses us as configured.
            EmbedtuiError: anything else that waiting does not cure.
        """
        workers = [
            threading.Thread(target=self._work, name=f"embed-{number:02d}", daemon=True)
            for number in range(1, self._threads + 1)
        ]
        for worker in workers:
            worker.start()
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001 - raised once all threads have ended
            self._fail(error)
        finally:
            self._put(None)
            for worker in workers:
                worker.join()
            self._writer.close()
            self._job.idle()
        if self._error is not None:
            raise self._error
        if self._job.stop.is_set():
            raise Interrupted("Stopped.", hint="Run again to go on.")

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = fatal(error)
        self._stop.set()

    # ---------------------------------------------------------------------------------------------------- reading

    def _read(self) -> None:
        link = self._job.link("read")
        try:
            while not self._stop.is_set():
                self._job.doing("claiming a shard")
                shard = self._job.with_database(
                    link,
                    lambda conn: claim_shard(conn, self._job.migration, self._job.worker_id, live=self._live),
                    self._stop,
                )
                if shard is None:
                    self._job.doing("waiting: other threads finish")
                    with self._settled:
                        settled = self._settled.wait_for(lambda: not self._outstanding, POLL)
                    if settled and self._job.with_database(link, self._all_done, self._stop):
                        return
                    if settled:  # other processes are at work on the rest, or batch jobs, for hours
                        self._stop.wait(POLL if self._live is None else BATCH_POLL)
                    continue
                self._read_shard(link, shard)
        finally:
            link.drop()

    def _all_done(self, conn: Connection) -> bool:
        # nothing is worked on here: what is leased to this process, another one wrote so
        return_all_shards(conn, self._job.worker_id, live=self._live)
        return all_done(conn, self._job.migration.id)

    def _read_shard(self, link: Link, shard: Shard) -> None:
        running = _Running(shard)
        with self._settled:
            self._outstanding += 1
        try:
            self._job.doing(f"reading blocks {shard.first_block}-{shard.last_block} of {shard.leaf}")
            for rows in self._reader.chunks(link, shard):
                too_long = [row for row in rows if row.characters > len(row.text)]
                if too_long:
                    self._writer.reject(too_long)
                rows = [row for row in rows if row.characters <= len(row.text)]
                for batch in self._pack(shard, rows):
                    self._hand_over(running, batch)
                    if self._stop.is_set():
                        return
        finally:
            if running.settle():
                self._close(running)

    def _pack(self, shard: Shard, rows: Sequence[SourceRow]) -> Iterator[Sequence[SourceRow]]:
        limits = Limits.of(self._job.migration.new_model, ROWS_PER_REQUEST)
        spread = self._job.migration.placement is PlacementKind.COLUMN
        per_page = rows_per_page(shard, rows) if spread else None
        yield from pack(rows, limits, self._characters_per_token(), per_page=per_page)

    def _hand_over(self, running: _Running, rows: Sequence[SourceRow]) -> None:
        """Give rows to the senders, no more than are to be done: what was sent is paid for."""
        while rows:
            most = len(rows) if self._room is None else self._room(self._under_way)
            while most < 1 and not self._stop.wait(POLL):
                self._job.doing("waiting: all rows asked for are under way")
                most = self._room(self._under_way) if self._room is not None else len(rows)
            running.begin()
            if most < 1:
                running.settle(left=len(rows))  # never the last: the reader itself is open
                return
            self._count_under_way(len(rows[:most]))
            self._put((running, rows[:most]))
            rows = rows[most:]

    def _count_under_way(self, rows: int) -> None:
        with self._lock:
            self._under_way += rows

    def _put(self, batch: Batch | None) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._batches.put(batch, timeout=POLL)
                return
        # Not handed over: settle it, or its shard would stay counted as under way.
        if batch is not None and batch[0].settle(left=len(batch[1])):
            self._close(batch[0])

    # -------------------------------------------------------------------------------------------------- embedding

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self._job.doing("waiting for rows")
                try:
                    batch = self._batches.get(timeout=POLL)
                except queue.Empty:
                    continue
                if batch is None:
                    self._put(None)  # for the next thread
                    return
                running, rows = batch
                left = len(rows)
                try:
                    if not self._stop.is_set():
                        self._job.doing(f"embedding {counted(len(rows), 'row', 'rows')}")
                        for outcome in self._embedder.embed(rows, self._stop):
                            left -= self._writer.store(running.shard, outcome)
                finally:
                    self._count_under_way(-len(rows))
                    if running.settle(left):
                        self._close(running)
        except Interrupted:
            pass
        except BaseException as error:  # noqa: BLE001 - the thread that runs all raises it
            self._fail(error)
        finally:
            self._job.idle()

    def _close(self, running: _Running) -> None:
        """Everything of a shard is settled: done, or open again for the rows that were left."""
        shard = running.shard
        again = running.left > 0 and (shard.passes < MAX_PASSES or self._stop.is_set())
        try:
            self._writer.on_connection(lambda conn: return_shard(conn, shard.id, self._job.worker_id, done=not again))
        except EmbedtuiError as error:
            # Its lease runs out, and the shard is read again: nothing is lost.
            if not isinstance(error, Interrupted):
                self._fail(error)
        finally:
            with self._settled:
                self._outstanding -= 1
                self._settled.notify_all()
