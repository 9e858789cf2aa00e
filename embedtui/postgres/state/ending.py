"""What is stored of a cleanup or an abort under way (``migration.settings -> cleanup``), and its last rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.errors import Refused
from embedtui.model import Migration, Phase
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement
from embedtui.postgres.state.audit import audit_sql
from embedtui.postgres.state.batches import drop_jobs_sql
from embedtui.postgres.state.counters import added
from embedtui.postgres.state.pointer import end_in_ddl, or_fail

QUEUE_FULL = "55006"
"""SQLSTATE (object_in_use) of the contract where changes still wait for their new vectors."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What is stored of a cleanup that has begun."""

    phase: Phase
    record: dict[str, Any]

    @property
    def begun(self) -> bool:
        """Whether anything has begun."""
        return bool(self.record)

    @property
    def left(self) -> dict[str, int]:
        """Rows that an operator lets be left without a new vector: queued or without one and overridden, and faulty."""
        return {name: int(self.record.get(name, 0)) for name in ("queued", "uncovered", "faulty")}

    def has(self, what: str) -> bool:
        """Whether ``what`` is recorded."""
        return self.record.get(what) is not None and self.record.get(what) is not False


def read_ending(conn: Connection, migration: Migration) -> Ending:
    """What was begun and has not been taken back: until the drop, the pointer's row tells that."""
    row = conn.execute(
        "SELECT m.phase, coalesce(m.settings -> 'cleanup', '{}'), r.ending, r.name IS NOT NULL"
        " FROM embedtui.migration m LEFT JOIN embedtui.route r ON r.name = m.name AND r.migration = m.id"
        " WHERE m.id = %s",
        (migration.id,),
    ).fetchone()
    if row is None:
        raise Refused("There is no such migration.")
    phase, record, ending, routed = row
    begun = "abort" if record.get("aborting") else "cleanup"
    if not record.get("contracted") and ending != begun and (routed or begun == "cleanup"):
        record = {}
    return Ending(Phase(phase), record)


def begin_record(conn: Connection, migration: Migration, record: Mapping[str, object]) -> None:
    """Record that it begins, with what was chosen."""
    conn.execute(
        "UPDATE embedtui.migration SET settings = jsonb_set(settings, '{cleanup}', %s) WHERE id = %s",
        (Jsonb(record), migration.id),
    )


def remember(conn: Connection, migration: Migration, more: Mapping[str, object]) -> None:
    """Add to the record."""
    conn.execute(
        "UPDATE embedtui.migration SET settings = jsonb_set(settings, '{cleanup}',"
        " coalesce(settings -> 'cleanup', '{}') || %s) WHERE id = %s",
        (Jsonb(more), migration.id),
    )


def left_check_sql(migration: Migration, left: Mapping[str, int]) -> sql.Composed:
    """Inside the lock no change can be under way: what is queued, or was rejected since, has no new vector for good."""
    body = sql.SQL(
        "BEGIN IF (SELECT count(*) FROM embedtui.queue WHERE migration = {migration}) > {queued}"
        " OR (SELECT count(*) FROM embedtui.fault WHERE migration = {migration} AND side = 'new'"
        " AND state <> 'skipped') > {faulty} THEN"
        " RAISE EXCEPTION 'changes still wait for their new vectors' USING ERRCODE = {state}; END IF; END"
    ).format(
        migration=sql.Literal(migration.id),
        state=sql.Literal(QUEUE_FULL),
        queued=sql.Literal(left["queued"]),
        faulty=sql.Literal(left["faulty"]),
    )
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))


_FORGET = "DELETE FROM embedtui.fault WHERE migration = {} AND side = {}"


