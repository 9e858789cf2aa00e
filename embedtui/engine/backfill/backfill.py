"""The backfill pipeline: claim a shard, read it, pack one row per page, embed on many threads, write guarded."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import sql

from embedtui.engine.backfill.embedding import Outcome, RowEmbedder
from embedtui.engine.backfill.job import POLL, Job, now, record_faults
from embedtui.engine.backfill.packing import Limits, pack
from embedtui.engine.resilience import fatal, with_database
from embedtui.errors import EmbedtuiError, Interrupted, TableError
from embedtui.model import Migration, PlacementKind, Progressed, Remedy, TableName
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.sides.protocol import SourceRow, Vectors, Written

T = TypeVar("T")

LEASE_SECONDS = 30
LOCK_CLASS = 0x656D  # advisory lock class of live workers; the object is the worker's id
GRACE_SECONDS = 3
"""A live worker whose connection was cut holds its lock again after so long; after a crash of the server, or its
restart, every worker's is gone at first, and each lease may have run out meanwhile."""
READ_BYTES = 16 << 20
"""Text read ahead of the requests, about; bounds memory whatever the table's size."""
SHARD_BLOCKS = (256, 4096)
SHARDS_AT_LEAST = 16
"""Blocks a shard, and shards a table where that allows, so that hosts can share it; in a column a request has no more
rows than a shard has blocks (but see SMALL_TABLE_PAGES)."""
FIRST_READ_SHARE = 4
"""The first read is of so small a part of a shard, so that the first requests go out soon."""
SMALL_TABLE_PAGES = 128
"""A table of fewer pages sends several rows of each in a request, about so many in all: it loses some of its HOT share,
but takes a few requests, where one row a page would take as many as its fullest page has rows."""
ROWS_PER_REQUEST = 512
"""Rows of a request at most: few enough that many requests are under way at once …"""
REPLY_BYTES = 2 << 20
"""… and that their replies, base64 of 4 bytes a number, are so long at most; bounds memory whatever the model."""
WRITE_SECONDS = 0.25
"""A write transaction may take so long; they shrink and grow to keep to it."""
ROWS_PER_WRITE = (32, 512)
"""Rows of a write transaction, least and most."""
MAX_PASSES = 3
"""Times a shard is read for rows that were locked, before they are left to the final sweep."""
WRITERS = {PlacementKind.COLUMN: 2, PlacementKind.TABLE: 4}
"""Connections that write. In a column each entry that an update leaves in an HNSW index takes milliseconds of a core,
so there they are kept few; a side table has no such index yet."""

ALIVE = (
    f"EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.classid = {LOCK_CLASS}"
    " AND l.objid = {0}::oid AND l.objsubid = 2 AND l.granted"
    " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))"
)
"""SQL: the worker whose id is {0} holds its advisory lock, so its process lives."""

_ABANDONED = f"""
    (SELECT backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid())
        < now() - make_interval(secs => %(grace)s)
    AND (x.lease_until < now() OR NOT {ALIVE.format("x.worker")})
    AND NOT EXISTS (
        SELECT FROM embedtui.worker b WHERE b.id = x.worker AND b.heartbeat > now() - make_interval(secs => %(grace)s))
"""
"""SQL: nobody works on the leased shard x any more. A session that is new itself cannot tell: the server, or the way
to it, may have been away for all. Who has just been heard from renews what ran out meanwhile."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of heap blocks of one leaf table, leased to this worker."""

    id: int
    leaf: TableName
    first_block: int
    last_block: int
    passes: int
    filenode: int
    """Storage that the blocks are of."""


