"""What an old column holds (sizes, gaps, lengths of its vectors), and which distance its indexes serve; read-only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql

from embedtui.model import Distance
from embedtui.postgres.catalog.facts import Column, TableFacts
from embedtui.postgres.catalog.read import read_all
from embedtui.postgres.names import relation, shown_column

ROWS = 5000
"""Vectors that are looked at in a big table: of what one row in a thousand holds, 99 % odds to meet it."""

FEW_ROWS = 50
"""Of so many rows, none by chance has its last numbers zero in all of them."""

WHOLE_BYTES = 64 * 2**20
"""A table up to this size is read as a whole (a fraction of a second)."""

VALUES = 20
"""Different values of a column that can tell collections apart; more would be no list to read."""

_PAGES = 2000

SERVING = r"""
SELECT x.indrelid, x.indexrelid, x.indisvalid, f.*,
       x.indpred IS NULL OR EXISTS (
           SELECT FROM pg_catalog.regexp_match(x.indpred::text,
                    '^\(?\{NULLTEST :arg \{VAR :varno \d+ :varattno (\d+) [^{}]*\} :nulltesttype 1 [^{}]*\}\)?$') AS e
           JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = e[1]::int2
           WHERE a.attname = f.column_name) AS whole
FROM pg_catalog.pg_index x
CROSS JOIN LATERAL (
    SELECT (SELECT o.opcname FROM pg_catalog.pg_opclass o WHERE o.oid = x.indclass[0]) AS opcname,
           (SELECT op.oprname
            FROM pg_catalog.pg_opclass o
            JOIN pg_catalog.pg_amop s ON s.amopfamily = o.opcfamily AND s.amoplefttype = o.opcintype
            JOIN pg_catalog.pg_operator op ON op.oid = s.amopopr
            WHERE o.oid = x.indclass[0] AND s.amoppurpose = 'o' AND op.oprname IN ('<=>', '<->', '<#>')
            ORDER BY s.amopstrategy LIMIT 1) AS operator,
           CASE WHEN x.indkey[0] <> 0 THEN
               (SELECT a.attname FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = x.indrelid AND a.attnum = x.indkey[0])
           ELSE
               (SELECT a.attname
                FROM pg_catalog.regexp_match(x.indexprs::text,
                         '^\(\{FUNCEXPR :funcid (\d+) [^{}]*:args \(\{VAR :varno \d+ :varattno (\d+) [^{}]*\}'
                         '( \{CONST [^{}]*\})*\) :location -?\d+\}\)$') AS e
                JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = e[2]::int2
                JOIN pg_catalog.pg_attribute k ON k.attrelid = x.indexrelid AND k.attnum = 1
                JOIN pg_catalog.pg_cast c ON c.castsource = a.atttypid AND c.casttarget = k.atttypid
                                         AND c.castfunc = e[1]::oid)
           END AS column_name,
           CASE WHEN x.indkey[0] <> 0 THEN '' ELSE
               (SELECT t.typname::text FROM pg_catalog.pg_attribute k JOIN pg_catalog.pg_type t ON t.oid = k.atttypid
                WHERE k.attrelid = x.indexrelid AND k.attnum = 1 AND t.typname IN ('vector', 'halfvec'))
           END AS cast_to
    OFFSET 0
) f
"""
"""Indexes that order a column by a distance: on it, or on a cast of it (``cast_to``), by any method; of the ``whole``
table or partial, which a search without the index's predicate cannot use. (That the vector is not NULL is said by
every search of ours, and by no index: it holds no NULLs.)

