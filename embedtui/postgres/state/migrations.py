"""A migration and what is wanted of it: table ``migration``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from embedtui.config import LOCAL_ONLY, STORED_ALONE
from embedtui.errors import Refused
from embedtui.model import (
    Condition,
    Distance,
    EmbeddingModel,
    IndexMethod,
    Migration,
    Phase,
    PlacementKind,
    Remedy,
    RowExpression,
    RunState,
    TableName,
)
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.models import load_model, load_model_and_orders, register_model
from embedtui.postgres.state.schema import require_current
from embedtui.postgres.state.workers import tell_workers
from embedtui.redaction import redact

_INDEX_HELD = "index_held"


_BY_FORMER_NAME = """
SELECT m.name FROM embedtui.migration m LEFT JOIN pg_catalog.pg_class c ON c.oid = m.table_oid
 WHERE m.phase NOT IN ('done', 'aborted') AND c.relname IS DISTINCT FROM m.table_name::name
   AND m.table_name = %(name)s AND m.table_schema = coalesce(%(schema)s, m.table_schema)
 ORDER BY m.id DESC LIMIT 1
"""


def _without_orders(settings: dict[str, dict[str, object]]) -> tuple[dict[str, object], dict[str, object]]:
    """Stored settings less those that only local settings may say, and these by their names in the file."""
    kept: dict[str, object] = {}
    orders: dict[str, object] = {}
    for head, section in settings.items():
        if not isinstance(section, dict):
            kept[head] = section
            continue
        own = {name for name in section if f"{head}.{name}" in LOCAL_ONLY}
        kept[head] = {name: value for name, value in section.items() if name not in own}
        orders |= {f"{head}.{name}": section[name] for name in own if section[name]}
    return kept, orders


def _storable(settings: dict[str, object]) -> dict[str, object]:
    """Settings as others may see them: a command or a file's name may carry what they must not."""
    return {
        head: {
            name: redact(value) if f"{head}.{name}" in LOCAL_ONLY and isinstance(value, str) else value
            for name, value in section.items()
        }
        if isinstance(section, dict)
        else section
        for head, section in settings.items()
    }


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
        " vector_schema, vector_type, old_vector_type, distance, index_method, phase, settings, content_types,"
        " key_equality, scope, content)"
        " VALUES (%(name)s, %(ts)s, %(tn)s, %(oid)s, %(keys)s, %(types)s, %(content)s, %(placement)s, %(old_column)s,"
        " %(old)s, %(ns)s, %(nt)s, %(new_column)s, %(new)s, %(vs)s, %(vt)s, %(ovt)s, %(distance)s, %(index)s,"
        " %(phase)s, %(settings)s, %(content_types)s, %(equality)s, %(scope)s, %(text)s) ON CONFLICT DO NOTHING"
        " RETURNING id, created_at, phase_at",
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
            "settings": Jsonb(_storable(migration.settings)),
            "content_types": list(migration.content_types),
            "equality": list(migration.key_equality),
            "scope": None if migration.scope is None else Jsonb(migration.scope.stored),
            "text": None if migration.content is None else Jsonb(migration.content.stored),
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

    Whoever can write to the database could have stored a command, a file, an endpoint or SQL: what acts on the machine
    that reads it is in ``unsaid`` and nowhere else, until local settings say it.

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
    old_model, old_orders = load_model_and_orders(conn, row["old_model"])
    new_model, new_orders = load_model_and_orders(conn, row["new_model"])
    settings, orders = _without_orders(row["settings"])
    for side, found in (("old_model", old_orders), ("new_model", new_orders)):
        orders |= {f"{side}.{name}": value for name, value in found.items() if value is not None}
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
        old_model=old_model,
        new_model=new_model,
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
        settings=settings,
        unsaid=orders,
        index_held=RunState.of(row["settings"]).index_held,
        phase_at=row["phase_at"],
        created_at=row["created_at"],
        content_types=tuple(row["content_types"]),
        key_equality=tuple(row["key_equality"]),
        scope=RowExpression.of(row["scope"]),
        content=RowExpression.of(row["content"]),
    )


def _readable(conn: Connection) -> bool:
    """Whether the table is there and this role may read it."""
    row = conn.execute("SELECT has_table_privilege(to_regclass('embedtui.migration'), 'SELECT')").fetchone()
    return row is not None and bool(row[0])