def record_sql(migration: Migration, phase: Phase, gone: str, new_column: str) -> list[Statement]:
    """The end of the transaction: it fails if the pointer has moved, tells all Routers, and records what it did.

    ``gone``: the side that was dropped, with which its rows' faults go; empty where none was.
    """
    return [
        *end_in_ddl(migration, "abort" if phase is Phase.ABORTED else "cleanup"),
        sql.SQL(
            "UPDATE embedtui.migration SET phase = {phase}, phase_at = now(), condition = 'idle', reason = '',"
            " desired = 'run', new_column = {column}, settings = jsonb_set(settings - 'fold', '{{cleanup,contracted}}',"
            " 'true') || jsonb_build_object('gone', {gone}::text) WHERE id = {id}"
        ).format(
            phase=sql.Literal(phase.value),
            column=sql.Literal(new_column),
            gone=sql.Literal(gone),
            id=sql.Literal(migration.id),
        ),
        *([sql.SQL(_FORGET).format(sql.Literal(migration.id), sql.Literal(gone))] if gone else []),
        audit_sql(migration.id, "phase", phase.value),
    ]


def folded_sql(into: Migration) -> list[Statement]:
    """The end of the transaction that makes a side table's migration ``into`` one of a column; it fails likewise."""
    return [
        *end_in_ddl(into, "cleanup", goes_on=True),
        sql.SQL(
            "UPDATE embedtui.migration SET placement = {placement}, new_schema = {schema}, new_table = {table},"
            " new_column = {column}, settings = jsonb_set(settings - 'fold', '{{cleanup,folded}}', 'true')"
            " WHERE id = {id}"
        ).format(
            placement=sql.Literal(into.placement.value),
            schema=sql.Literal(into.new_table.schema),
            table=sql.Literal(into.new_table.name),
            column=sql.Literal(into.new_column),
            id=sql.Literal(into.id),
        ),
        audit_sql(into.id, "fold", f"the new side is column {into.new_column} now, and the side table is gone"),
    ]


def rows_sql(migration: Migration) -> list[Statement]:
    """Remove embedtui's working rows; the log stays, and what was spent."""
    matrices = sql.SQL(
        "DELETE FROM embedtui.bridge_row WHERE bridge IN (SELECT id FROM embedtui.bridge WHERE migration = {})"
    ).format(sql.Literal(migration.id))
    folded = [
        sql.SQL("DELETE FROM {} WHERE migration = {}").format(
            sql.Identifier("embedtui", table), sql.Literal(-migration.id)
        )
        for table in ("queue", "capture_fault")
    ]
    return [*working_rows_sql(migration, "queue", "stale", "capture_fault", "partition"), *folded, matrices]


def working_rows_sql(migration: Migration, *tables: str) -> list[Statement]:
    """Remove a migration's rows of these tables, and its shards: what they tell of tokens stays."""
    emptied: list[Statement] = [
        sql.SQL("DELETE FROM {} WHERE migration = {}").format(
            sql.Identifier("embedtui", table), sql.Literal(migration.id)
        )
        for table in tables
    ]
    emptied += drop_jobs_sql(migration)
    sums = "coalesce((SELECT sum(tokens) FROM gone), 0)"
    shards = sql.SQL(
        "WITH gone AS (DELETE FROM embedtui.shard WHERE migration = {id} RETURNING tokens)"
        " UPDATE embedtui.migration SET synced_first = 0,"
        f" synced_tokens = {added('synced_tokens', sums)} WHERE id = {{id}}"
    ).format(id=sql.Literal(migration.id))
    return [*emptied, shards]


def begin_cleanup(conn: Connection, migration_id: int) -> None:
    """Enter the phase, within the transaction that begins it; audited by the caller, with what was chosen."""
    conn.execute(
        "UPDATE embedtui.migration SET phase = %s, phase_at = now() WHERE id = %s", [Phase.CLEANUP.value, migration_id]
    )


def unread_sql(migration: Migration) -> sql.Composed:
    """Fails the transaction with SQLSTATE ``CANCELLED`` while any reads are on the new side; its last word.

    It locks the pointer's row, so that no cutover comes in between.
    """
    of = sql.SQL("FROM embedtui.route WHERE migration = {}").format(sql.Literal(migration.id))
    look = sql.SQL("PERFORM {} AND active = 'old' AND canary = 0 FOR UPDATE").format(of)
    return or_fail(look, "reads are on the new side", sql.SQL(" AND EXISTS (SELECT {})").format(of))