The expression is told from the stored tree: ``pg_get_indexdef`` takes a lock, and a look-up of the route waits for
nobody."""

SEARCH_TYPE = f"""
WITH RECURSIVE tree AS (
    SELECT served.of_table AS oid
    UNION ALL
    SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
)
SELECT x.cast_to FROM tree CROSS JOIN LATERAL ({SERVING} WHERE x.indrelid = tree.oid) x
-- most tables have no index on an expression: a route is looked up often
WHERE EXISTS (SELECT FROM tree t JOIN pg_catalog.pg_index e ON e.indrelid = t.oid WHERE e.indexprs IS NOT NULL)
  AND x.column_name = served.of_column AND x.operator = served.of_operator
  AND x.cast_to IS NOT NULL AND x.indisvalid
GROUP BY x.cast_to ORDER BY bool_or(x.whole AND tree.oid = served.of_table) DESC, bool_or(x.whole) DESC,
    bool_or(tree.oid = served.of_table) DESC, count(*) DESC, x.cast_to LIMIT 1
"""
"""What a search has to cast the column of ``served`` to, so that its index serves; empty: nothing. An index of the
whole table tells, else those of most partitions, else partial ones, by which a search with their predicate goes; NULL
where there is none."""


_INDEXES = f"""
WITH RECURSIVE tree AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
)
SELECT i.relname::text AS name, m.amname::text AS method, o.opcname::text AS opclass,
       (SELECT op.oprname::text FROM pg_amop s JOIN pg_operator op ON op.oid = s.amopopr
         WHERE s.amopfamily = o.opcfamily AND s.amoplefttype = o.opcintype AND s.amoppurpose = 'o'
         ORDER BY s.amopstrategy LIMIT 1) AS operator,
       pg_get_indexdef(i.oid, 1, false) AS of, x.indkey[0] = 0 AS expression,
       coalesce((SELECT s.cast_to FROM ({SERVING} WHERE x.indexrelid = i.oid) s
                  WHERE s.column_name = %(column)s), '') AS cast_to,
       CASE WHEN NOT coalesce((SELECT s.whole FROM ({SERVING} WHERE x.indexrelid = i.oid) s
                                WHERE s.column_name = %(column)s), false)
            THEN pg_get_expr(x.indpred, x.indrelid) END AS predicate, x.indisvalid AS valid
  FROM tree JOIN pg_index x ON x.indrelid = tree.oid
  JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
  JOIN pg_opclass o ON o.oid = x.indclass[0]
 WHERE (NOT i.relispartition OR tree.oid = %(oid)s) AND m.amname NOT IN ('btree', 'hash', 'gin', 'brin')
   -- by name: a partition numbers its columns as it likes
   AND (EXISTS (SELECT FROM pg_attribute a
                 WHERE a.attrelid = x.indrelid AND a.attnum = x.indkey[0] AND a.attname = %(column)s)
        OR EXISTS (SELECT FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = i.oid AND d.refobjid = x.indrelid
                      AND x.indkey[0] = 0 AND a.attname = %(column)s))
 ORDER BY x.indisvalid DESC, i.relname
"""


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """An approximate index on a vector column: on itself or an expression over it, of a table or a partition."""

    name: str
    method: str
    """``hnsw``, ``ivfflat``, or another extension's: ``diskann``, ``vchordrq``."""
    opclass: str
    operator: str | None
    """That it orders by."""
    of: str
    """The column or the expression, as SQL."""
    expression: bool
    cast_to: str
    """The type that the expression casts the column to, where it is but a cast; empty for other expressions, too."""
    predicate: str | None
    """Of a partial index."""
    valid: bool

    @property
    def distance(self) -> Distance | None:
        """What it orders by; None where that is none of ours (``bit_hamming_ops``)."""
        return next((each for each in Distance if each.operator == self.operator), None)

    @property
    def serves(self) -> bool:
        """Whether a search of the whole table, by its distance, can go through it."""
        return (
            self.valid
            and self.distance is not None
            and self.predicate is None
            and bool(self.cast_to or not self.expression)
        )

    @property
    def dimensions(self) -> int | None:
        """Of the type that its expression casts the column to; of another one (a part, a quantised form) none."""
        if not self.cast_to:
            return None
        match = re.search(r"(?:vector|halfvec)\((\d+)\)", self.of)
        return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """What was found in a vector column, in the rows that were looked at."""

    rows: int
    nulls: int
    zeros: int
    sizes: tuple[tuple[int, int], ...]
    """(dimensions, rows), the most frequent first."""
    shortest: float | None
    """Length (L2 norm) of the shortest vector that is not zero; None where there is none."""
    longest: float | None
    whole: bool
    """All rows were looked at."""

    @property
    def unit(self) -> bool:
        """Whether all are of length 1, but for rounding."""
        return self.shortest is not None and self.longest is not None and is_unit(self.shortest, self.longest)