def live_migrations(conn: Connection) -> list[str]:
    """Names of the migrations under way; none where the table cannot be read."""
    if not _readable(conn):
        return []
    rows = conn.execute("SELECT name FROM embedtui.migration WHERE phase NOT IN ('done', 'aborted') ORDER BY name")
    return [name for (name,) in rows]


def live_migrations_of(conn: Connection, table_oid: int) -> list[Migration]:
    """A table's live migrations; none where they cannot be read."""
    found = (load_migration(conn, name) for name in live_migrations(conn))
    return [each for each in found if each is not None and each.table_oid == table_oid]


def columns_of_other_scopes(conn: Connection, migration: Migration) -> frozenset[str]:
    """Columns that migrations of other rows of the same table have made; none where they cannot be read."""
    if migration.scope is None or not _readable(conn):
        return frozenset()
    rows = conn.execute(
        "SELECT new_column || suffix FROM embedtui.migration m, (VALUES (''), ('_model'), ('_source')) s (suffix)"
        " WHERE table_oid = %s AND id <> %s AND placement = 'column' AND phase <> 'aborted'"
        " AND pg_catalog.to_jsonb(m) ->> 'scope' IS NOT NULL",  # of an older schema, too, which has no such column
        [migration.table_oid, migration.id],
    )
    return frozenset(name for (name,) in rows)


def migrations_of_table(conn: Connection, table_oid: int) -> dict[str, str | None]:
    """Names of a table's live migrations with their scopes as written, else of its newest ended one."""
    if not _readable(conn):
        return {}
    rows = conn.execute(
        # of an older schema, too, where there is no such column yet
        "SELECT name, pg_catalog.to_jsonb(m) -> 'scope' ->> 'given', phase IN ('done', 'aborted')"
        " FROM embedtui.migration m WHERE table_oid = %s ORDER BY 3, id DESC",
        [table_oid],
    ).fetchall()
    live = {name: scope for name, scope, ended in rows if not ended}
    return live or {name: scope for name, scope, _ in rows[:1]}


def migration_of_former_name(conn: Connection, readings: Iterable[tuple[str | None, str]]) -> str | None:
    """Name of a live migration whose table, called so when it began, is gone or has another name now.

    Args:
        conn: any connection.
        readings: (schema or None, table) pairs that a typed name may mean, likeliest first.
    """
    if not _readable(conn):
        return None
    for schema, name in readings:
        row = conn.execute(_BY_FORMER_NAME, {"schema": schema, "name": name}).fetchone()
        if row is not None:
            return str(row[0])
    return None


