"""Reads and writes of the migration, model and audit rows in schema ``embedtui``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from embedtui.errors import Refused
from embedtui.model import (
    AuditEntry,
    Condition,
    Distance,
    EmbeddingModel,
    IndexMethod,
    Migration,
    Phase,
    PlacementKind,
    Remedy,
    TableName,
)
from embedtui.postgres.connect import Connection, host_name, operator_name, redact
from embedtui.postgres.state.schema import require_current

_INDEX_HELD = "index_held"
_MODEL_FIELDS = (
    "provider",
    "name",
    "dimensions",
    "base_url",
    "key_variable",
    "document_prefix",
    "query_prefix",
    "max_inputs",
    "max_tokens",
    "max_input_tokens",
    "price_per_million",
    "send_dimensions",
    "retired",
)


def model_fingerprint(model: EmbeddingModel) -> str:
    """Identity of the vectors a model makes: two models with the same fingerprint are interchangeable."""
    parts = [model.provider, model.name, model.dimensions, model.document_prefix]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def register_model(conn: Connection, model: EmbeddingModel) -> EmbeddingModel:
    """Store ``model`` or bring its stored settings up to date; returned with its id.

    Vectors kept of queries are those of the query prefix, so another one forgets them.
    """
    columns = ", ".join(_MODEL_FIELDS)
    values = ", ".join(f"%({name})s" for name in _MODEL_FIELDS)
    updates = ", ".join(f"{name} = excluded.{name}" for name in _MODEL_FIELDS)
    row = conn.execute(
        "WITH forgotten AS (DELETE FROM embedtui.query_vector USING embedtui.model m WHERE model = m.id"
        " AND m.fingerprint = %(fingerprint)s AND m.query_prefix <> %(query_prefix)s)"
        f" INSERT INTO embedtui.model ({columns}, fingerprint) VALUES ({values}, %(fingerprint)s)"
        f" ON CONFLICT (fingerprint) DO UPDATE SET {updates} RETURNING id",
        {name: getattr(model, name) for name in _MODEL_FIELDS} | {"fingerprint": model_fingerprint(model)},
    ).fetchone()
    assert row is not None
    return replace(model, id=row[0])


def load_model(conn: Connection, model_id: int) -> EmbeddingModel:
    """The registered model with this id."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM embedtui.model WHERE id = %s", [model_id]).fetchone()
    assert row is not None
    return EmbeddingModel(id=row["id"], **{name: row[name] for name in _MODEL_FIELDS})


def create_migration(conn: Connection, migration: Migration) -> Migration:
    """Store a new migration with its models and pace row; returned with ids filled.

    Raises:
        Refused: the table has a live migration already.
    """
    old = register_model(conn, migration.old_model)
    new = register_model(conn, migration.new_model)
    row = conn.execute(
        "INSERT INTO embedtui.migration (name, table_schema, table_name, table_oid, key_columns, key_types,"
        " content_columns, placement, old_column, old_model, new_schema, new_table, new_column, new_model,"
        " vector_schema, vector_type, old_vector_type, distance, index_method, phase, settings)"
        " VALUES (%(name)s, %(ts)s, %(tn)s, %(oid)s, %(keys)s, %(types)s, %(content)s, %(placement)s, %(old_column)s,"
        " %(old)s, %(ns)s, %(nt)s, %(new_column)s, %(new)s, %(vs)s, %(vt)s, %(ovt)s, %(distance)s, %(index)s,"
        " %(phase)s, %(settings)s) ON CONFLICT DO NOTHING RETURNING id, created_at, phase_at",
        {
            "name": migration.name,
            "ts": migration.table.schema,
            "tn": migration.table.name,
            "oid": migration.table_oid,
            "keys": list(migration.key_columns),
            "types": list(migration.key_types),
            "content": list(migration.content_columns),
            "placement": migration.placement.value,
            "old_column": migration.old_column,
            "old": old.id,
            "ns": migration.new_table.schema,
            "nt": migration.new_table.name,
            "new_column": migration.new_column,
            "new": new.id,
            "vs": migration.vector_schema,
            "vt": migration.vector_type,
            "ovt": migration.old_vector_type,
            "distance": migration.distance.value,
            "index": migration.index_method.value,
            "phase": migration.phase.value,
            "settings": Jsonb(migration.settings),
        },
    ).fetchone()
    if row is None:
        raise Refused(
            f"A migration of {migration.table} is under way already.",
            hint="See `embedtui status`, or give it up.",
            remedies=(Remedy.ABORT,),
        )
    conn.execute("INSERT INTO embedtui.pace (migration) VALUES (%s) ON CONFLICT DO NOTHING", [row[0]])
    return replace(migration, id=row[0], created_at=row[1], phase_at=row[2], old_model=old, new_model=new)


