"""Change capture: triggers that append what the application changed to an append-only queue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Migration, PlacementKind
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.placement import follows_by_foreign_key, new_side, relation

FAULTS_READ = 100_000
"""Faults that one scan settles at most; there is one a transaction."""

# Types whose text form does not depend on the application's session settings.
_STABLE_TEXT = ("smallint", "integer", "bigint", "uuid", "text", "character", "numeric", "boolean", "oid")


def _name(migration: Migration, what: str) -> str:
    return f"embedtui_{migration.id}_{what}"


def _function(migration: Migration, what: str) -> sql.Identifier:
    return sql.Identifier("embedtui", f"capture_{migration.id}_{what}")


# PL/pgSQL, for one row or TRUNCATE. What may raise (a column that the application renamed or retyped, our own tables
# missing, locked or out of reach) happens in the inner block. Per row this costs a subtransaction that never gets an id
# (0.7 us beside 4.5): only the first row of a transaction is stored in there, since a transaction with more than 64
# subtransaction ids slows down all others. From then on its lock keeps the queue as it is, so that later rows are
# stored outside. After a fault the rest of the transaction is left to the scan that the fault asks for.
_BODY = """
DECLARE
    k text[];
    state text := pg_catalog.current_setting({setting}, true);
BEGIN
    IF state = 'lost' THEN RETURN NULL; END IF;
    BEGIN
        IF ({when}) THEN k := {key}; END IF;
        IF k IS NOT NULL AND state IS DISTINCT FROM 'kept' THEN
            INSERT INTO embedtui.queue (migration, key, kind) VALUES ({migration}, k, TG_ARGV[0]::pg_catalog."char");
            PERFORM pg_catalog.set_config({setting}, 'kept', true);
            RETURN NULL;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        PERFORM pg_catalog.set_config({setting}, 'lost', true);
        BEGIN
            INSERT INTO embedtui.capture_fault (migration, reason) VALUES ({migration}, SQLERRM);
        EXCEPTION WHEN OTHERS THEN
            RAISE LOG 'embedtui: changes of migration % are not captured: %', {migration}, SQLERRM;
        END;
        RETURN NULL;
    END;
    IF k IS NOT NULL THEN
        INSERT INTO embedtui.queue (migration, key, kind) VALUES ({migration}, k, TG_ARGV[0]::pg_catalog."char");
    END IF;
    RETURN NULL;
END"""


def _bodies(migration: Migration) -> dict[str, str]:
    """Source of each trigger function by its name.

    Comparisons are of texts, so that they need no operator but the catalog's. They are in here and not in a WHEN
    clause: on columns that one names PostgreSQL refuses the application's ALTER TYPE and DROP COLUMN.
    """
    rekeyed, edited = _distinct(migration.key_columns), _distinct(migration.content_columns)
    inserted: sql.Composable = sql.SQL("true")
    if migration.placement is PlacementKind.COLUMN:
        side = new_side(migration)
        # A row moved between partitions brings its vector along: right only if the fingerprint says so.
        inserted = sql.SQL("NEW.{} IS NULL OR NEW.{} IS DISTINCT FROM {} OR NEW.{} IS NULL").format(
            sql.Identifier(side.embedding),
            sql.Identifier(side.source),
            _row_fingerprint(migration, "NEW"),
            sql.Identifier(migration.old_column),
        )

    def body(when: sql.Composable, key: sql.Composable) -> str:
        return (
            sql.SQL(_BODY)
            .format(
                migration=sql.Literal(migration.id),
                setting=sql.Literal(f"embedtui.capture_{migration.id}"),
                when=when,
                key=key,
            )
            .as_string(None)
        )

    # CASE, since OLD is not assigned yet where a row is inserted, nor NEW where one is deleted
    row = sql.SQL("CASE TG_OP WHEN 'INSERT' THEN {} ELSE {} OR {} END").format(inserted, edited, rekeyed)
    bodies = {"row": body(row, _row_key(migration, "NEW"))}
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        gone = sql.SQL("CASE TG_OP WHEN 'DELETE' THEN true ELSE {} END").format(rekeyed)
        bodies["old_row"] = body(gone, _row_key(migration, "OLD"))
        bodies["all"] = body(sql.SQL("true"), sql.SQL("'{}'::text[]"))
    return bodies


def functions_sql(migration: Migration) -> tuple[sql.Composed, ...]:
    """DDL of the trigger functions alone: takes no lock on the table, and has every session compile them anew.

    The functions are SECURITY DEFINER with a fixed search path, so that an application role needs no right on our
    schema. A row trigger without a column list also sees edits made by BEFORE triggers. ENABLE ALWAYS also captures
    what a logical replication apply worker writes.
    """
    session = sql.SQL("")
    if not all(kind.startswith(_STABLE_TEXT) for kind in migration.key_types):
        session = sql.SQL(" SET DateStyle = 'ISO, MDY' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'")
    return tuple(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = pg_catalog, pg_temp{session} AS {body}"
        ).format(name=_function(migration, what), session=session, body=sql.Literal(body))
        for what, body in _bodies(migration).items()
    )


def install_sql(migration: Migration) -> tuple[sql.Composed, ...]:
    """DDL that installs change capture: functions and triggers."""
    table = relation(migration.table)
    statements = list(functions_sql(migration))
    for name, (event, what, kind) in _triggers(migration).items():
        identifier = sql.Identifier(_name(migration, name))
        level = sql.SQL("STATEMENT" if event == "TRUNCATE" else "ROW")
        statements += [
            sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(identifier, table),
            sql.SQL("CREATE TRIGGER {} AFTER {} ON {} FOR EACH {} EXECUTE FUNCTION {}({})").format(
                identifier, sql.SQL(event), table, level, _function(migration, what), sql.Literal(kind)
            ),
            sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table, identifier),
        ]
    return tuple(statements)


def _distinct(columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(" OR ").join(
        sql.SQL("OLD.{0}::text IS DISTINCT FROM NEW.{0}::text").format(sql.Identifier(name)) for name in columns
    )


def _row_key(migration: Migration, row: str) -> sql.Composed:
    parts = sql.SQL(", ").join(
        sql.SQL("{}.{}::text").format(sql.SQL(row), sql.Identifier(name)) for name in migration.key_columns
    )
    return sql.SQL("ARRAY[{}]").format(parts)


def _row_fingerprint(migration: Migration, row: str) -> sql.Composed:
    parts = sql.SQL(", ").join(
        sql.SQL("{}.{}::text").format(sql.SQL(row), sql.Identifier(name)) for name in migration.content_columns
    )
    return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(parts)


def _triggers(migration: Migration) -> dict[str, tuple[str, str, str]]:
    """Each trigger's (event, function, kind of queue entry) by its name."""
    triggers = {"insert": ("INSERT", "row", "i"), "update": ("UPDATE", "row", "u")}
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        triggers |= {
            "delete": ("DELETE", "old_row", "d"),
            "rekey": ("UPDATE", "old_row", "d"),
            "truncate": ("TRUNCATE", "all", "t"),
        }
    return triggers


