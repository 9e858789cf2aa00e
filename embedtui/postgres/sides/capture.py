"""Change capture: triggers that append what the application changed to an append-only queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Migration, PlacementKind
from embedtui.postgres.connect import CANONICAL, Connection
from embedtui.postgres.expressions import row_sql
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import BYTES, follows_by_foreign_key, new_side
from embedtui.postgres.sides.shared import OURS, WRITER
from embedtui.postgres.values import content_types, key_types, output_sql

FAULTS_READ = 100_000
"""Faults that one scan settles at most; there is one a transaction."""

# Of the functions: names are the catalog's, and the text of a key is the one that our own sessions read.
_SETTINGS = {"search_path": "pg_catalog, pg_temp"} | CANONICAL
_CONFIGURATION = [f"{name}={value}" for name, value in _SETTINGS.items()]
"""The same as pg_proc has it."""


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
    k pg_catalog.text[];
    was pg_catalog.text[];
    edited pg_catalog.bool := true;
    wrote_old pg_catalog.bool := false;
    wrote_new pg_catalog.bool := false;
    kind pg_catalog."char" := TG_ARGV[0]::pg_catalog."char";
    state pg_catalog.text := pg_catalog.current_setting({setting}, true);
BEGIN
    -- a partition's trigger tells of the partition
    IF state OPERATOR(pg_catalog.=) 'lost' OR TG_RELID OPERATOR(pg_catalog.<>) {table} AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_partition_ancestors(TG_RELID) a WHERE a.relid OPERATOR(pg_catalog.=) {table})
    THEN RETURN NULL; END IF;
    BEGIN
        {look}
        IF k IS NOT NULL AND state IS DISTINCT FROM 'kept' THEN
            INSERT INTO embedtui.queue (migration, key, kind, edited, was, wrote_old, wrote_new)
            VALUES ({migration}, k, kind, edited, was, wrote_old, wrote_new);
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
        INSERT INTO embedtui.queue (migration, key, kind, edited, was, wrote_old, wrote_new)
        VALUES ({migration}, k, kind, edited, was, wrote_old, wrote_new);
    END IF;
    RETURN NULL;
END"""

# Vectors are compared as records' images, byte by byte: by a function of the catalog's, and no type's operator. A row
# that comes into a partition may have been moved there with its old vector, which then nobody has decided.
# Of a row that leaves the scope nothing is told, and of one that enters it what it was before does not count: 'e'.
_LOOK = """
        {types}
        IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
            IF {inside} THEN
                k := {key};
                wrote_old := TG_RELID OPERATOR(pg_catalog.=) {table} AND NEW.{old} IS NOT NULL;
                wrote_new := {inserted_new};
            END IF;
        ELSIF {inside} THEN
            IF ({was_inside}) IS NOT TRUE THEN kind := 'e'; END IF;
            edited := {edited};
            IF ({rekeyed}) THEN was := {old_key}; END IF;
            IF pg_catalog.current_setting({writer}, true) IS DISTINCT FROM {ours} THEN
                wrote_old := pg_catalog.record_image_ne(ROW(OLD.{old}), ROW(NEW.{old}));
                wrote_new := {updated_new};
            END IF;
            IF edited OR was IS NOT NULL OR wrote_old OR wrote_new OR kind OPERATOR(pg_catalog.=) 'e' THEN
                k := {key};
            END IF;
            -- a vector taken away is asked for, not decided
            wrote_old := wrote_old AND NEW.{old} IS NOT NULL;
            wrote_new := wrote_new AND {new_present};
        END IF;
"""


def _bodies(migration: Migration) -> dict[str, str]:
    """Source of each trigger function by its name.

    Comparisons are of texts made by output functions alone (see ``values``), so that no operator and no cast of the
    application's runs with our rights. They are in here and not in a WHEN
    clause: on columns that one names PostgreSQL refuses the application's ALTER TYPE and DROP COLUMN.
    """
    rekeyed = _distinct(key_types(migration))
    table = sql.SQL("{}::pg_catalog.oid").format(sql.Literal(migration.table_oid))

    def body(look: sql.Composable) -> str:
        return (
            sql.SQL(_BODY)
            .format(
                table=table,
                migration=sql.Literal(migration.id),
                setting=sql.Literal(f"embedtui.capture_{migration.id}"),
                look=look,
            )
            .as_string(None)
        )

    row = sql.SQL(_LOOK).format(
        table=table,
        types=_type_guard(migration),
        inside=_inside(migration, "NEW"),
        was_inside=_inside(migration, "OLD"),
        key=_row_key(migration, "NEW"),
        old_key=_row_key(migration, "OLD"),
        edited=_edited(migration),
        rekeyed=rekeyed,
        old=sql.Identifier(migration.old_column),
        writer=sql.Literal(WRITER),
        ours=sql.Literal(OURS),
        **_new_vector(migration),
    )
    bodies = {"row": body(row)}
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        # CASE, since NEW is not assigned yet where a row is deleted
        gone = sql.SQL("IF (CASE TG_OP WHEN 'DELETE' THEN true ELSE {} END) THEN k := {}; END IF;")
        bodies["old_row"] = body(gone.format(rekeyed, _row_key(migration, "OLD")))
        bodies["all"] = body(sql.SQL("k := '{}'::pg_catalog.text[];"))
    return bodies


