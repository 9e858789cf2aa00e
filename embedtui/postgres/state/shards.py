"""The backfill's work, cut into ranges of pages that workers lease: table ``shard``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedtui.errors import TableError
from embedtui.model import Migration, Remedy, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import ALIVE, lock_shards
from embedtui.postgres.names import relation
from embedtui.postgres.state.counters import LATELY, added

LEASE_SECONDS = 30
GRACE_SECONDS = 3
"""A live worker whose connection was cut holds its lock again after so long; after a crash of the server, or its
restart, every worker's is gone at first, and each lease may have run out meanwhile."""
SHARD_BLOCKS = (256, 4096)
SHARDS_AT_LEAST = 16
"""Blocks a shard, and shards a table where that allows, so that hosts can share it; in a column a request has no more
rows than a shard has blocks (but see SMALL_TABLE_PAGES of the backfill)."""

_ABANDONED = f"""
    (SELECT backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid())
        < now() - make_interval(secs => %(grace)s)
    AND (x.lease_until < now() OR NOT {ALIVE.format("x.worker")})
    AND NOT EXISTS (
        SELECT FROM embedtui.worker b WHERE b.id = x.worker AND {LATELY.format("b.heartbeat", "now()", "%(grace)s")})
"""
"""SQL: nobody works on the leased shard x any more. A session that is new itself cannot tell: the server, or the way
to it, may have been away for all. Who has just been heard from renews what ran out meanwhile."""

UNDER_WAY = "state IN ('packed', 'asked', 'sent')"
"""SQL: a batch job is not over."""
_NOBODYS = f"""
    (x.state = 'batch' AND NOT EXISTS (
        SELECT FROM embedtui.batch_job b
        WHERE b.id = x.job AND b.migration = x.migration AND b.{UNDER_WAY})
     AND (x.lease_until IS NULL OR x.lease_until NOT BETWEEN now() AND now() + make_interval(secs => %(lease)s)))
"""
"""SQL: the shard x is said to be in a batch job, and is in none that is under way. The lease that a job begins with is
for who looks by a snapshot from before the job: the row locked is the newest, and what is asked about it is not."""

_LEAVES = """
SELECT n.nspname::text, c.relname::text, c.oid, pg_catalog.pg_relation_filenode(c.oid),
       pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND (c.oid = %(table)s OR c.oid IN
       (SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass) WHERE isleaf))
"""

PLACED = """
embedtui.shard s JOIN pg_catalog.pg_class c ON c.oid = s.leaf JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""
COLUMNS = "s.id, n.nspname, c.relname, s.first_block, s.last_block, s.passes, s.filenode"
"""Of PLACED: what :func:`shard_of` takes."""
OF_TABLE = """
(s.leaf = %(table)s OR s.leaf IN (SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass)))
"""
"""SQL: the shard s is of the migration's table. Any other leaf (planted, or detached) would be read, sent away and
written with our rights."""

_CLAIM = f"""
UPDATE embedtui.shard s SET state = 'leased', worker = %(worker)s, job = NULL, passes = least(passes, 999) + 1,
       lease_until = now() + make_interval(secs => %(lease)s)
FROM (SELECT id FROM embedtui.shard x WHERE migration = %(migration)s
          AND (%(live)s::boolean IS NULL OR x.live = %(live)s) AND (state = 'open'
          OR state = 'leased' AND worker IS DISTINCT FROM %(worker)s AND {_ABANDONED} OR {_NOBODYS})
      ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) free
WHERE s.id = free.id
RETURNING s.id, s.leaf, s.filenode, s.first_block, s.last_block, s.passes,
          pg_catalog.pg_relation_filenode(s.leaf),
          (SELECT nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
           ON n.oid = c.relnamespace WHERE c.oid = s.leaf),
          (SELECT relname FROM pg_catalog.pg_class WHERE oid = s.leaf),
          {OF_TABLE}