@dataclass(frozen=True, slots=True)
class CaptureState:
    """How change capture fares, of one moment."""

    phase: str
    installed: bool
    """All triggers are there and enabled, and their functions are those that this migration needs now."""
    faults: tuple[int, ...]
    """Transactions that it could not capture, by their ids in capture_fault: only a scan finds what they wrote."""
    reason: str
    """Why, of the newest of them."""


def state(conn: Connection, migration: Migration) -> CaptureState:
    """How change capture fares; a function of an older program, or of columns' former names, counts as missing."""
    names = [_name(migration, name) for name in _triggers(migration)]
    bodies = list(_bodies(migration).values())
    row = conn.execute(
        "SELECT phase, (SELECT count(*) FROM pg_catalog.pg_trigger t"
        " JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid AND p.prosrc = ANY (%(b)s)"
        " WHERE t.tgrelid = m.table_oid AND t.tgname = ANY (%(n)s) AND t.tgenabled = 'A' AND t.tgqual IS NULL)"
        " FROM embedtui.migration m WHERE id = %(m)s",
        {"b": bodies, "n": names, "m": migration.id},
    ).fetchone()
    if row is None:
        return CaptureState("", False, (), "")
    faults = conn.execute(
        "SELECT id FROM embedtui.capture_fault WHERE migration = %s ORDER BY id DESC LIMIT %s",
        [migration.id, FAULTS_READ],
    ).fetchall()
    why = (
        conn.execute("SELECT reason FROM embedtui.capture_fault WHERE id = %s", faults[0]).fetchone()
        if faults
        else None
    )
    return CaptureState(row[0], row[1] == len(names), tuple(number for (number,) in faults), why[0] if why else "")


def forget_faults(conn: Connection, faults: Iterable[int]) -> None:
    """Take faults off whose changes a scan, begun after they were read, has found."""
    conn.execute("DELETE FROM embedtui.capture_fault WHERE id = ANY (%s)", [list(faults)])


def faulty(conn: Connection, migration_id: int) -> bool:
    """Whether there are changes that were not captured, and no scan has found yet."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM embedtui.capture_fault WHERE migration = %s)", [migration_id]
    ).fetchone()
    return bool(row and row[0])


def remove_sql(migration: Migration) -> tuple[sql.Composed, ...]:
    """DDL that takes change capture away; a no-op where it is gone already."""
    table = relation(migration.table)
    statements = [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(_name(migration, event)), table)
        for event in ("insert", "update", "rekey", "delete", "truncate")
    ]
    return (*statements, *remove_functions_sql(migration))


def remove_functions_sql(migration: Migration) -> tuple[sql.Composed, ...]:
    """DDL that drops the trigger functions, once their triggers are gone."""
    return tuple(
        sql.SQL("DROP FUNCTION IF EXISTS {}()").format(_function(migration, what)) for what in ("row", "old_row", "all")
    )
