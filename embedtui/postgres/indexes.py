"""The new side's approximate index: built CONCURRENTLY beside production, watched, and rebuilt where it broke."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from embedtui.arrays import np, npt
from embedtui.config import IndexSettings
from embedtui.errors import DatabaseError, Interrupted, Refused
from embedtui.model import IndexMethod, IndexStatus, Migration, Side, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement, cancelled_by, run_ddl, session
from embedtui.postgres.sides.placement import new_side, relation
from embedtui.postgres.sides.search import search_sql
from embedtui.redaction import redact

POLL = 0.5
"""Seconds between two looks at a running build."""
DROP_SECONDS = 5
"""Most that an interrupted build spends on removing its leftover; what stays is rebuilt by the next run."""
MAX_DIMENSIONS = {"vector": 2000, "halfvec": 4000}
"""What HNSW and ivfflat index (pgvector README, "Limitations")."""
NAME_BYTES = 63

WARM_SEARCHES = 10
"""An index that was searched less often is cold; so many searches warm it …"""
WARM_SECONDS = 5.0
"""… and are given so long, even where each has to read from a slow disk."""

_LOCK = "embedtui.index"
_DEFAULTS = {IndexMethod.HNSW: {"m": "16", "ef_construction": "64"}, IndexMethod.IVFFLAT: {"lists": "100"}}


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """What a call of :func:`build` came to."""

    name: str
    built: bool
    """False where a valid equal index was there already, or none is wanted."""
    seconds: float
    size_bytes: int
    notices: tuple[str, ...] = ()
    """What the server said, e.g. that the graph no longer fits into maintenance_work_mem."""


@dataclass(frozen=True, slots=True)
class SearchUse:
    """Whether the planner serves a side's search from its approximate index."""

    used: bool
    usable: bool
    """Chosen at least when reading the whole table is ruled out: on small tables that is the cheaper plan."""
    index: str
    """Name of the index in the plan; empty where none."""


# ------------------------------------------------------------------------------------------------ names and sizes


def ivfflat_lists(rows: int) -> int:
    """Lists of an ivfflat index: rows / 1000 up to a million rows, the square root above (pgvector README)."""
    return min(32768, max(1, round(rows / 1000) if rows <= 1_000_000 else round(math.sqrt(rows))))


def forecast(rows: int, dimensions: int, m: int = 16, vector_type: str = "vector") -> int:
    """Bytes of maintenance_work_mem that an HNSW build wants, to stay in its fast in-memory phase.

    Per row, after pgvector 0.8's src/hnsw.h on a 64-bit server: HnswElementData 128; the vector itself 8 + 4 bytes a
    dimension (halfvec: 2); on the ground layer a pointer and a HnswNeighborArray of 2m candidates, 8 + 8 + 16 * 2m; on
    each higher layer, of which a row has 1 / (m - 1) on average, 8 + 8 + 16m; the allocator's chunk headers, 8 bytes
    each. Plus the 4 MiB that a parallel build keeps free (hnswbuild.c, estother and memoryMargin). Within 1 % of where
    pgvector 0.8.5 says that the graph no longer fits, with workers and without.
    """
    vector = 8 + dimensions * (2 if vector_type == "halfvec" else 4)
    ground = 16 + 16 * 2 * m
    higher = (24 + 16 * m) / (m - 1)
    return math.ceil(rows * (128 + vector + ground + higher + 3 * 8)) + 4 * 2**20


def index_name(conn: Connection, migration: Migration) -> str:
    """Name for the new side's index: ``X_v2`` where the old side's is called X, else ``<table>_<column>_idx``."""
    side = new_side(migration)
    old = old_indexes(conn, migration)
    if old:
        stem, _, number = old[0].name.rpartition("_v")
        name = f"{stem}_v{int(number) + 1}" if stem and number.isdecimal() else f"{old[0].name}_v2"
    else:
        name = f"{side.table.name}_{side.embedding}_idx"
    if name == side.table.name:  # the old index may be called as the side table is, without the suffix
        name += "_idx"
    return _fit(name)


def _fit(name: str) -> str:
    """Cut in the middle to what PostgreSQL takes, keeping the telling end."""
    if len(name.encode()) <= NAME_BYTES:
        return name
    end = name[-20:]
    return name.encode()[: NAME_BYTES - len(end.encode())].decode(errors="ignore") + end


