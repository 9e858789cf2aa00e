"""Recorded evaluations: what was measured, the state it saw, and whether that still stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.engine.validate import measures
from embedtui.engine.validate.queries import both_present_sql, both_sides_sql, keys_sql, load, vector_column, verdicts
from embedtui.model import (
    Check,
    Comparison,
    EvaluationStatus,
    Interval,
    Key,
    Measures,
    Migration,
    QueryComparison,
    RankedRow,
    Remedy,
    SeenState,
    Side,
    SweepPoint,
)
from embedtui.postgres.connect import Connection, operator_name
from embedtui.postgres.sides.placement import content_sql, key_join_sql, new_side

VOID_SHARE = 0.05
"""Share of the rows that may change before an evaluation is void: a twentieth of the rows holds, on average, a
twentieth of the places in the rankings, so the mean overlap cannot have moved by much more."""

TEXT = 2000
"""Characters of a result's content that are read: what a screen or a report shows of it."""


@dataclass(frozen=True, slots=True)
class ApproximateIndex:
    """An hnsw or ivfflat index on a side's vectors."""

    oid: int
    name: str
    method: str
    valid: bool
    lists: int | None
    """Of ivfflat."""
    identity: str
    """Changes when it is dropped, built again or becomes invalid."""


def approximate_index(conn: Connection, migration: Migration, side: Side) -> ApproximateIndex | None:
    """The approximate index on a side's vector column; a valid one before an invalid one, then the newest."""
    found = new_side(migration)
    table, column = (migration.table, migration.old_column) if side is Side.OLD else (found.table, found.embedding)
    row = conn.execute(
        """
        SELECT c.oid::bigint, c.relname, am.amname, i.indisvalid,
               (SELECT option_value::int FROM pg_catalog.pg_options_to_table(c.reloptions)
                WHERE option_name = 'lists'),
               c.oid::text || ':' || i.indisvalid::int || ':' || coalesce(
                   pg_catalog.pg_relation_filenode(c.oid)::text,
                   (SELECT pg_catalog.string_agg(pg_catalog.pg_relation_filenode(p.relid)::text, ',' ORDER BY p.relid)
                    FROM pg_catalog.pg_partition_tree(c.oid) p), '')
        FROM pg_catalog.pg_class t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
        JOIN pg_catalog.pg_index i ON i.indrelid = t.oid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_am am ON am.oid = c.relam
        JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
        WHERE n.nspname = %s AND t.relname = %s AND a.attname = %s AND am.amname IN ('hnsw', 'ivfflat')
        ORDER BY i.indisvalid DESC, c.oid DESC LIMIT 1
        """,
        [table.schema, table.name, column],
    ).fetchone()
    return ApproximateIndex(*row) if row is not None else None


def observe(conn: Connection, migration: Migration, *, where: sql.Composable | None = None, request: str) -> SeenState:
    """The state a comparison is about to see. Reads the whole table once, without its vectors (200,000 rows: 0.1 s).

    Where even that takes longer than the statement time-out, the planner's estimate stands for the counts, and the
    digest is 0: then nothing is taken for unchanged.
    """
    now = _counters(conn, migration, after=None, at_most=0)
    index = approximate_index(conn, migration, Side.NEW)
    rows, both, one_sided, digest = _count(conn, migration, where)
    return SeenState(
        rows=rows,
        both=both,
        one_sided=one_sided,
        digest=digest,
        heaps=now.heaps,
        old_model=migration.old_model.id or 0,
        new_model=migration.new_model.id or 0,
        index=index.name if index is not None else "",
        index_identity=index.identity if index is not None else "",
        inserted=now.inserted,
        updated=now.updated,
        deleted=now.deleted,
        captured=now.captured,
        queue_position=now.queue_position,
        synced=now.synced,
        backfilled=now.backfilled,
        request=request,
    )