def columns_being_filled(conn: Connection) -> set[tuple[str, str, str]]:
    """(schema, table, column) of the new sides under way; empty where the table cannot be read."""
    if not _readable(conn):
        return set()
    return set(
        conn.execute(
            "SELECT new_schema, new_table, new_column FROM embedtui.migration WHERE phase NOT IN ('done', 'aborted')"
        )
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


def total_rows(conn: Connection, migration_id: int) -> int:
    """Rows with something to embed, counted when the shards were planned; 0 where they were not."""
    row = conn.execute("SELECT coalesce(total_rows, 0) FROM embedtui.migration WHERE id = %s", [migration_id])
    return int((row.fetchone() or (0,))[0])


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


def may_store_settings(conn: Connection) -> bool:
    """Whether this role may change what is stored of a migration's settings: an operator's, never a worker's."""
    row = conn.execute(
        "SELECT has_column_privilege('embedtui.migration', 'settings', 'UPDATE')"
        " AND has_column_privilege('embedtui.model', 'base_url', 'UPDATE')"
    ).fetchone()
    return bool(row and row[0])


def store_settings(conn: Connection, migration: Migration) -> None:
    """Bring what is stored of a migration's settings and models up to date; nothing of its identity changes."""
    for model in (migration.old_model, migration.new_model):
        if model.unusable is None:  # or what only the database has would be lost
            register_model(conn, model)
    said = {
        head: value
        for head, value in _storable(migration.settings).items()
        if isinstance(value, dict) or head in STORED_ALONE
    }
    conn.execute("UPDATE embedtui.migration SET settings = settings || %s WHERE id = %s", [Jsonb(said), migration.id])


def set_index_held(conn: Connection, migration_id: int, held: bool) -> None:
    """Record whether the workers may build the index; audited."""
    conn.execute(
        "UPDATE embedtui.migration SET settings = settings || jsonb_build_object(%s::text, %s::boolean) WHERE id = %s",
        [_INDEX_HELD, held, migration_id],
    )
    tell_workers(conn, migration_id)
    add_audit(conn, migration_id, "hold index" if held else "release index")


def ask_to_reload(conn: Connection, migration_id: int) -> None:
    """Have every worker read its settings again; one that is only starting finds that the number has changed."""
    conn.execute(
        "UPDATE embedtui.migration SET settings = settings || pg_catalog.jsonb_build_object("
        "'reloads', coalesce((settings->>'reloads')::integer, 0) + 1) WHERE id = %s",
        [migration_id],
    )
    tell_workers(conn, migration_id)


def set_desired(conn: Connection, migration_id: int, desired: str, reason: str = "") -> None:
    """Record what the operators want: ``run`` or ``pause``; audited."""
    conn.execute(
        "UPDATE embedtui.migration SET desired = %s, reason = %s WHERE id = %s", [desired, redact(reason), migration_id]
    )
    tell_workers(conn, migration_id)
    add_audit(conn, migration_id, {"run": "resume", "pause": "pause"}[desired], reason)


def hold_workers(conn: Connection, migration_id: int) -> None:
    """Have the workers stop, without a word of it in the log: an abort begins, and says so itself."""
    conn.execute("UPDATE embedtui.migration SET desired = 'pause' WHERE id = %s", [migration_id])
    tell_workers(conn, migration_id)


def set_total_rows(conn: Connection, migration_id: int, rows: int | None) -> None:
    """Record how many rows have something to embed; None where that is not known."""
    conn.execute("UPDATE embedtui.migration SET total_rows = %s WHERE id = %s", [rows, migration_id])


def stored_fold(conn: Connection, migration_id: int) -> str | None:
    """The column that a fold has begun, as it is stored now."""
    row = conn.execute("SELECT settings ->> 'fold' FROM embedtui.migration WHERE id = %s", [migration_id]).fetchone()
    return row[0] if row else None


def store_setting(conn: Connection, migration_id: int, name: str, value: object) -> None:
    """Store one named piece of a migration's settings, over what it was."""
    conn.execute(
        "UPDATE embedtui.migration SET settings = settings || pg_catalog.jsonb_build_object(%s::text, %s)"
        " WHERE id = %s",
        [name, Jsonb(value), migration_id],
    )


def still_called_sql(migration: Migration) -> sql.Composed:
    """Fails with SQLSTATE 55000 where columns have exchanged their names, or a side table was folded.

    Neither can happen until it is committed. For a transaction that makes something by the names this process knows.
    """
    body = sql.SQL(
        "BEGIN PERFORM FROM embedtui.migration WHERE id = {} AND old_column = {} AND new_column = {} AND placement = {}"
        " FOR SHARE;"
        " IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'columns were renamed meanwhile';"
        " END IF; END"
    ).format(*map(sql.Literal, (migration.id, migration.old_column, migration.new_column, migration.placement.value)))
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))


def rename_sql(migration: Migration, name: str, value: object) -> sql.Composed:
    """SQL that stores present names and key types of a migration's tables, and one piece of its settings."""
    columns: dict[str, object] = {
        "table_schema": migration.table.schema,
        "table_name": migration.table.name,
        "new_schema": migration.new_table.schema,
        "new_table": migration.new_table.name,
        "key_columns": list(migration.key_columns),
        "key_types": list(migration.key_types),
        "content_columns": list(migration.content_columns),
        "content_types": list(migration.content_types),
        "scope": None if migration.scope is None else Jsonb(migration.scope.stored),
        "content": None if migration.content is None else Jsonb(migration.content.stored),
        "old_column": migration.old_column,
    }
    pairs = [sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(now)) for column, now in columns.items()]
    setting = sql.SQL("settings = settings || pg_catalog.jsonb_build_object({}, {}::jsonb)").format(
        sql.Literal(name), sql.Literal(Jsonb(value))
    )
    return sql.SQL("UPDATE embedtui.migration SET {} WHERE id = {}").format(
        sql.SQL(", ").join([*pairs, setting]), sql.Literal(migration.id)
    )