"""


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


def shard_of(number: int, schema: str, name: str, *rest: int) -> Shard:
    """A row of COLUMNS."""
    return Shard(number, TableName(schema, name), *rest)


def plan_shards(conn: Connection, migration_id: int, table_oid: int) -> int:
    """Plan shards for every leaf whose storage has none yet (new, or rewritten since); how many are not done then.

    Shards of a storage that was replaced (VACUUM FULL, CLUSTER) are closed: their rows stay counted. But not before
    what was read of them is settled: its vectors are stored by key, and would be paid for again if it were read again.
    """
    leaves = conn.execute(_LEAVES, {"table": table_oid}).fetchall()
    with conn.transaction():
        lock_shards(conn, migration_id)
        for _, _, leaf, filenode, blocks in leaves:
            known = conn.execute(
                "SELECT EXISTS (SELECT FROM embedtui.shard x WHERE migration = %(m)s AND leaf = %(l)s"
                f" AND (filenode = %(f)s OR state = 'batch' OR state = 'leased' AND NOT ({_ABANDONED})))",
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


def claim_shard(
    conn: Connection, migration: Migration, worker: int | None, *, live: bool | None = None
) -> Shard | None:
    """Lease a shard to ``worker``: an open one, or one that nobody works on any more; None where there is none.

    ``live``: only one that batch jobs have left to the live endpoint (False: have not); None: any.

    Raises:
        TableError: the table is gone.
    """
    values = {
        "worker": worker,
        "migration": migration.id,
        "table": migration.table_oid,
        "lease": LEASE_SECONDS,
        "grace": GRACE_SECONDS,
        "live": live,
    }
    while True:
        row = conn.execute(_CLAIM, values).fetchone()
        if row is None:
            return None
        number, leaf, filenode, first, last, passes, current, schema, name, ours = row
        if current == filenode and ours:
            return Shard(number, TableName(schema, name), first, last, passes, filenode)
        conn.execute("UPDATE embedtui.shard SET state = 'done' WHERE id = %s", [number])
        if current is not None and ours:  # rewritten; a dropped leaf simply goes
            plan_shards(conn, migration.id, migration.table_oid)
        elif leaf == migration.table_oid:
            raise TableError(f"Table {migration.table} is gone.", hint="End this.", remedies=(Remedy.ABORT,))


def pages_of(conn: Connection, leaf: TableName) -> int:
    """Pages that a table has now."""
    row = conn.execute(
        "SELECT pg_catalog.pg_relation_size(%s::regclass) / pg_catalog.current_setting('block_size')::bigint",
        [relation(leaf).as_string(conn)],
    ).fetchone()
    return int(row[0]) if row else 0


def page_ranges(conn: Connection, table_oid: int, size: int) -> Iterator[tuple[TableName, int, int]]:
    """(leaf, first block, last block): a whole table as it is now, up to ``size`` pages of a leaf at a time."""
    for schema, name, _, _, pages in conn.execute(_LEAVES, {"table": table_oid}).fetchall():
        for first in range(0, pages, size):
            yield TableName(schema, name), first, min(pages, first + size) - 1


def shards_of(conn: Connection, migration: Migration) -> list[Shard]:
    """All shards of the table as it is stored now, in the order in which their pages lie."""
    rows = conn.execute(
        f"SELECT {COLUMNS} FROM {PLACED} WHERE s.migration = %(migration)s AND {OF_TABLE}"
        " AND s.filenode = pg_catalog.pg_relation_filenode(s.leaf) ORDER BY s.leaf, s.first_block",
        {"migration": migration.id, "table": migration.table_oid},
    )
    return [shard_of(*row) for row in rows]


def split_shard(conn: Connection, shard: int, last_block: int) -> None:
    """Cut a leased shard after ``last_block``; the rest is open."""
    with conn.transaction():
        conn.execute(
            "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block)"
            " SELECT migration, leaf, filenode, %s, last_block FROM embedtui.shard WHERE id = %s",
            [last_block + 1, shard],
        )
        conn.execute("UPDATE embedtui.shard SET last_block = %s WHERE id = %s", [last_block, shard])


def any_open(conn: Connection, migration_id: int) -> bool:
    """Whether a shard waits for a batch job, or somebody, perhaps no longer alive, holds it for one."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM embedtui.shard x WHERE migration = %(migration)s AND NOT live"
        f" AND (state IN ('open', 'leased') OR {_NOBODYS}))",
        {"migration": migration_id, "lease": LEASE_SECONDS},
    ).fetchone()
    return row == (True,)


def all_done(conn: Connection, migration_id: int) -> bool:
    """Whether no shard is open, leased or in a batch job, here or elsewhere."""
    row = conn.execute(
        "SELECT NOT EXISTS (SELECT FROM embedtui.shard WHERE migration = %s AND state <> 'done')", [migration_id]
    ).fetchone()
    return row == (True,)


def count_written(conn: Connection, shard: int, *, rows: int, updates: int, hot_updates: int, tokens: int) -> None:
    """Add what one transaction wrote to its shard's counts; renews the lease, too."""
    counters = ("rows", "updates", "hot_updates", "tokens")
    conn.execute(
        f"UPDATE embedtui.shard SET {', '.join(f'{name} = {added(name, digits=12)}' for name in counters)},"
        " lease_until = now() + make_interval(secs => %s) WHERE id = %s",
        [rows, updates, hot_updates, tokens, LEASE_SECONDS, shard],
    )


def return_shard(conn: Connection, shard: int, worker: int | None, *, done: bool) -> None:
    """End the worker's lease: the shard is done, or open for another pass. A no-op where it was taken over."""
    conn.execute(
        "UPDATE embedtui.shard SET state = %s, worker = NULL, lease_until = NULL"
        " WHERE id = %s AND worker = %s AND state = 'leased'",
        ["done" if done else "open", shard, worker],
    )


def leave_to_live(conn: Connection, shards: Sequence[int], worker: int | None) -> None:
    """End the worker's leases: these shards are too little for a batch job, and the live endpoint's."""
    conn.execute(
        "UPDATE embedtui.shard SET state = 'open', live = true, worker = NULL, lease_until = NULL"
        " WHERE id = ANY (%s) AND worker = %s AND state = 'leased'",
        [list(shards), worker],
    )


def return_all_shards(conn: Connection, worker: int | None, *, live: bool | None = None) -> None:
    """End all leases of a worker; its shards are open again. ``live``: as of :func:`claim_shard`."""
    conn.execute(
        "UPDATE embedtui.shard SET state = 'open', worker = NULL, lease_until = NULL"
        " WHERE worker = %(worker)s AND state = 'leased' AND (%(live)s::boolean IS NULL OR live = %(live)s)",
        {"worker": worker, "live": live},
    )


def renew_leases(conn: Connection, worker: int | None) -> None:
    """Keep all of a worker's shards leased to it."""
    conn.execute(
        "UPDATE embedtui.shard SET lease_until = now() + make_interval(secs => %s)"
        " WHERE worker = %s AND state = 'leased'",
        [LEASE_SECONDS, worker],
    )