def is_unit(*lengths: float) -> bool:
    """Whether lengths are 1 but for rounding; providers that normalise are within a thousandth."""
    return all(abs(length - 1) < 0.01 for length in lengths)


def vector_indexes(conn: Connection[Any], oid: int, column: str) -> tuple[VectorIndex, ...]:
    """Approximate indexes of a table and its partitions, valid ones first.

    Of any method; their first key is the vector column or an expression over it.
    """
    return tuple(VectorIndex(**row) for row in read_all(conn, _INDEXES, {"oid": oid, "column": column}))


def why_unserved(indexes: Sequence[VectorIndex], distance: Distance) -> str | None:
    """Why no index on a column serves a search of the whole table by ``distance``; None: one does, or none is there.

    An application that searches by its index is then faster than our searches, which read the whole table.
    """
    ours = [index for index in indexes if index.distance is distance]
    if not ours or any(index.serves for index in ours):
        return None
    index = ours[0]
    name = shown_column(index.name)
    if not index.valid:
        return f"index {name} is invalid"
    if index.expression and not index.cast_to:
        return f"index {name} is on {index.of}"
    others = f", and {len(ours) - 1:,} more like it" if len(ours) > 1 else ""
    return f"index {name} is of the rows where {index.predicate} only{others}"


def told_distances(indexes: Sequence[VectorIndex]) -> tuple[Distance, ...]:
    """Distances that indexes serve, each once."""
    return tuple(dict.fromkeys(index.distance for index in indexes if index.distance is not None))


def stored_vectors(
    conn: Connection[Any], facts: TableFacts, column: str, vector_schema: str, scope: sql.Composable | None = None
) -> StoredVectors:
    """Count sizes, NULLs, zero vectors and lengths: of a small table all, of a bigger one of a random sample.

    ``scope``: condition on the row called ``t`` that counts; of a big table the first such rows are looked at.
    """
    kind = facts.column(column)
    norm = "l2_norm" if kind is not None and kind.base_type == "halfvec" else "vector_norm"
    rows, whole = _looked_at(facts, (column,), scope)
    found = read_all(
        conn,
        sql.SQL(
            "SELECT CASE WHEN v IS NOT NULL THEN {dims}(v) END AS size, count(*) AS rows,"
            " count(*) FILTER (WHERE norm = 0) AS zeros,"
            " min(norm) FILTER (WHERE norm > 0) AS shortest, max(norm) FILTER (WHERE norm > 0) AS longest"
            " FROM (SELECT {column} AS v, {norm}({column}) AS norm FROM {rows}) s GROUP BY 1 ORDER BY 2 DESC, 1"
        ).format(
            dims=sql.Identifier(vector_schema, "vector_dims"),
            norm=sql.Identifier(vector_schema, norm),
            column=sql.Identifier("t", column),
            rows=rows,
        ),
    )
    held = [row for row in found if row["size"] is not None]
    return StoredVectors(
        rows=sum(row["rows"] for row in found),
        nulls=sum(row["rows"] for row in found if row["size"] is None),
        zeros=sum(row["zeros"] for row in held),
        sizes=tuple((row["size"], row["rows"]) for row in held),
        shortest=min((row["shortest"] for row in held if row["shortest"] is not None), default=None),
        longest=max((row["longest"] for row in held if row["longest"] is not None), default=None),
        whole=whole,
    )