def create_sql(conn: Connection, migration: Migration, options: IndexSettings) -> tuple[Statement, ...]:
    """The statements that make the index, in order; a partitioned table's is made leaf by leaf and attached.

    Empty for method ``none``. Raises Refused where the dimensions are beyond what the type's indexes take.
    """
    if options.method is IndexMethod.NONE:
        return ()
    statements: list[Statement] = []
    for target in _targets(conn, migration):
        statements.append(_create(conn, migration, options, target))
        if target.parent_index is not None:
            statements.append(_attach(target))
    return tuple(statements)


# ------------------------------------------------------------------------------------------------------- catalog


@dataclass(frozen=True, slots=True)
class _Part:
    """A table, or a partition at any depth."""

    oid: int
    parent: int
    """0 for the table itself."""
    table: TableName
    leaf: bool


@dataclass(frozen=True, slots=True)
class _Target:
    """One relation of the new side's tree that is to have the index."""

    oid: int
    table: TableName
    leaf: bool
    name: str
    parent_index: TableName | None

    @property
    def index(self) -> TableName:
        return TableName(self.table.schema, self.name)


@dataclass(frozen=True, slots=True)
class ExistingIndex:
    """An approximate index as it is in the catalog."""

    oid: int
    schema: str
    name: str
    valid: bool
    method: str
    opclass: str
    options: tuple[tuple[str, str], ...]
    attached: bool
    """It is part of a partitioned table's index."""


_TREE = """
WITH RECURSIVE tree AS (
    SELECT oid, 0::oid AS parent, relkind, relname, relnamespace, 0 AS level
    FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)
    UNION ALL
    SELECT c.oid, tree.oid, c.relkind, c.relname, c.relnamespace, tree.level + 1
    FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE tree.relkind = 'p'
)
SELECT tree.oid::int8, tree.parent::int8, n.nspname, tree.relname, tree.relkind <> 'p' AS leaf
FROM tree JOIN pg_catalog.pg_namespace n ON n.oid = tree.relnamespace ORDER BY level, relname
"""

_INDEXES = """
SELECT x.indrelid::int8, x.indexrelid::int8, n.nspname, i.relname, x.indisvalid, m.amname, o.opcname,
       coalesce(i.reloptions, '{}'), i.relispartition
FROM pg_catalog.pg_index x
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
JOIN pg_catalog.pg_am m ON m.oid = i.relam
JOIN pg_catalog.pg_opclass o ON o.oid = x.indclass[0]
JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
WHERE x.indrelid = ANY (%s::int8[]::oid[]) AND a.attname = %s AND m.amname IN ('hnsw', 'ivfflat')
  AND x.indpred IS NULL AND NOT a.attisdropped
ORDER BY x.indisvalid DESC, x.indexrelid
"""

_PROGRESS = """
SELECT pid, phase, blocks_done, blocks_total, lockers_done, lockers_total, current_locker_pid
FROM pg_catalog.pg_stat_progress_create_index
WHERE relid = ANY (%s::int8[]::oid[]) AND command LIKE 'CREATE INDEX%%'
  AND (index_relid = 0 OR index_relid = ANY (%s::int8[]::oid[]))
ORDER BY pid LIMIT 1
"""


def _name(conn: Connection, table: TableName) -> str:
    return relation(table).as_string(conn)


def _existing(conn: Connection, oids: Sequence[int], column: str) -> dict[int, list[ExistingIndex]]:
    """Approximate indexes on a column by relation, valid ones first; no relation is opened, so nothing can wait."""
    found: dict[int, list[ExistingIndex]] = {oid: [] for oid in oids}
    for table, oid, schema, name, valid, method, opclass, options, attached in conn.execute(
        _INDEXES, (list(oids), column)
    ).fetchall():
        pairs = tuple((key, value) for key, _, value in (option.partition("=") for option in options))
        found[table].append(ExistingIndex(oid, schema, name, valid, method, opclass, pairs, attached))
    return found


def _on_table(conn: Connection, table: TableName, column: str) -> list[ExistingIndex]:
    tree = _tree(conn, table)
    return _existing(conn, [tree[0].oid], column)[tree[0].oid] if tree else []


def old_indexes(conn: Connection, migration: Migration) -> list[ExistingIndex]:
    """The old side's approximate indexes."""
    return _on_table(conn, migration.table, migration.old_column)


