"""Rows drawn over the whole table, the same again while they stand: by pages far apart, and by their keys' hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.arrays import np, npt
from embedtui.model import Key, Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import blocks_sql, key_join_sql, key_sql, keys_sql, relation
from embedtui.postgres.sides.both import vector_number
from embedtui.postgres.sides.layout import scope_sql
from embedtui.postgres.state.shards import Shard

_GOLDEN = (5**0.5 - 1) / 2
ROWS_PER_TURN = 4
"""Rows of a page at a time: rows that were stored together are often alike."""
_PAGES_PER_READ = 32

_PAGE = """
(SELECT {page}, {key} FROM {leaf} t
 WHERE {in_blocks} AND {in_scope} AND t.{old} IS NOT NULL
   AND NOT EXISTS (SELECT FROM embedtui.fault f WHERE f.migration = {migration} AND f.side = 'new' AND f.key = {key}
                   AND f.state <> 'retry')
   AND NOT EXISTS (SELECT FROM embedtui.stale x WHERE x.migration = {migration} AND x.key = {key})
 ORDER BY pg_catalog.hashtextextended(({key})::text, 11) LIMIT {rows} OFFSET {offset})
"""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A row that was drawn, by its key, and the page it stands on."""

    shard: Shard
    page: int
    key: Key


def spread(shards: Sequence[Shard]) -> Iterator[list[tuple[Shard, int]]]:
    """All single pages in batches; however many of these are read, their pages are spread evenly over the table."""
    sizes = np.array([each.last_block - each.first_block + 1 for each in shards], np.int64)
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    # every beginning of this order divides the table evenly (the golden ratio's multiples)
    order = np.argsort((np.arange(total) * _GOLDEN) % 1)
    for start in range(0, total, _PAGES_PER_READ):
        numbers = order[start : start + _PAGES_PER_READ]
        at = np.searchsorted(ends, numbers, side="right")
        within = numbers - (ends[at] - sizes[at])
        yield [(shards[each], shards[each].first_block + int(page)) for each, page in zip(at, within, strict=True)]


def draw(conn: Connection, migration: Migration, batch: Sequence[tuple[Shard, int]], turn: int) -> list[Drawn]:
    """Rows of these pages that have the old model's vector and no fault: a few of each, others at every ``turn``."""
    selects = [
        sql.SQL(_PAGE).format(
            page=sql.Literal(number),
            key=key_sql(migration, "t"),
            leaf=relation(shard.leaf),
            in_blocks=blocks_sql("t", page, page),
            in_scope=scope_sql(migration, "t"),
            old=sql.Identifier(migration.old_column),
            migration=sql.Literal(migration.id),
            rows=sql.Literal(ROWS_PER_TURN),
            offset=sql.Literal(turn * ROWS_PER_TURN),
        )
        for number, (shard, page) in enumerate(batch)
    ]
    found = conn.execute(sql.SQL(" UNION ALL ").join(selects), prepare=False)
    return [Drawn(batch[at][0], batch[at][1], tuple(key)) for at, key in found]


def old_vectors(conn: Connection, migration: Migration, keys: Sequence[Key]) -> npt.NDArray[np.float32]:
    """Old vectors of rows, in no order; of other dimensions none."""
    send = sql.Identifier(migration.vector_schema, f"{migration.old_vector_type}_send")
    rows = conn.execute(
        sql.SQL("SELECT {send}(t.{old}) FROM {keys} JOIN {table} t ON {match} WHERE t.{old} IS NOT NULL").format(
            send=send,
            old=sql.Identifier(migration.old_column),
            keys=keys_sql(keys),
            table=relation(migration.table),
            match=key_join_sql(migration, "t", sql.SQL("embedtui_k.key")),
        ),
        binary=True,
    )
    number = vector_number(migration, Side.OLD)
    found = [np.frombuffer(raw, number, offset=4).astype(np.float32) for (raw,) in rows]
    found = [each for each in found if len(each) == migration.old_model.dimensions]
    return np.stack(found) if found else np.empty((0, migration.old_model.dimensions), np.float32)