def _count(conn: Connection, migration: Migration, where: sql.Composable | None) -> tuple[int, int, int, int]:
    old, new = vector_column(migration, Side.OLD), vector_column(migration, Side.NEW)
    table = migration.table.name
    versions = [sql.Identifier(table, "tableoid"), sql.Identifier(table, "ctid"), sql.Identifier(table, "xmin")]
    if new_side(migration).table != migration.table:
        versions.append(sql.Identifier("embedtui_xmin"))
    query = sql.SQL(
        "SELECT count(*), count(*) FILTER (WHERE {both}), count(*) FILTER (WHERE ({old} IS NULL) <> ({new} IS NULL)),"
        " coalesce(pg_catalog.bit_xor(pg_catalog.hash_record_extended(ROW({versions}), 0)), 0) FROM {sides}{where}"
    ).format(
        both=both_present_sql(migration),
        old=old,
        new=new,
        versions=sql.SQL(", ").join(versions),
        sides=both_sides_sql(migration),
        where=sql.SQL(" WHERE ({})").format(where) if where is not None else sql.SQL(""),
    )
    try:
        row = conn.execute(query).fetchone()
    except psycopg.errors.QueryCanceled:
        row = conn.execute(
            "SELECT greatest(reltuples, 0)::bigint, greatest(reltuples, 0)::bigint, 0, 0 FROM pg_catalog.pg_class"
            " WHERE oid = %s",
            [migration.table_oid],
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


@dataclass(frozen=True, slots=True)
class _Counters:
    heaps: str
    inserted: int
    updated: int
    deleted: int
    captured: bool
    queue_position: int
    queued_after: int
    synced: int
    backfilled: int


def _counters(conn: Connection, migration: Migration, *, after: int | None, at_most: int) -> _Counters:
    """What tells without a scan how far the table moved; entries queued ``after`` a position are counted up to a bound.

    The server's write counters lag by up to ten seconds, which does no harm to a share of the table.
    """
    side = new_side(migration)
    row = conn.execute(
        """
        WITH leaf AS (
            SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass) WHERE isleaf
            UNION SELECT %(table)s::oid::regclass),
        heap AS (SELECT relid FROM leaf UNION SELECT pg_catalog.to_regclass(%(side)s))
        SELECT (SELECT pg_catalog.string_agg(pg_catalog.pg_relation_filenode(relid)::text, ',' ORDER BY relid)
                FROM heap),
               (SELECT sum(pg_catalog.pg_stat_get_tuples_inserted(relid))::bigint FROM leaf),
               (SELECT sum(pg_catalog.pg_stat_get_tuples_updated(relid))::bigint FROM leaf),
               (SELECT sum(pg_catalog.pg_stat_get_tuples_deleted(relid))::bigint FROM leaf),
               EXISTS (SELECT FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                       WHERE t.tgrelid = %(table)s AND p.pronamespace = 'embedtui'::regnamespace),
               coalesce(pg_catalog.pg_sequence_last_value(
                   pg_catalog.pg_get_serial_sequence('embedtui.queue', 'id')::regclass), 0),
               (SELECT count(*) FROM (SELECT FROM embedtui.queue WHERE migration = %(migration)s AND id > %(after)s
                                      LIMIT %(at_most)s) q),
               (SELECT synced FROM embedtui.migration WHERE id = %(migration)s),
               (SELECT coalesce(sum(rows), 0)::bigint FROM embedtui.shard WHERE migration = %(migration)s)
        """,
        {
            "table": migration.table_oid,
            "side": sql.Identifier(side.table.schema, side.table.name).as_string(conn),
            "migration": migration.id,
            "after": after,
            "at_most": at_most,
        },
    ).fetchone()
    assert row is not None
    return _Counters(*row)


# -------------------------------------------------------------------------------------------------------- kept


def record(
    conn: Connection, migration: Migration, comparison: Comparison, void_share: float = VOID_SHARE
) -> Comparison:
    """Append a judged comparison to embedtui.evaluation; returned with its id and time.

    It is void once more than ``void_share`` of the rows have changed.
    """
    assert comparison.seen is not None
    figures = comparison.measures
    summary = {
        "overlap": figures.overlap.mean,
        "low_overlap": figures.low_overlap,
        "ndcg_old": figures.ndcg_old.mean if figures.ndcg_old is not None else None,
        "ndcg_new": figures.ndcg_new.mean if figures.ndcg_new is not None else None,
    }
    row = conn.execute(
        "INSERT INTO embedtui.evaluation (migration, who, k, queries, measures, checks, verdict, state)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id, at",
        [
            migration.id,
            operator_name(),
            comparison.k,
            figures.queries,
            Jsonb(
                {
                    "measures": asdict(figures),
                    "rankings": [_packed(query) for query in comparison.queries],
                    "partial": comparison.partial,
                    "where": comparison.where,
                }
            ),
            Jsonb([asdict(check) for check in comparison.checks]),
            comparison.verdict,
            # the summary is kept apart from the rankings, so that a snapshot need not unpack them
            Jsonb({"seen": asdict(comparison.seen), "summary": summary, "void_share": void_share}),
        ],
    ).fetchone()
    assert row is not None
    return replace(comparison, evaluation_id=row[0], at=row[1])


def remembered(conn: Connection, migration: Migration, unchanged: SeenState | None = None) -> Comparison | None:
    """The newest recorded comparison with its rankings, the texts as they are now, and the verdicts given since.

    Args:
        conn: connection in autocommit.
        migration: the migration as stored.
        unchanged: only if it was asked the same of the same state.
    """
    row = conn.execute(
        "SELECT id, at, k, measures, checks, verdict, state->'seen' FROM embedtui.evaluation WHERE migration = %(m)s"
        " AND (%(digest)s::text IS NULL OR"
        " (state->'seen'->>'digest' = %(digest)s AND state->'seen'->>'request' = %(request)s))"
        " ORDER BY id DESC LIMIT 1",
        {
            "m": migration.id,
            "digest": str(unchanged.digest) if unchanged is not None else None,
            "request": unchanged.request if unchanged is not None else None,
        },
    ).fetchone()
    if row is None:
        return None
    number, at, k, kept, checks, verdict, seen_fields = row
    seen = SeenState(**seen_fields)
    if unchanged is not None and (unchanged.digest == 0 or _essence(seen) != _essence(unchanged)):
        return None
    ids = [entry["id"] for entry in kept["rankings"]]
    queries = {query.id: query.query for query in load(conn, migration, ids)}
    keys = {tuple(place[0]) for entry in kept["rankings"] for side in ("old", "new") for place in entry[side]}
    contents = texts(conn, migration, sorted(keys))
    comparison = Comparison(
        k=k,
        queries=tuple(
            ranked_query(
                entry["id"],
                queries[entry["id"]].text,
                [(tuple(key), distance) for key, distance, _ in entry["old"]],
                [(tuple(key), distance) for key, distance, _ in entry["new"]],
                contents,
                k,
                missed={side: {tuple(key) for key, _, missed in entry[side.value] if missed} for side in Side},
                gains=dict(queries[entry["id"]].relevant),
                row=queries[entry["id"]].row,
                ndcg_old=entry["ndcg_old"],
                ndcg_new=entry["ndcg_new"],
                index_recall=entry["index_recall"],
            )
            for entry in kept["rankings"]
            if entry["id"] in queries
        ),
        measures=_unpacked(kept["measures"]),
        partial=kept["partial"],
        evaluation_id=number,
        verdict=verdict,
        checks=tuple(_check(check) for check in checks),
        at=at,
        seen=seen,
        where=kept["where"],
    )
    return with_verdicts(conn, comparison)


def _check(stored: Mapping[str, Any]) -> Check:
    return Check(**{**stored, "remedies": tuple(map(Remedy, stored.get("remedies", ())))})


def _essence(seen: SeenState) -> tuple[object, ...]:
    """What has to be equal for a comparison to come out the same; the server's counters lag and are left out."""
    return seen.digest, seen.request, seen.heaps, seen.index_identity, seen.old_model, seen.new_model


def with_verdicts(conn: Connection, comparison: Comparison) -> Comparison:
    """The comparison with the operators' present verdicts, and their sums."""
    given = verdicts(conn, [query.query_id for query in comparison.queries])
    queries = tuple(
        replace(query, verdict=found.verdict, note=found.note)
        if (found := given.get(query.query_id)) is not None
        else replace(query, verdict="", note="")
        for query in comparison.queries
    )
    wins = {verdict: sum(query.verdict == verdict for query in queries) for verdict in ("new", "old")}
    figures = replace(
        comparison.measures,
        wins_new=wins["new"],
        wins_old=wins["old"],
        verdict_p=measures.sign_test(wins["new"], wins["old"]),
    )
    return replace(comparison, queries=queries, measures=figures)


def ranked_query(
    number: int,
    text: str,
    old: Sequence[tuple[Key, float]],
    new: Sequence[tuple[Key, float]],
    contents: Mapping[Key, str],
    k: int,
    *,
    missed: Mapping[Side, set[Key]],
    gains: Mapping[Key, float],
    row: Key | None,
    ndcg_old: float | None,
    ndcg_new: float | None,
    index_recall: float | None,
) -> QueryComparison:
    """One query's two rankings (key and distance, nearest first) side by side."""
    keys = {Side.OLD: [key for key, _ in old[:k]], Side.NEW: [key for key, _ in new[:k]]}
    ranks = {side: {key: rank for rank, key in enumerate(found, 1)} for side, found in keys.items()}

    def rows(side: Side, ranking: Sequence[tuple[Key, float]]) -> tuple[RankedRow, ...]:
        return tuple(
            RankedRow(key, rank, distance, contents.get(key, ""), ranks[side.other].get(key), key in missed[side])
            for rank, (key, distance) in enumerate(ranking[:k], 1)
        )

    return QueryComparison(
        query_id=number,
        text=text,
        old=rows(Side.OLD, old),
        new=rows(Side.NEW, new),
        overlap=measures.overlap(keys[Side.OLD], keys[Side.NEW], k),
        rbo=measures.rbo(keys[Side.OLD], keys[Side.NEW]),
        top1_kept=measures.top1_kept(keys[Side.OLD], keys[Side.NEW]),
        relevant=tuple(key for key, gain in gains.items() if gain > 0),
        ndcg_old=ndcg_old,
        ndcg_new=ndcg_new,
        row=row,
        index_recall=index_recall,
    )


def texts(conn: Connection, migration: Migration, keys: Sequence[Key]) -> dict[Key, str]:
    """The first characters (:data:`TEXT`) of these rows' content, in one statement; rows that are gone are absent."""
    alias = migration.table.name
    rows = conn.execute(
        sql.SQL("SELECT k.key, pg_catalog.left({content}, {length}) FROM {keys} JOIN {table} ON {match}").format(
            content=content_sql(migration, alias),
            length=sql.Literal(TEXT),
            keys=keys_sql(),
            table=sql.Identifier(migration.table.schema, migration.table.name),
            match=key_join_sql(migration, alias, sql.SQL("k.key")),
        ),
        {"keys": Jsonb([list(key) for key in keys])},
    )
    return {tuple(key): text for key, text in rows}


def _packed(query: QueryComparison) -> dict[str, object]:
    return {
        "id": query.query_id,
        "old": [[row.key, row.distance, row.missed] for row in query.old],
        "new": [[row.key, row.distance, row.missed] for row in query.new],
        "ndcg_old": query.ndcg_old,
        "ndcg_new": query.ndcg_new,
        "index_recall": query.index_recall,
    }


_INTERVALS = (
    *("overlap", "rbo", "ndcg_old", "ndcg_new", "ndcg_difference", "ndcg_served"),
    *("recall_old", "recall_new", "mrr_old", "mrr_new"),
)


def _unpacked(kept: Mapping[str, Any]) -> Measures:
    values = {field.name: kept[field.name] for field in fields(Measures) if field.name in kept}
    for name in _INTERVALS:
        figure = values.get(name)
        # recorded by an earlier version, recall and MRR had no interval: they are unknown until compared again
        values[name] = Interval(**figure) if isinstance(figure, Mapping) else None
    for name in ("histogram", "latency_old_ms", "latency_new_ms", "unknown"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    values["sweep"] = tuple(SweepPoint(**point) for point in values.get("sweep", ()))
    return Measures(**values)


# -------------------------------------------------------------------------------------------------- still valid?


def current_evaluation(conn: Connection, migration: Migration) -> EvaluationStatus | None:
    """The newest evaluation and whether it is still about the present state; None if there is none.

    Cheap enough for every snapshot: counters, catalog and the tail of the queue, never the table.
    """
    row = conn.execute(
        "SELECT id, at, queries, verdict, state->'summary', state->'seen', (state->>'void_share')::float8"
        " FROM embedtui.evaluation"
        " WHERE migration = %s ORDER BY id DESC LIMIT 1",
        [migration.id],
    ).fetchone()
    if row is None:
        return None
    number, at, queries, verdict, summary, seen, void_share = row
    why = _why_void(conn, migration, SeenState(**seen), void_share)
    return EvaluationStatus(
        id=number,
        at=at,
        queries=queries,
        mean_overlap=summary["overlap"],
        low_overlap=summary["low_overlap"],
        verdict=verdict,
        valid=not why,
        why_void=why,
        judged_old=summary["ndcg_old"],
        judged_new=summary["ndcg_new"],
    )


def _why_void(conn: Connection, migration: Migration, seen: SeenState, share: float) -> str:
    """Empty while the state has not moved by more than ``share`` of its rows."""
    if (seen.old_model, seen.new_model) != (migration.old_model.id, migration.new_model.id):
        return "it compared other models"
    allowed = int(share * seen.rows)
    now = _counters(conn, migration, after=seen.queue_position, at_most=allowed + 1)
    if now.heaps != seen.heaps:
        return "the table was truncated or rewritten since"
    index = approximate_index(conn, migration, Side.NEW)
    if (index.identity if index is not None else "") != seen.index_identity:
        if index is None:
            return f"the index {seen.index} it saw is gone"
        return f"the index {index.name} was built since" if index.valid else f"the index {index.name} is invalid"
    inserted, deleted = now.inserted - seen.inserted, now.deleted - seen.deleted
    updated = 0 if seen.captured else now.updated - seen.updated
    if min(inserted, deleted, updated) < 0:
        return "the server's write counters were reset (a crash?), so how far the table moved is unknown"
    captured = now.queued_after + max(0, now.synced - seen.synced)
    moved = max(inserted + deleted + updated, captured, now.backfilled - seen.backfilled)
    if moved > allowed:
        percent = f"{100 * moved / max(1, seen.rows):.0f} %"
        return f"{moved:,} of {seen.rows:,} rows changed since ({percent}, more than {100 * share:g} %)"
    return ""