def new_indexes(conn: Connection, migration: Migration) -> list[ExistingIndex]:
    """The new side's approximate indexes."""
    side = new_side(migration)
    return _on_table(conn, side.table, side.embedding)


def partition_indexes(conn: Connection, table: TableName, column: str) -> dict[int, TableName]:
    """The first approximate index on a column, of the table and of each partition, by the relation's oid."""
    found = _existing(conn, _oids(conn, table), column)
    return {oid: TableName(indexes[0].schema, indexes[0].name) for oid, indexes in found.items() if indexes}


def _tree(conn: Connection, table: TableName) -> list[_Part]:
    """A table and its partitions, parents first; empty where there is no such table."""
    rows = conn.execute(_TREE, (_name(conn, table),)).fetchall()
    return [_Part(oid, parent, TableName(schema, name), leaf) for oid, parent, schema, name, leaf in rows]


def _oids(conn: Connection, table: TableName) -> list[int]:
    return [part.oid for part in _tree(conn, table)]


def _targets(conn: Connection, migration: Migration) -> list[_Target]:
    """Every relation that needs the index; an existing index on it lends its name, so that a rerun finds its own."""
    side = new_side(migration)
    root_name = index_name(conn, migration)
    # a side table that is still to come is shown by the plan
    tree = _tree(conn, side.table) or [_Part(0, 0, side.table, True)]
    existing = _existing(conn, [part.oid for part in tree], side.embedding)
    targets: dict[int, _Target] = {}
    for part in tree:
        wanted = root_name if not part.parent else _fit(f"{part.table.name}_{side.embedding}_idx")
        present = [index.name for index in existing[part.oid]]
        name = wanted if not present or wanted in present else present[0]
        above = targets[part.parent].index if part.parent else None
        targets[part.oid] = _Target(part.oid, part.table, part.leaf, name, above)
    return list(targets.values())


def _opclass(migration: Migration) -> str:
    return f"{migration.vector_type}_{migration.distance.value}_ops"


def _storage(conn: Connection, migration: Migration, options: IndexSettings, target: _Target) -> dict[str, str]:
    if options.method is IndexMethod.HNSW:
        return {"m": str(options.m), "ef_construction": str(options.ef_construction)}
    return {"lists": str(options.lists or ivfflat_lists(_rows(conn, target.table if target.oid else migration.table)))}


def _rows(conn: Connection, table: TableName) -> int:
    """The planner's count, or a real one where there is none yet."""
    row = conn.execute(
        "SELECT reltuples::int8 FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)", (_name(conn, table),)
    ).fetchone()
    if row is None or row[0] < 0:
        row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(relation(table))).fetchone()
    return int(row[0]) if row else 0


def _create(conn: Connection, migration: Migration, options: IndexSettings, target: _Target) -> sql.Composed:
    limit = MAX_DIMENSIONS[migration.vector_type]
    if migration.new_model.dimensions > limit:
        raise Refused(
            f"pgvector indexes {migration.vector_type} up to {limit:,} dimensions,"
            f" and {migration.new_model.name} has {migration.new_model.dimensions:,}.",
            hint="Use halfvec (up to 4,000), or fewer dimensions, or search without an index.",
        )
    return sql.SQL(
        "CREATE INDEX {how}{name} ON {only}{table} USING {method} ({column} {opclass}) WITH ({with_})"
    ).format(
        how=sql.SQL("CONCURRENTLY " if target.leaf else ""),
        name=sql.Identifier(target.name),
        only=sql.SQL("" if target.leaf else "ONLY "),
        table=relation(target.table),
        method=sql.SQL(options.method.value),
        column=sql.Identifier(new_side(migration).embedding),
        opclass=sql.Identifier(migration.vector_schema, _opclass(migration)),
        with_=sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(key), sql.SQL(value))
            for key, value in _storage(conn, migration, options, target).items()
        ),
    )


def _attach(target: _Target) -> sql.Composed:
    assert target.parent_index is not None
    return sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(relation(target.parent_index), relation(target.index))


