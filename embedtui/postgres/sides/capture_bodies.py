"""What change capture's trigger functions do: PL/pgSQL for a row of the table, or of the one that has its texts."""

from __future__ import annotations

from dataclasses import replace

from psycopg import sql

from embedtui.model import Migration, PlacementKind, RowExpression, TextTable
from embedtui.postgres.expressions import row_sql
from embedtui.postgres.sides.layout import BYTES, follows_by_foreign_key, new_side
from embedtui.postgres.sides.own_writes import OURS, WRITER
from embedtui.postgres.values import content_types, key_types, output_sql

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
            {queue};
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
        {queue};
    END IF;
    RETURN NULL;
END"""

_ROW = """INSERT INTO embedtui.queue (migration, key, kind, edited, was, wrote_old, wrote_new)
            VALUES ({migration}, k, kind, edited, was, wrote_old, wrote_new)"""

# Of a text one entry, however many rows refer to it: the application's statement is not to wait while they are found.
_TEXT = "INSERT INTO embedtui.queue (migration, key, kind, text_key) VALUES ({migration}, '{{}}', kind, k)"

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


_LOOK_AT_TEXT = """
        {types}
        IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
            k := {key};
        ELSIF ({rekeyed}) THEN
            k := {old_key};
            {queue};
            k := {key};
        ELSIF ({edited}) THEN
            k := {key};
        END IF;
"""


def bodies(migration: Migration) -> dict[str, str]:
    """Source of each trigger function by its name.

    Comparisons are of texts made by output functions alone (see ``values``), so that no operator and no cast of the
    application's runs with our rights. They are in here and not in a WHEN
    clause: on columns that one names PostgreSQL refuses the application's ALTER TYPE and DROP COLUMN.
    """
    rekeyed = _distinct(key_types(migration))
    table = sql.SQL("{}::pg_catalog.oid").format(sql.Literal(migration.table_oid))
    content = migration.content if migration.text_table is None else None  # where it is elsewhere, the reference counts
    row = sql.SQL(_LOOK).format(
        table=table,
        types=_type_guard(migration.scope, content),
        inside=_inside(migration, "NEW"),
        was_inside=_inside(migration, "OLD"),
        key=_key(key_types(migration), "NEW"),
        old_key=_key(key_types(migration), "OLD"),
        edited=_distinct(content_types(migration)) if content is None else _another(content),
        rekeyed=rekeyed,
        old=sql.Identifier(migration.old_column),
        writer=sql.Literal(WRITER),
        ours=sql.Literal(OURS),
        **_new_vector(migration),
    )
    found = {"row": _body(migration, table, row)}
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        found["old_row"] = _body(migration, table, _gone(key_types(migration)))
        found["all"] = _body(migration, table, sql.SQL("k := '{}'::pg_catalog.text[];"))
    if migration.text_table is not None:
        found |= _of_texts(migration, migration.text_table)
    return found


def _of_texts(migration: Migration, other: TextTable) -> dict[str, str]:
    """Functions of the table that has the texts: each queues the key of a row of it, whose text is another one now.

    Of a row that gets another key both: rows that refer to the former one may have another text under it.
    """
    table = sql.SQL("{}::pg_catalog.oid").format(sql.Literal(other.oid))
    types = dict(zip(other.key, other.key_types, strict=True))
    look = sql.SQL(_LOOK_AT_TEXT).format(
        types=_type_guard(other.text),
        edited=_another(other.text),
        rekeyed=_distinct(types),
        key=_key(types, "NEW"),
        old_key=_key(types, "OLD"),
        queue=sql.SQL(_TEXT).format(migration=sql.Literal(migration.id)),
    )
    return {
        "text": _body(migration, table, look, _TEXT),
        "old_text": _body(migration, table, sql.SQL("k := {};").format(_key(types, "OLD")), _TEXT),
    }


def of_side(migration: Migration, side: int, number: int) -> str:
    """Source of the function of the side table with this oid, while a cleanup folds it; queued under ``number``.

    Of a cleanup that was taken back nothing is told.
    """
    look = sql.SQL(
        "IF EXISTS (SELECT FROM embedtui.route r WHERE r.migration OPERATOR(pg_catalog.=) {migration}"
        " AND r.ending OPERATOR(pg_catalog.=) 'cleanup') THEN"
        " IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN k := {gone}; ELSE k := {key}; END IF; END IF;"
    ).format(
        migration=sql.Literal(migration.id),
        gone=_key(key_types(migration), "OLD"),
        key=_key(key_types(migration), "NEW"),
    )
    table = sql.SQL("{}::pg_catalog.oid").format(sql.Literal(side))
    return _body(replace(migration, id=number), table, look)


def _body(migration: Migration, table: sql.Composable, look: sql.Composable, queue: str = _ROW) -> str:
    number = sql.Literal(migration.id)
    return (
        sql.SQL(_BODY)
        .format(
            table=table,
            migration=number,
            setting=sql.Literal(f"embedtui.capture_{migration.id}".replace("-", "side_")),
            look=look,
            queue=sql.SQL(queue).format(migration=number),
        )
        .as_string(None)
    )


def _gone(types: dict[str, str]) -> sql.Composed:
    """Takes the key that a row had, where it has it no more."""
    # CASE, since NEW is not assigned yet where a row is deleted
    gone = sql.SQL("IF (CASE TG_OP WHEN 'DELETE' THEN true ELSE {} END) THEN k := {}; END IF;")
    return gone.format(_distinct(types), _key(types, "OLD"))


def _inside(migration: Migration, row: str) -> sql.Composable:
    """Whether a row of the trigger is in the scope."""
    if migration.scope is None:
        return sql.SQL("TRUE")
    # in parentheses: PL/pgSQL would take the THEN of a CASE for its IF's
    return sql.SQL("({})").format(row_sql(migration.scope, sql.SQL(row)))


def _another(text: RowExpression) -> sql.Composable:
    """Whether the text to embed is another one."""
    texts = [
        sql.SQL("({})::pg_catalog.text COLLATE {}").format(row_sql(text, sql.SQL(row)), BYTES) for row in ("OLD", "NEW")
    ]
    return sql.SQL("{} IS DISTINCT FROM {}").format(*texts)


def _type_guard(*expressions: RowExpression | None) -> sql.Composable:
    """Raises, to be taken up as a fault, where a column that an operator's SQL names has another type by now.

    Its functions are those of the types that it was read with; of others, casts and operators could be anybody's.
    """
    columns = dict(column for each in expressions if each is not None for column in each.columns)
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


def _text(row: str, name: str, kind: str) -> sql.Composed:
    text = output_sql(sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(name)), kind)
    return sql.SQL("{} COLLATE {}").format(text, BYTES)


def _distinct(types: dict[str, str]) -> sql.Composed:
    return sql.SQL(" OR ").join(
        sql.SQL("{} IS DISTINCT FROM {}").format(_text("OLD", name, kind), _text("NEW", name, kind))
        for name, kind in types.items()
    )


def _key(types: dict[str, str], row: str) -> sql.Composed:
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(_text(row, name, kind) for name, kind in types.items()))