def load_migration(conn: Connection, name: str | None = None) -> Migration | None:
    """The migration called ``name`` (any, without a name): live ones before ended ones, then the newest.

    Raises:
        DatabaseError: the schema is that of an older or a newer program.
    """
    if not require_current(conn):
        return None
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT * FROM embedtui.migration WHERE %(name)s::text IS NULL OR name = %(name)s"
            " ORDER BY (phase IN ('done', 'aborted')), id DESC LIMIT 1",
            {"name": name},
        ).fetchone()
    if row is None:
        return None
    return Migration(
        id=row["id"],
        name=row["name"],
        table=TableName(row["table_schema"], row["table_name"]),
        table_oid=row["table_oid"],
        key_columns=tuple(row["key_columns"]),
        key_types=tuple(row["key_types"]),
        content_columns=tuple(row["content_columns"]),
        placement=PlacementKind(row["placement"]),
        old_column=row["old_column"],
        old_model=load_model(conn, row["old_model"]),
        new_model=load_model(conn, row["new_model"]),
        new_table=TableName(row["new_schema"], row["new_table"]),
        new_column=row["new_column"],
        vector_schema=row["vector_schema"],
        vector_type=row["vector_type"],
        old_vector_type=row["old_vector_type"],
        distance=Distance(row["distance"]),
        index_method=IndexMethod(row["index_method"]),
        phase=Phase(row["phase"]),
        condition=Condition(row["condition"]),
        reason=row["reason"],
        desired=row["desired"],
        settings=row["settings"],
        index_held=bool(row["settings"].get(_INDEX_HELD)),
        phase_at=row["phase_at"],
        created_at=row["created_at"],
    )


def finished_model(conn: Connection, table_oid: int, column: str) -> EmbeddingModel | None:
    """The model whose vectors the last finished migration left in a column of the table; None where there was none."""
    if not require_current(conn):
        return None
    row = conn.execute(
        "SELECT new_model FROM embedtui.migration WHERE phase = 'done' AND placement = 'column'"
        " AND table_oid = %s AND new_column = %s ORDER BY id DESC LIMIT 1",
        [table_oid, column],
    ).fetchone()
    return None if row is None else load_model(conn, row[0])


def add_audit(conn: Connection, migration_id: int | None, act: str, detail: str = "") -> None:
    """Append a line to the audit log; secrets are redacted."""
    conn.execute(
        "INSERT INTO embedtui.audit (migration, who, host, act, detail) VALUES (%s, %s, %s, %s, %s)",
        [migration_id, operator_name(), host_name(), act, redact(detail)],
    )


def read_audit(conn: Connection, migration_id: int | None, limit: int = 200) -> tuple[AuditEntry, ...]:
    """Newest first."""
    rows = conn.execute(
        "SELECT at, who, host, act, detail FROM embedtui.audit"
        " WHERE %(m)s::int IS NULL OR migration = %(m)s OR migration IS NULL ORDER BY id DESC LIMIT %(n)s",
        {"m": migration_id, "n": limit},
    )
    return tuple(AuditEntry(*row) for row in rows)


def set_phase(conn: Connection, migration_id: int, phase: Phase, *, expect: tuple[Phase, ...] = ()) -> bool:
    """Move a migration to ``phase``; with ``expect`` only from one of those. False where it did not move."""
    row = conn.execute(
        "UPDATE embedtui.migration SET phase = %(p)s, phase_at = now() WHERE id = %(m)s AND phase <> %(p)s"
        " AND (%(e)s::text[] = '{}' OR phase = ANY (%(e)s)) RETURNING id",
        {"p": phase.value, "m": migration_id, "e": [p.value for p in expect]},
    ).fetchone()
    if row is not None:
        add_audit(conn, migration_id, "phase", phase.value)
    return row is not None


def set_condition(conn: Connection, migration_id: int, condition: Condition, reason: str = "") -> None:
    """Record how the present phase fares; written only when it changes."""
    conn.execute(
        "UPDATE embedtui.migration SET condition = %(c)s, reason = %(r)s WHERE id = %(m)s"
        " AND (condition, reason) IS DISTINCT FROM (%(c)s, %(r)s)",
        {"c": condition.value, "r": redact(reason), "m": migration_id},
    )


def set_index_held(conn: Connection, migration_id: int, held: bool) -> None:
    """Record whether the workers may build the index; audited."""
    conn.execute(
        "UPDATE embedtui.migration SET settings = settings || jsonb_build_object(%s::text, %s::boolean) WHERE id = %s",
        [_INDEX_HELD, held, migration_id],
    )
    add_audit(conn, migration_id, "hold index" if held else "release index")


def set_desired(conn: Connection, migration_id: int, desired: str, reason: str = "") -> None:
    """Record what the operators want: ``run`` or ``pause``; audited."""
    conn.execute(
        "UPDATE embedtui.migration SET desired = %s, reason = %s WHERE id = %s", [desired, redact(reason), migration_id]
    )
    add_audit(conn, migration_id, {"run": "resume", "pause": "pause"}[desired], reason)