def _require_equal(migration: Migration, options: IndexSettings, found: ExistingIndex) -> None:
    """Raises Refused where an index of our name would not be the one asked for."""
    defaults = _DEFAULTS[options.method]
    has = {"method": found.method, "opclass": found.opclass, **_DEFAULTS.get(IndexMethod(found.method), {})}
    has |= dict(found.options)
    wants = {"method": options.method.value, "opclass": _opclass(migration), **defaults}
    if options.method is IndexMethod.HNSW:
        wants |= {"m": str(options.m), "ef_construction": str(options.ef_construction)}
    else:
        # the number of rows, and with it the derived number of lists, moves on after the build
        wants["lists"] = str(options.lists) if options.lists is not None else has.get("lists", "")
    other = [f"{key} {has.get(key, 'none')}, not {value}" for key, value in wants.items() if has.get(key) != value]
    if other:
        raise Refused(f"Index {found.name} exists with {'; '.join(other)}.", hint="Drop it, or ask for what is there.")


def _require_free(conn: Connection, target: _Target) -> None:
    """Raises Refused where the name belongs to something else."""
    row = conn.execute("SELECT to_regclass(%s) IS NULL", (_name(conn, target.index),)).fetchone()
    if row != (True,):
        raise Refused(
            f"{target.index} exists and is not an index of the new vectors.", hint="Rename or drop it, then run again."
        )


# --------------------------------------------------------------------------------------------------------- status


def index_status(conn: Connection, migration: Migration) -> IndexStatus:
    """The index as it is now, building or not; a few catalog reads, fit for every snapshot."""
    side = new_side(migration)
    tree = _tree(conn, side.table)
    existing = _existing(conn, [part.oid for part in tree], side.embedding)
    root = existing[tree[0].oid] if tree else []
    status = IndexStatus(
        name=root[0].name if root else "",
        method=IndexMethod(root[0].method) if root else migration.index_method,
        exists=bool(root),
        valid=bool(root) and root[0].valid,
    )
    indexes = [index.oid for found in existing.values() for index in found]
    row = conn.execute(_PROGRESS, (list(existing), indexes)).fetchone()
    if row is None:
        return status
    _, phase, blocks_done, blocks_total, lockers_done, lockers_total, locker = row
    leaves = [part for part in tree if part.leaf]
    if len(leaves) > 1 and phase:
        ready = sum(any(index.valid for index in existing[part.oid]) for part in leaves)
        phase = f"partition {min(ready + 1, len(leaves))} of {len(leaves)}: {phase}"
    waiting = ""
    if locker:
        waiting = str(session(conn, locker))
        if lockers_total > 1:
            waiting += f" ({lockers_done + 1} of {lockers_total})"
    return replace(
        status,
        phase=phase or "building",
        done=min(blocks_done, blocks_total) if blocks_total else None,
        total=blocks_total or None,
        waiting_for=waiting,
    )


# ---------------------------------------------------------------------------------------------------------- build


def build(
    connect: Callable[[], Connection],
    migration: Migration,
    options: IndexSettings,
    stop: threading.Event,
    on_progress: Callable[[IndexStatus], None] | None = None,
) -> IndexBuild:
    """Makes the index and returns when it is valid; blocks for as long as that takes.

    A valid equal index is kept, an INVALID leftover is dropped and built anew. Where another process builds it, waits
    and watches, and takes over if that one dies. ``connect`` opens a direct connection in autocommit; two are used.
    ``on_progress`` is called about twice a second from a thread of its own.

    Raises Interrupted once ``stop`` is set (the build is cancelled, its leftover dropped where that takes no longer
    than ``DROP_SECONDS``), Refused where an index of that name is another one, LockTimeout, and psycopg's errors.
    """
    began = time.monotonic()
    if options.method is IndexMethod.NONE:
        return IndexBuild("", False, 0.0, 0)
    notices: list[str] = []
    with connect() as conn, connect() as watch:
        conn.add_notice_handler(lambda notice: notices.append(redact(notice.message_primary or "")))
        builder = _Builder(conn, watch, migration, options, stop, on_progress or (lambda status: None))
        built = builder.run()
        side = new_side(migration)
        root = new_indexes(conn, migration)
        if not root or not root[0].valid:
            raise DatabaseError("The index did not become valid.", hint="Run it again: what is invalid is rebuilt.")
        row = conn.execute(
            "SELECT sum(pg_relation_size(oid::oid::regclass))::int8 FROM unnest(%s::int8[]) AS oid",
            (
                [
                    index.oid
                    for found in _existing(conn, _oids(conn, side.table), side.embedding).values()
                    for index in found
                ],
            ),
        ).fetchone()
    return IndexBuild(root[0].name, built, time.monotonic() - began, row[0] if row else 0, tuple(notices))