def _inside(migration: Migration, row: str) -> sql.Composable:
    """Whether a row of the trigger is in the scope."""
    return sql.SQL("TRUE") if migration.scope is None else row_sql(migration.scope, sql.SQL(row))


def _edited(migration: Migration) -> sql.Composable:
    """Whether the text to embed is another one."""
    if migration.content is None:
        return _distinct(content_types(migration))
    texts = [
        sql.SQL("({})::pg_catalog.text COLLATE {}").format(row_sql(migration.content, sql.SQL(row)), BYTES)
        for row in ("OLD", "NEW")
    ]
    return sql.SQL("{} IS DISTINCT FROM {}").format(*texts)


def _type_guard(migration: Migration) -> sql.Composable:
    """Raises, to be taken up as a fault, where a column that an operator's SQL names has another type by now.

    Its functions are those of the types that it was read with; of others, casts and operators could be anybody's.
    """
    columns = dict(
        column for each in (migration.scope, migration.content) if each is not None for column in each.columns
    )
    guards = [
        sql.SQL(
            "IF pg_catalog.pg_typeof(NEW.{})::pg_catalog.oid OPERATOR(pg_catalog.<>) {}::pg_catalog.oid THEN"
            " RAISE EXCEPTION USING MESSAGE = {}; END IF;"
        ).format(sql.Identifier(name), sql.Literal(kind), sql.Literal(f"column {name} has another type"))
        for name, kind in columns.items()
    ]
    return sql.SQL(" ").join(guards)


def _new_vector(migration: Migration) -> dict[str, sql.Composable]:
    """What the row's trigger sees of the new vector: whether a statement wrote it, and left its stamps as they were."""
    if migration.placement is PlacementKind.TABLE:
        return dict.fromkeys(("inserted_new", "updated_new", "new_present"), sql.SQL("false"))
    side = new_side(migration)
    names = {
        "vector": sql.Identifier(side.embedding),
        "model": sql.Identifier(side.model),
        "source": sql.Identifier(side.source),
    }
    return {
        "inserted_new": sql.SQL("NEW.{vector} IS NOT NULL AND NEW.{source} IS NULL").format(**names),
        # with other stamps it says itself what it was made of
        "updated_new": sql.SQL(
            "pg_catalog.record_image_ne(ROW(OLD.{vector}), ROW(NEW.{vector})) AND (NEW.{vector} IS NULL OR"
            " pg_catalog.record_image_eq(ROW(OLD.{model}, OLD.{source}), ROW(NEW.{model}, NEW.{source})))"
        ).format(**names),
        "new_present": sql.SQL("NEW.{vector} IS NOT NULL").format(**names),
    }


def functions_sql(migration: Migration, attaching: Sequence[str] = ()) -> tuple[sql.Composed, ...]:
    """DDL of the trigger functions alone: takes no lock on the table, and has every session compile them anew.

    ``attaching``: see :func:`attaching_roles`.

    They are SECURITY DEFINER, so that an application role needs no right on our schema; hence nobody may execute them
    (a trigger fires without), they serve no table but the migration's and its partitions, and they make text by output
    functions alone (see ``values``): on a table of somebody else's, a key with a cast of its own would run as us.
    """
    session = sql.SQL(" ").join(
        sql.SQL("SET {} = {}").format(sql.SQL(name), sql.SQL(", ").join(map(sql.Literal, value.split(", "))))
        for name, value in _SETTINGS.items()
    )
    statements: list[sql.Composed] = []
    for what, body in _bodies(migration).items():
        statements.append(
            sql.SQL(
                "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " {session} AS {body}"
            ).format(name=_function(migration, what), session=session, body=sql.Literal(body))
        )
        statements.append(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(_function(migration, what)))
        statements += [
            sql.SQL("GRANT EXECUTE ON FUNCTION {}() TO {}").format(_function(migration, what), sql.Identifier(role))
            for role in attaching
        ]
    return tuple(statements)