def filled_size(
    conn: Connection[Any], facts: TableFacts, column: str, scope: sql.Composable | None = None
) -> int | None:
    """Numbers of the column's vectors up to the last one that is not zero, in some rows; None where there are none.

    Fewer than the column's size: somebody pads its vectors with zeros.
    """
    (found,) = read_all(
        conn,
        sql.SQL(
            "SELECT max((SELECT max(u.place) FROM unnest(v::real[]) WITH ORDINALITY AS u (number, place)"
            " WHERE u.number <> 0))::int AS filled"
            " FROM (SELECT {column} AS v FROM {table} AS t WHERE {column} IS NOT NULL AND {scope} LIMIT {rows}) s"
        ).format(
            column=sql.Identifier("t", column),
            table=relation(facts.table),
            scope=scope if scope is not None else sql.SQL("true"),
            rows=sql.Literal(FEW_ROWS),
        ),
    )
    return found["filled"]  # type: ignore[no-any-return]


def telling_column(
    conn: Connection[Any],
    facts: TableFacts,
    candidates: Sequence[Column],
    column: str,
    vector_schema: str,
    scope: sql.Composable | None = None,
) -> tuple[str, dict[str, int]] | None:
    """Of the candidates one each of whose values goes with one size of vector, and the sizes; None where none does.

    ``scope``: condition on the row called ``t`` that counts.
    """
    for name in (each.name for each in candidates if _may_tell(each.base_type)):
        if any(key.columns == (name,) for key in facts.keys):
            continue
        rows, _ = _looked_at(facts, (name, column), scope)
        found = read_all(
            conn,
            sql.SQL(
                "SELECT coalesce({name}::text, 'NULL') AS value, array_agg(DISTINCT {dims}({column})) AS sizes"
                " FROM {rows} WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1 LIMIT {limit}"
            ).format(
                name=sql.Identifier("t", name),
                column=sql.Identifier("t", column),
                dims=sql.Identifier(vector_schema, "vector_dims"),
                rows=rows,
                limit=sql.Literal(VALUES + 1),
            ),
        )
        if 1 < len(found) <= VALUES and all(len(row["sizes"]) == 1 for row in found):
            return name, {row["value"]: row["sizes"][0] for row in found}
    return None


def _may_tell(base_type: str) -> bool:
    return base_type in ("uuid", "text", "varchar", "bpchar", "int2", "int4", "int8", "bool")


def _looked_at(
    facts: TableFacts, columns: Sequence[str], scope: sql.Composable | None = None
) -> tuple[sql.Composed, bool]:
    """FROM item ``t`` of the rows to look at, with these columns; and whether it is all of them."""
    total = facts.total_bytes - sum(index.bytes for index in facts.indexes)
    if total <= WHOLE_BYTES:
        if scope is not None:
            return sql.SQL("(SELECT * FROM {} AS t WHERE {}) AS t").format(relation(facts.table), scope), True
        return sql.SQL("{} AS t").format(relation(facts.table)), True
    if scope is not None:
        # most rows of a random sample might be others: these are found by an index on what tells them apart
        return sql.SQL("(SELECT {} FROM {} AS t WHERE {} LIMIT {}) AS t").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), relation(facts.table), scope, sql.Literal(ROWS)
        ), False
    pages = max(1.0, facts.heap_bytes / 8192)
    # drawn before the vectors are read, which lie elsewhere (TOAST) where they are long
    return sql.SQL(
        "(SELECT {columns} FROM {table} TABLESAMPLE SYSTEM ({percent}) ORDER BY random() LIMIT {limit}) AS t"
    ).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        table=relation(facts.table),
        percent=sql.Literal(round(min(100.0, max(0.0001, 100 * _PAGES / pages)), 6)),
        limit=sql.Literal(ROWS),
    ), False