class _Builder:
    """One build: a connection that builds and one that watches."""

    def __init__(
        self,
        conn: Connection,
        watch: Connection,
        migration: Migration,
        options: IndexSettings,
        stop: threading.Event,
        on_progress: Callable[[IndexStatus], None],
    ) -> None:
        self._conn = conn
        self._watch = watch
        self._migration = migration
        self._options = options
        self._stop = stop
        self._on_progress = on_progress

    def run(self) -> bool:
        """Makes every index of the tree valid; True where one had to be built."""
        # With a time-out beside one open writer CIC fails and leaves an INVALID index: it is watched instead.
        self._set("lock_timeout", "0")
        self._set("statement_timeout", "0")
        if self._conn.info.server_version >= 170000:
            self._set("transaction_timeout", "0")
        if self._options.maintenance_work_mem is not None:
            self._set("maintenance_work_mem", self._options.maintenance_work_mem)
        if self._options.parallel_workers is not None:
            self._set("max_parallel_maintenance_workers", str(self._options.parallel_workers))
        key = (f"{_LOCK}.{self._migration.id}",)
        self._become_builder(key)
        try:
            built = [self._ensure(target) for target in _targets(self._conn, self._migration)]
        finally:
            if not self._conn.closed:
                self._conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)
        self._on_progress(index_status(self._watch, self._migration))
        return any(built)

    def _set(self, name: str, value: str) -> None:
        self._conn.execute("SELECT set_config(%s, %s, false)", (name, value))

    def _become_builder(self, key: tuple[str]) -> None:
        """Takes the build's advisory lock; until it is free, watches whoever builds.

        Polled: a session that waited for the lock inside a statement would have a snapshot that the build waits for.
        A build by hand is waited for too: dropping its index as a leftover would undo somebody's work.
        """
        while True:
            row = self._conn.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", key).fetchone()
            status = index_status(self._watch, self._migration)
            if row == (True,):
                if not status.phase:
                    return
                self._conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)
            self._on_progress(status)
            if self._stop.wait(POLL):
                raise Interrupted("Stopped watching the index; the process that builds it goes on.")

    def _ensure(self, target: _Target) -> bool:
        """Makes one relation's index valid, and part of its parent's; True where it had to be built."""
        conn, column = self._conn, new_side(self._migration).embedding
        existing = _existing(conn, [target.oid], column)[target.oid]
        found = next((index for index in existing if index.name == target.name), None)
        if found is not None and target.leaf and not found.valid:
            with self._watched():
                self._drop(target)
            found = None
        if found is not None:
            _require_equal(self._migration, self._options, found)
        else:
            _require_free(conn, target)
            create = _create(conn, self._migration, self._options, target)
            if target.leaf:
                self._create_concurrently(create, target)
            else:
                run_ddl(conn, [create], stop=self._stop, relations=[target.table], blocks_reads=False)
        if target.parent_index is not None and (found is None or not found.attached):
            run_ddl(conn, [_attach(target)], stop=self._stop, relations=[target.parent_index])
        return found is None and target.leaf

    def _create_concurrently(self, create: sql.Composed, target: _Target) -> None:
        try:
            with self._watched():
                self._conn.execute(create)
        except (psycopg.Error, Interrupted):
            if not self._conn.closed:
                # bounded, since it waits for old transactions as well; no longer watched, so not cancelled again
                self._set("statement_timeout", f"{DROP_SECONDS}s")
                try:
                    self._drop(target)
                except psycopg.Error:
                    pass
            raise

    def _drop(self, target: _Target) -> None:
        self._conn.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(relation(target.index)))

    def _watched(self) -> AbstractContextManager[None]:
        return cancelled_by(self._conn, self._stop, lambda: self._on_progress(self._status_with_blockers()), every=POLL)

    def _status_with_blockers(self) -> IndexStatus:
        """The status, and before the server reports progress whose lock the statement waits for."""
        status = index_status(self._watch, self._migration)
        if status.waiting_for:
            return status
        blockers = self._watch.execute(
            "SELECT unnest(pg_catalog.pg_blocking_pids(%s))", (self._conn.info.backend_pid,)
        ).fetchall()
        return replace(status, waiting_for="; ".join(str(session(self._watch, pid)) for (pid,) in blockers[:3]))


