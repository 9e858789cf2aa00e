"""What is stored when a migration goes on with a table that was made again, or restored."""

from __future__ import annotations

from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.model import Migration, Phase
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement
from embedtui.postgres.state.audit import audit_sql
from embedtui.postgres.state.capture_faults import request_scan_sql
from embedtui.postgres.state.ending import working_rows_sql
from embedtui.postgres.state.pointer import touch_in_ddl

FORMER = "former"
"""Setting of a migration: oids of tables that were pushed aside with new vectors in them, for an abort to look at."""


def adopt_sql(now: Migration, phase: Phase, settings: dict[str, object], detail: str) -> list[Statement]:
    """SQL that stores the table as it is ``now``; what was known of the former one's storage goes.

    ``now`` has the present table and columns, ``settings`` what of its settings changes; a scan finds what was written
    meanwhile.
    """
    columns: dict[str, object] = {
        "table_oid": now.table_oid,
        "key_types": list(now.key_types),
        "content_types": list(now.content_types),
        "key_equality": list(now.key_equality),
        "scope": None if now.scope is None else Jsonb(now.scope.stored),
        "content": None if now.content is None else Jsonb(now.content.stored),
        "phase": phase.value,
    }
    pairs = [sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(value)) for column, value in columns.items()]
    return [
        sql.SQL(
            "UPDATE embedtui.migration SET {}, phase_at = now(), settings = settings || {}::jsonb, reason = '',"
            " desired = CASE condition WHEN 'failed' THEN 'run' ELSE desired END, condition = 'idle' WHERE id = {}"
        ).format(sql.SQL(", ").join(pairs), sql.Literal(Jsonb(settings)), sql.Literal(now.id)),
        *working_rows_sql(now, "partition"),
        *touch_in_ddl(now),
        request_scan_sql(now.id, detail),
        audit_sql(now.id, "adopt", detail),
    ]


def count_kept(conn: Connection, migration: Migration, rows: int) -> None:
    """Have rows count as done whose vectors were there already."""
    conn.execute(
        "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block, state, rows)"
        " VALUES (%s, %s, 0, 0, -1, 'done', %s)",
        [migration.id, migration.table_oid, rows],
    )
