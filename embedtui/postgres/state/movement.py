"""How far a table has moved since an evaluation, told without a scan."""

from __future__ import annotations

from dataclasses import dataclass

from embedtui.model import Migration
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side


@dataclass(frozen=True, slots=True)
class Movement:
    """Counters of a table and of our work on it; only their differences mean anything."""

    heaps: str
    """Changes when the table or the side table is truncated or rewritten."""
    inserted: int
    updated: int
    deleted: int
    captured: bool
    """Change capture is installed."""
    queue_position: int
    queued_after: int
    """Rows with entries behind the position that was asked for, counted up to a bound."""
    synced: int
    backfilled: int


def read_movement(conn: Connection, migration: Migration, *, after: int | None, at_most: int) -> Movement:
    """What tells without a scan how far the table moved; rows queued ``after`` a position are counted up to a bound.

    An application that inserts a row and then writes its vector has two entries of one row. Twice as many as the bound
    are looked at; beyond, it is taken for reached. The server's write counters lag by up to ten seconds, which does no
    harm to a share of the table.
    """
    side = new_side(migration)
    # a watcher reads no keys, and takes entries for rows
    may = conn.execute("SELECT pg_catalog.has_column_privilege('embedtui.queue', 'key', 'SELECT')").fetchone()
    entry = "key, text_key" if may == (True,) else "id"
    row = conn.execute(
        f"""
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
               (SELECT CASE WHEN count(*) < 2 * %(at_most)s THEN least(count(DISTINCT ({entry})), %(at_most)s)
                            ELSE %(at_most)s END
                FROM (SELECT {entry} FROM embedtui.queue WHERE migration = %(migration)s AND id > %(after)s
                      LIMIT 2 * %(at_most)s) q),
               (SELECT synced FROM embedtui.migration WHERE id = %(migration)s),
               (SELECT coalesce(sum(rows), 0)::bigint FROM embedtui.shard WHERE migration = %(migration)s)
        """,
        {
            "table": migration.table_oid,
            "side": relation(side.table).as_string(conn),
            "migration": migration.id,
            "after": after,
            "at_most": at_most,
        },
    ).fetchone()
    assert row is not None
    return Movement(*row)