# --------------------------------------------------------------------------------------------------------- search


def used_by_search(conn: Connection, migration: Migration, side: Side) -> SearchUse:
    """Asks the planner (EXPLAIN) whether a nearest-neighbour search of a side goes through its approximate index."""
    if side is Side.OLD:
        table, column, dimensions = migration.table, migration.old_column, migration.old_model.dimensions
    else:
        place = new_side(migration)
        table, column, dimensions = place.table, place.embedding, migration.new_model.dimensions
    names = {index.name for found in _existing(conn, _oids(conn, table), column).values() for index in found}
    probe = np.eye(1, dimensions, dtype=np.float32)
    statement = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(search_sql(migration, side))
    plans: list[str] = []
    with conn.transaction(), psycopg.ClientCursor(conn) as cursor:
        for ruled_out in ("off", "on"):
            # a sort of everything read is what an ordered index scan saves
            cursor.execute("SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on")
            if ruled_out == "on":
                cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
            row = cursor.execute(statement, {"vector": vector_text(probe[0]), "k": 10}).fetchone()
            assert row is not None
            plans.append(next((name for name in _index_names(row[0]) if name in names), ""))
    return SearchUse(used=bool(plans[0]), usable=bool(plans[1]), index=plans[0] or plans[1])


def _index_names(plan: Any) -> Iterator[str]:
    """Index names anywhere in an EXPLAIN document."""
    if isinstance(plan, list):
        for part in plan:
            yield from _index_names(part)
    elif isinstance(plan, dict):
        if "Index Name" in plan:
            yield plan["Index Name"]
        for part in plan.values():
            yield from _index_names(part)


def vector_text(vector: npt.NDArray[np.float32]) -> str:
    """pgvector's text form of one vector."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def is_cold(conn: Connection, migration: Migration) -> bool:
    """Whether the new side has an index that was hardly ever searched on this server."""
    side = new_side(migration)
    oids = [index.oid for found in _existing(conn, _oids(conn, side.table), side.embedding).values() for index in found]
    row = conn.execute(
        "SELECT sum(idx_scan) FROM pg_catalog.pg_stat_all_indexes WHERE indexrelid = ANY (%s::int8[]::oid[])", (oids,)
    ).fetchone()
    return row is not None and row[0] is not None and row[0] < WARM_SEARCHES


def prewarm(conn: Connection, migration: Migration, *, seconds: float = WARM_SECONDS) -> int:
    """Search the new side by some of its own vectors, so that not production is the first to read it from disk.

    Returns how many searches ended within ``seconds``, WARM_SEARCHES at most. It is a favour: nothing fails by it.
    """
    deadline = time.monotonic() + seconds
    side = new_side(migration)
    statement = search_sql(migration, Side.NEW)
    done = 0
    try:
        known = conn.execute(
            "SELECT sum(pg_relation_size(o::oid)) / current_setting('block_size')::int FROM unnest(%s::int8[]) AS o",
            (_oids(conn, side.table),),
        ).fetchone()
        pages = float(known[0] or 0) if known else 0.0
        # from a few pages all over the table, not all from the first of these
        vectors = _within(
            conn,
            deadline,
            sql.SQL(
                "SELECT {column}::text FROM (SELECT {column} FROM {table} TABLESAMPLE SYSTEM ({percent})"
                " WHERE {column} IS NOT NULL ORDER BY random() LIMIT {n}) v"
            ).format(
                column=sql.Identifier(side.embedding),
                table=relation(side.table),
                percent=sql.Literal(min(100.0, 100 * 10 * WARM_SEARCHES / max(1.0, pages))),
                n=sql.Literal(WARM_SEARCHES),
            ),
        )
        for (vector,) in vectors:
            if time.monotonic() >= deadline:
                break
            _within(conn, deadline, statement, {"vector": vector, "k": 10})
            done += 1
    except psycopg.Error:
        pass  # a slow disk, a lock: what was read is read
    return done


def _within(
    conn: Connection, deadline: float, query: sql.Composed, parameters: dict[str, object] | None = None
) -> list[tuple[Any, ...]]:
    """The rows of a query that is cancelled at the deadline."""
    with conn.transaction():
        left = max(1, int((deadline - time.monotonic()) * 1000))
        conn.execute("SELECT set_config('statement_timeout', %s, true)", (f"{left}ms",))
        return conn.execute(query, parameters).fetchall()