def attaching_roles(conn: Connection, migration: Migration) -> list[str]:
    """Roles that may attach partitions: to copy our triggers to one, PostgreSQL asks for EXECUTE on their functions.

    It gives the table's owner nothing: on any other table the functions do nothing. Empty where not partitioned.
    """
    rows = conn.execute(
        "SELECT DISTINCT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c WHERE c.relkind = 'p' AND"
        " (c.oid = %(table)s OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass)))"
        " AND c.relowner <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) ORDER BY 1",
        {"table": migration.table_oid},
    )
    return [role for (role,) in rows]


def renamed_sql(conn: Connection, migration: Migration) -> tuple[sql.Composed, ...]:
    """The functions by the migration's names, for the transaction that gives the columns these names.

    Empty where there are none, or this role may not change them: they fail then, and a scan finds what changed.
    """
    row = conn.execute(
        "SELECT bool_and(pg_catalog.pg_has_role(p.proowner, 'USAGE')) FROM pg_catalog.pg_proc p"
        " JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'embedtui' AND p.proname = ANY (%s)",
        [[f"capture_{migration.id}_{what}" for what in _bodies(migration)]],
    ).fetchone()
    return functions_sql(migration, attaching_roles(conn, migration)) if row == (True,) else ()


def close_functions(conn: Connection, migration: Migration) -> bool:
    """Bring the functions of an installed change capture to what :func:`functions_sql` makes; whether they were not.

    Their triggers stay as they are. A role that does not own them leaves it to the one that does.
    """
    wanted = {f"capture_{migration.id}_{what}": body for what, body in _bodies(migration).items()}
    may_attach = set(attaching_roles(conn, migration))
    found = conn.execute(
        """
        SELECT p.proname, p.prosrc, p.proconfig, pg_catalog.pg_get_userbyid(p.proowner)::text,
               pg_catalog.pg_has_role(p.proowner, 'USAGE'),
               ARRAY(SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END
                     FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
                     WHERE a.grantee <> p.proowner ORDER BY 1)
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'embedtui' AND p.proname = ANY (%s) AND p.prosecdef
        """,
        [list(wanted)],
    ).fetchall()
    closed = all(
        body == wanted[name] and config == _CONFIGURATION and set(granted) == may_attach - {owner}
        for name, body, config, owner, _, granted in found
    )
    if closed or not all(mine for *_, mine, _ in found):
        return False
    with conn.transaction():
        if any(config != _CONFIGURATION for _, _, config, *_ in found):
            # it may have queued keys in a text that no row is found by: only a scan finds those
            add_fault(conn, migration, "keys were written under the settings of the application's sessions")
        for name, *_, granted in found:
            for role in set(granted) - may_attach - {"PUBLIC"}:  # of default privileges, or by hand
                conn.execute(
                    sql.SQL("REVOKE ALL ON FUNCTION {}() FROM {}").format(
                        sql.Identifier("embedtui", name), sql.Identifier(role)
                    )
                )
        for statement in functions_sql(migration, sorted(may_attach)):
            conn.execute(statement)
    return True


def install_sql(migration: Migration, attaching: Sequence[str] = ()) -> tuple[sql.Composed, ...]:
    """DDL that installs change capture: functions and triggers.

    A row trigger without a column list also sees edits made by BEFORE triggers. ENABLE ALWAYS also captures what a
    logical replication apply worker writes.
    """
    table = relation(migration.table)
    statements = list(functions_sql(migration, attaching))
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


def _text(row: str, name: str, kind: str) -> sql.Composed:
    text = output_sql(sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(name)), kind)
    return sql.SQL("{} COLLATE {}").format(text, BYTES)


def _distinct(types: dict[str, str]) -> sql.Composed:
    return sql.SQL(" OR ").join(
        sql.SQL("{} IS DISTINCT FROM {}").format(_text("OLD", name, kind), _text("NEW", name, kind))
        for name, kind in types.items()
    )


def _row_key(migration: Migration, row: str) -> sql.Composed:
    return sql.SQL("ARRAY[{}]").format(
        sql.SQL(", ").join(_text(row, name, kind) for name, kind in key_types(migration).items())
    )


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
        " JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid AND p.prosrc = ANY (%(b)s) AND p.proconfig = %(c)s"
        " WHERE t.tgrelid = m.table_oid AND t.tgname = ANY (%(n)s) AND t.tgenabled = 'A' AND t.tgqual IS NULL)"
        " FROM embedtui.migration m WHERE id = %(m)s",
        {"b": bodies, "c": _CONFIGURATION, "n": names, "m": migration.id},
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


def add_fault(conn: Connection, migration: Migration, reason: str) -> None:
    """Have the table scanned for changes that the queue does not tell of."""
    conn.execute("INSERT INTO embedtui.capture_fault (migration, reason) VALUES (%s, %s)", [migration.id, reason[:500]])


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


def insert_trigger(migration: Migration) -> str:
    """Name of the trigger that captures inserts, of the table and of each partition."""
    return _name(migration, "insert")