def plan_shards(conn: Connection, migration_id: int, table_oid: int) -> int:
    """Plan shards for every leaf whose storage has none yet (new, or rewritten since); how many are not done then.

    Shards of a storage that was replaced (VACUUM FULL, CLUSTER) are closed: their rows stay counted. But not before
    what was read of them is settled: its vectors are stored by key, and would be paid for again if it were read again.
    """
    leaves = conn.execute(
        """
        SELECT c.oid, pg_catalog.pg_relation_filenode(c.oid),
               pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint
        FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass) p JOIN pg_catalog.pg_class c ON c.oid = p.relid
        WHERE p.isleaf AND c.relkind IN ('r', 'm')
        UNION
        SELECT c.oid, pg_catalog.pg_relation_filenode(c.oid),
               pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint
        FROM pg_catalog.pg_class c WHERE c.oid = %(table)s::oid AND c.relkind = 'r'
        """,
        {"table": table_oid},
    ).fetchall()
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_CLASS + 1, migration_id])
        for leaf, filenode, blocks in leaves:
            known = conn.execute(
                "SELECT EXISTS (SELECT FROM embedtui.shard x WHERE migration = %(m)s AND leaf = %(l)s"
                f" AND (filenode = %(f)s OR state = 'leased' AND NOT ({_ABANDONED})))",
                {"m": migration_id, "l": leaf, "f": filenode, "grace": GRACE_SECONDS},
            ).fetchone()
            if known and known[0]:
                continue
            conn.execute(
                "UPDATE embedtui.shard SET state = 'done' WHERE migration = %s AND leaf = %s", [migration_id, leaf]
            )
            size = max(SHARD_BLOCKS[0], min(SHARD_BLOCKS[1], -(-blocks // SHARDS_AT_LEAST)))
            with conn.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block)"
                    " VALUES (%s, %s, %s, %s, %s)",
                    [
                        (migration_id, leaf, filenode, first, min(first + size, blocks) - 1)
                        for first in range(0, blocks, size)
                    ],
                )
        left = conn.execute(
            "SELECT count(*) FROM embedtui.shard WHERE migration = %s AND state <> 'done'", [migration_id]
        ).fetchone()
    return int(left[0]) if left else 0


def claim(conn: Connection, migration: Migration, worker: int | None) -> Shard | None:
    """Lease a shard to ``worker``: an open one, or one that nobody works on any more; None where there is none."""
    while True:
        row = conn.execute(
            f"""
            UPDATE embedtui.shard s SET state = 'leased', worker = %(w)s, passes = passes + 1,
                   lease_until = now() + make_interval(secs => %(lease)s)
            FROM (SELECT id FROM embedtui.shard x WHERE migration = %(m)s AND (state = 'open'
                      OR state = 'leased' AND worker <> %(w)s AND {_ABANDONED})
                  ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) free
            WHERE s.id = free.id
            RETURNING s.id, s.leaf, s.filenode, s.first_block, s.last_block, s.passes,
                      pg_catalog.pg_relation_filenode(s.leaf),
                      (SELECT nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
                       ON n.oid = c.relnamespace WHERE c.oid = s.leaf),
                      (SELECT relname FROM pg_catalog.pg_class WHERE oid = s.leaf),
                      s.leaf = %(table)s OR s.leaf IN (
                          SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass))
            """,
            {
                "w": worker,
                "m": migration.id,
                "table": migration.table_oid,
                "lease": LEASE_SECONDS,
                "grace": GRACE_SECONDS,
            },
        ).fetchone()
        if row is None:
            return None
        number, leaf, filenode, first, last, passes, current, schema, name, ours = row
        # any other leaf (planted, or detached) would be read, sent away and written with our rights
        if current == filenode and ours:
            return Shard(number, TableName(schema, name), first, last, passes, filenode)
        conn.execute("UPDATE embedtui.shard SET state = 'done' WHERE id = %s", [number])
        if current is not None and ours:  # rewritten; a dropped leaf simply goes
            plan_shards(conn, migration.id, migration.table_oid)
        elif leaf == migration.table_oid:
            raise TableError(f"Table {migration.table} is gone.", hint="End this.", remedies=(Remedy.ABORT,))


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


def cut(rows: int, most: int, writers: int) -> list[slice]:
    """Slices of ``rows`` of equal size, ``most`` rows at most, as many as keep ``writers`` equally busy."""
    parts = -(-rows // max(1, most))
    parts = min(rows, -(-parts // writers) * writers)
    bounds = [number * rows // parts for number in range(parts + 1)] if parts else [0]
    return [slice(first, end) for first, end in itertools.pairwise(bounds)]


class Backfill:
    """Works shards off until none is open; one per process."""

    def __init__(
        self,
        job: Job,
        embedder: RowEmbedder,
        *,
        threads: int,
        characters_per_token: Callable[[], float],
        room: Callable[[int], int] | None = None,
    ) -> None:
        """``room``: rows that may still be begun, of so many under way here; None: all of them."""
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
        self._rows_per_write = ROWS_PER_WRITE[1] // 2
        self._first_read = True
        self._blocks_per_read = SHARD_BLOCKS[1]
        """Made smaller by the statement time-out, and kept: what was too much once is too much again."""
        self._lock = threading.Lock()
        placement = job.migration.placement
        self._spread = placement is PlacementKind.COLUMN
        self._writers = [job.link("write", writes=True) for _ in range(WRITERS[placement])]
        self._free: queue.LifoQueue[Link] = queue.LifoQueue()
        for link in self._writers:
            self._free.put(link)
        self._pool = ThreadPoolExecutor(len(self._writers), thread_name_prefix="write")
        self._turn = threading.Lock()
        """Held while a reply is written to a column, see :meth:`_store`."""

    def run(self) -> None:
        """Work until no shard of the migration is open, here or elsewhere.

        Raises:
            Interrupted: the job was stopped.
            ConfigurationFault: the provider refuses us as configured.
            EmbedtuiError: anything else that waiting does not mend.
        """
        workers = [
            threading.Thread(target=self._work, name=f"embed-{number:02d}", daemon=True)
            for number in range(1, self._threads + 1)
        ]
        for worker in workers:
            worker.start()
        try:
            self._read()
        except BaseException as error:
            self._fail(error)
        finally:
            self._put(None)
            for worker in workers:
                worker.join()
            self._pool.shutdown()
            for link in self._writers:
                link.drop()
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
                shard = with_database(
                    link,
                    lambda conn: claim(conn, self._job.migration, self._job.worker_id),
                    stop=self._stop,
                    on_lost=self._lost,
                    on_back=self._back,
                )
                if shard is None:
                    self._job.doing("waiting for the last requests")
                    with self._settled:
                        settled = self._settled.wait_for(lambda: not self._outstanding, POLL)
                    if settled and with_database(
                        link, self._all_done, stop=self._stop, on_lost=self._lost, on_back=self._back
                    ):
                        return
                    if settled:  # other processes are at work on the rest
                        self._stop.wait(POLL)
                    continue
                self._read_shard(link, shard)
        finally:
            link.drop()

    def _all_done(self, conn: Connection) -> bool:
        row = conn.execute(
            "SELECT NOT EXISTS (SELECT FROM embedtui.shard WHERE migration = %s AND state <> 'done')",
            [self._job.migration.id],
        ).fetchone()
        return bool(row and row[0])

    def _read_shard(self, link: Link, shard: Shard) -> None:
        running = _Running(shard)
        with self._settled:
            self._outstanding += 1
        try:
            self._job.doing(f"reading blocks {shard.first_block}-{shard.last_block} of {shard.leaf}")
            for rows in self._chunks(link, shard):
                too_long = [row for row in rows if row.characters > len(row.text)]
                if too_long:
                    self._reject(too_long)
                rows = [row for row in rows if row.characters <= len(row.text)]
                for batch in self._pack(shard, rows):
                    self._hand_over(running, batch)
                    if self._stop.is_set():
                        return
        finally:
            if running.settle():
                self._close(running)

    def _chunks(self, link: Link, shard: Shard) -> Iterator[list[SourceRow]]:
        """The shard's rows in block ranges of no more than READ_BYTES of text each (a block at least)."""
        first = shard.first_block
        if self._first_read:
            self._first_read = False
            most = -(-(shard.last_block - first + 1) // FIRST_READ_SHARE)
        else:
            most = shard.last_block - first + 1
        while first <= shard.last_block and not self._stop.is_set():

            def read(conn: Connection, first: int = first, most: int = most) -> tuple[list[SourceRow], int]:
                return self._read_blocks(conn, shard, first, min(first + most - 1, shard.last_block))

            rows, last = with_database(link, read, stop=self._stop, on_lost=self._lost, on_back=self._back)
            yield rows
            first, most = last + 1, shard.last_block - last

    def _read_blocks(self, conn: Connection, shard: Shard, first: int, last: int) -> tuple[list[SourceRow], int]:
        """Rows of as many blocks from ``first`` as READ_BYTES and the statement time-out allow, and the last block."""
        place = self._job.placement
        while True:
            end = min(last, first + self._blocks_per_read - 1)
            try:
                end = place.last_block_within(conn, shard.leaf, first, end, READ_BYTES)
                return place.read_shard(conn, shard.leaf, first, end, shard.filenode), end
            except psycopg.errors.QueryCanceled:
                if end == first:
                    raise
                self._blocks_per_read = (end - first + 1) // 2

    def _pack(self, shard: Shard, rows: Sequence[SourceRow]) -> Iterator[Sequence[SourceRow]]:
        model = self._job.migration.new_model
        most = min(model.max_inputs, ROWS_PER_REQUEST, max(1, REPLY_BYTES // (model.dimensions * 4 * 4 // 3)))
        limits = Limits(most, model.max_tokens, model.max_input_tokens)
        per_page = rows_per_page(shard, rows) if self._spread else None
        yield from pack(rows, limits, self._characters_per_token(), per_page=per_page)

    def _hand_over(self, running: _Running, rows: Sequence[SourceRow]) -> None:
        """Give rows to the senders, no more than are to be done: what was sent is paid for."""
        while rows:
            most = len(rows) if self._room is None else self._room(self._under_way)
            while most < 1 and not self._stop.wait(POLL):
                self._job.doing("waiting: as many rows as were asked for are under way")
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

    # -------------------------------------------------------------------------------------- embedding and writing

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
                        self._job.doing(f"embedding {len(rows)} rows")
                        for outcome in self._embedder.embed(rows, self._stop):
                            left -= self._store(running.shard, outcome)
                finally:
                    self._count_under_way(-len(rows))
                    if running.settle(left):
                        self._close(running)
        except Interrupted:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            self._job.idle()

    def _store(self, shard: Shard, outcome: Outcome) -> int:
        """Store one outcome; the rows settled by it.

        In a column no two rows of a reply share a page, and a page's row finds room for a HOT update only once its
        neighbour's dead version can be pruned, that is when every transaction that ran beside the neighbour's has
        ended. So replies are written one after the other, each by all writers at once.
        """
        if outcome.fault:
            self._job.doing("noting a rejected row")
            self._reject(outcome.rows, outcome.fault)
            return len(outcome.rows)
        self._job.doing(f"writing {len(outcome.rows)} rows")
        if not self._spread:
            return sum(
                self._store_part(shard, outcome, part) for part in cut(len(outcome.rows), self._rows_per_write, 1)
            )
        with self._turn:
            parts = cut(len(outcome.rows), self._rows_per_write, len(self._writers))
            return sum(self._pool.map(lambda part: self._store_part(shard, outcome, part), parts))

    def _store_part(self, shard: Shard, outcome: Outcome, part: slice) -> int:
        rows = outcome.rows[part]
        # each part has its share of the tokens, without a rest
        tokens = outcome.tokens * part.stop // len(outcome.rows) - outcome.tokens * part.start // len(outcome.rows)
        written = self._with_writer(lambda conn: self._write(conn, shard, rows, outcome.vectors[part], tokens))
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
        with conn.pipeline(), conn.transaction():
            written = self._job.placement.write(conn, shard.leaf, rows, vectors)
            conn.execute(
                "UPDATE embedtui.shard SET rows = rows + %s, updates = updates + %s, hot_updates = hot_updates + %s,"
                " tokens = tokens + %s, lease_until = now() + make_interval(secs => %s) WHERE id = %s",
                [written.rows, written.updates, written.hot_updates, tokens, LEASE_SECONDS, shard.id],
            )
        self._adapt(len(rows), time.monotonic() - began)
        return written

    def _reject(self, rows: Sequence[SourceRow], reason: str = "") -> None:
        limit = self._job.migration.new_model.max_input_tokens
        faults = [
            (row.key, reason or f"{row.characters:,} characters: more than {limit:,} tokens can be") for row in rows
        ]
        self._with_writer(lambda conn: record_faults(conn, self._job.migration, faults))
        for key, why in faults[:3]:
            self._job.failed(f"Row {', '.join(key)} is rejected: {why}")

    def _with_writer(self, work: Callable[[Connection], T]) -> T:
        link = self._free.get()
        try:
            # What is paid for is stored even while stopping; only a database that stays away ends that.
            return with_database(link, work, stop=self._stop, on_lost=self._lost, on_back=self._back)
        finally:
            self._free.put(link)

    def _close(self, running: _Running) -> None:
        """Everything of a shard is settled: done, or open again for the rows that were left."""
        shard = running.shard
        again = running.left > 0 and (shard.passes < MAX_PASSES or self._stop.is_set())
        try:
            self._with_writer(
                lambda conn: conn.execute(
                    sql.SQL(
                        "UPDATE embedtui.shard SET state = %s, worker = NULL, lease_until = NULL"
                        " WHERE id = %s AND worker = %s AND state = 'leased'"
                    ),
                    ["open" if again else "done", shard.id, self._job.worker_id],
                )
            )
        except EmbedtuiError as error:
            # Its lease runs out, and the shard is read again: nothing is lost.
            if not isinstance(error, Interrupted):
                self._fail(error)
        finally:
            with self._settled:
                self._outstanding -= 1
                self._settled.notify_all()

    def _lost(self, message: str) -> None:
        self._job.hold("database", message)

    def _back(self) -> None:
        self._job.release("database")
