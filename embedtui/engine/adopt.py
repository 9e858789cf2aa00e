"""Going on with a table that was dropped and made again, restored or swapped: all that is still valid is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from psycopg import sql

from embedtui.engine.cleanup import traces
from embedtui.engine.cleanup.steps import unbounded
from embedtui.engine.plan.scope import overlapping
from embedtui.engine.prepare import count_total
from embedtui.engine.table_changes import known_columns, table_change
from embedtui.errors import Interrupted, Refused, TableError
from embedtui.formatting import counted
from embedtui.model import Migration, Phase, PlacementKind, RowExpression, Side
from embedtui.postgres.catalog.facts import TableFacts
from embedtui.postgres.catalog.inspect import inspect_oid, stored_dimensions
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement, run_ddl
from embedtui.postgres.expressions import reparse
from embedtui.postgres.joined import rejoin
from embedtui.postgres.names import relation, shown, shown_column
from embedtui.postgres.sides import capture, rights
from embedtui.postgres.sides.carry import carry
from embedtui.postgres.sides.layout import follows_by_foreign_key, new_side, scope_sql, vector_sql_type
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.sides.side_table import TablePlacement
from embedtui.postgres.state.adoption import FORMER, adopt_sql, count_kept
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.pointer import read_route
from embedtui.postgres.state.shards import plan_shards


@dataclass(frozen=True, slots=True)
class Adoption:
    """What it would be to go on with the table that has the migration's name now."""

    migration: Migration
    """As it would be."""
    phase: Phase
    """Where it would go on."""
    what: str
    """What happened to the table, as an operator reads it."""
    former: traces.Traces | None
    """The former table, where it is still there under another name and holds new vectors."""
    beside: tuple[Statement, ...]
    """DDL that makes what is missing of the new side."""
    switch: tuple[Statement, ...]
    """DDL that puts change capture on the table and stores what it is now."""


def adoption(conn: Connection, migration: Migration) -> Adoption:
    """What adopting the table would take; reads only.

    Raises:
        Refused: there is nothing to adopt, or the table is none that this migration could go on with.
    """
    change, facts = table_change(conn, migration), _named(conn, migration)
    if change is None or change.followed is not None or facts.oid == migration.table_oid:
        raise Refused(
            f"{shown(migration.table)} is the table that this migration began with: there is nothing to adopt.",
            hint="`embedtui run` goes on." if change is None else change.hint,
        )
    problems = list(_problems(conn, migration, facts))
    if problems:
        raise Refused(
            f"{shown(migration.table)} is not the table that this migration began with: {'; '.join(problems)}.",
            hint=f"Bring it in line, or give it up: embedtui abort --table {shown_column(migration.table.name)}",
        )
    key = next(each for each in facts.keys if set(each.columns) == set(migration.key_columns))
    order = [key.columns.index(name) for name in migration.key_columns]
    contents = [facts.column(name) for name in migration.content_columns]
    now = replace(
        migration,
        table_oid=facts.oid,
        key_types=tuple(key.types[place] for place in order),
        key_equality=tuple(key.equality[place] for place in order) if key.equality else (),
        content_types=tuple(column.plain_type for column in contents if column is not None),
        scope=migration.scope and reparse(conn, facts.table, migration.scope, {}, setting="scope", condition=True),
        content=_content(conn, migration, facts),
    )
    found = traces.find(conn, migration)
    former = next((each for each in found if each.oid == migration.table_oid), None)
    route = read_route(conn, migration.name)
    serves = route.active is Side.NEW or migration.phase in (Phase.CUTOVER, Phase.SOAK)
    what = "; ".join(change.what)
    return Adoption(
        now,
        migration.phase if serves else Phase.BACKFILL,
        what,
        former if former is not None and former.columns else None,
        tuple(_beside_sql(conn, migration, now)),
        tuple(_switch_sql(conn, migration, now, migration.phase if serves else Phase.BACKFILL, former, what)),
    )


def _content(conn: Connection, migration: Migration, facts: TableFacts) -> RowExpression | None:
    if migration.text_table is not None:
        return rejoin(conn, migration, facts.oid, facts.table)
    scanned = not migration.stored.by_triggers
    return migration.content and reparse(
        conn, facts.table, migration.content, {}, setting="content_sql", scanned=scanned
    )


def adopt(
    conn: Connection, migration: Migration, *, stop: threading.Event, on_wait: Callable[[str], None] | None = None
) -> str:
    """Go on with the table that has the migration's name now; gives what was kept, in a sentence or two.

    Interrupted before the last step it is begun anew by a rerun, which finds what was carried already.

    Raises:
        Refused: as :func:`adoption`.
        LockTimeout, Interrupted: as :func:`~embedtui.postgres.ddl.run_ddl`.
    """
    plan = adoption(conn, migration)
    now, table = plan.migration, plan.migration.table
    run_ddl(
        conn, plan.beside, migration=migration.id, stop=stop, on_wait=on_wait, relations=[table, new_side(now).table]
    )
    carried = 0
    if plan.former is not None:
        for rows in carry(conn, now, plan.former.table):
            carried += rows
            if stop.is_set():
                raise Interrupted("Stopped; a rerun goes on from here.")
    again = adoption(conn, load_migration(conn, migration.name) or migration)  # that may have taken long
    if (again.migration.table_oid, again.migration.key_types) != (now.table_oid, now.key_types):
        raise Refused(f"{shown(table)} changed meanwhile.", hint="Adopt it again.")
    relations = [*capture.tables(now), *([plan.former.table] if plan.former is not None else [])]
    run_ddl(conn, plan.switch, migration=migration.id, stop=stop, on_wait=on_wait, relations=relations)
    placement = make_placement(now)
    if isinstance(placement, TablePlacement):
        placement.remove_orphans(conn)
    for statement in _validation_sql(conn, now):
        with unbounded(conn):
            conn.execute(statement)
    with unbounded(conn):
        report = placement.count(conn)
    count_kept(conn, now, report.embedded)
    plan_shards(conn, now.id, now.table_oid)
    count_total(conn, now)
    texts = report.rows - report.empty
    done = f"{report.embedded:,} of {counted(texts, 'row keeps its vector', 'rows keep their vectors')}"
    done += f", {carried:,} carried from {shown(plan.former.table)}" if plan.former is not None else ""
    add_audit(conn, now.id, "adopt", done)
    return f"{done}. " + (
        "`embedtui run` embeds the rest."
        if plan.phase is Phase.BACKFILL
        else "The new side serves: `embedtui run` embeds the rest, `embedtui index` builds the index if it is gone."
    )


def _named(conn: Connection, migration: Migration) -> TableFacts:
    name = relation(migration.table).as_string(conn)
    row = conn.execute(
        "SELECT oid::int8 FROM pg_catalog.pg_class WHERE oid = to_regclass(%s) AND relkind IN ('r', 'p')", [name]
    ).fetchone()
    if row is None:
        raise Refused(
            f"There is no table {shown(migration.table)} to go on with.",
            hint=f"Make or restore it, or: embedtui abort --table {shown_column(migration.table.name)}",
        )
    return inspect_oid(conn, row[0])


def _problems(conn: Connection, migration: Migration, facts: TableFacts) -> Iterator[str]:
    """Why the table is none that the migration could go on with."""
    beside = overlapping(conn, replace(migration, table_oid=facts.oid))
    if beside is not None:
        yield f"{beside[0][:1].lower()}{beside[0][1:].rstrip('.')}"
    if facts.row_security_applies:
        yield "row security would hide rows from this role"
    if facts.inherits:
        yield "it takes part in old-style inheritance"
    key = ", ".join(map(shown_column, migration.key_columns))
    if not any(set(each.columns) == set(migration.key_columns) for each in facts.keys):
        yield f"it has no unique key on {key}"
    scope = () if migration.scope is None else migration.scope.names
    for name in dict.fromkeys((*migration.content_columns, *scope)):
        if facts.column(name) is None:
            yield f"it has no column {shown_column(name)}"
    old = facts.column(migration.old_column)
    if old is None or not old.is_vector or old.base_type != migration.old_vector_type:
        kind = f"{migration.old_vector_type} column {shown_column(migration.old_column)}"
        yield f"it has no {kind}"
    else:
        size = stored_dimensions(conn, facts, old.name, migration.vector_schema, scope_sql(migration, "t"))
        if size not in (None, migration.old_model.dimensions):
            yield f"its {shown_column(old.name)} has {size} dimensions and not {migration.old_model.dimensions}"
    yield from _problems_of_new_side(conn, migration, facts)


def _problems_of_new_side(conn: Connection, migration: Migration, facts: TableFacts) -> Iterator[str]:
    side = new_side(migration)
    if migration.placement is PlacementKind.TABLE:
        row = conn.execute("SELECT to_regclass(%s)::oid::int8", [relation(side.table).as_string(conn)]).fetchone()
        if row is None or row[0] is None:
            return  # made anew
        facts = inspect_oid(conn, row[0])
    kind = vector_sql_type(migration).as_string(conn).replace('"', "").rpartition(".")[2]
    for name, wanted in ((side.embedding, kind), (side.model, "integer"), (side.source, "bigint")):
        column = facts.column(name)
        if column is not None and column.type.rpartition(".")[2] != wanted:
            yield f"{shown(facts.table)}.{shown_column(name)} is {column.type} and not {wanted}"
        elif column is None and migration.placement is PlacementKind.TABLE:
            yield f"{shown(facts.table)} has no column {shown_column(name)}"


_FOREIGN_KEYS = """
SELECT c.conname::text, c.confrelid = %(table)s, c.convalidated FROM pg_catalog.pg_constraint c
 WHERE c.conrelid = to_regclass(%(side)s) AND c.contype = 'f' AND c.conparentid = 0
"""


def _foreign_keys(conn: Connection, migration: Migration) -> list[tuple[str, bool, bool]]:
    """Of the side table: (name, it refers to the migration's table, it is validated)."""
    side = relation(new_side(migration).table).as_string(conn)
    return conn.execute(_FOREIGN_KEYS, {"table": migration.table_oid, "side": side}).fetchall()


def _validation_sql(conn: Connection, now: Migration) -> list[sql.Composed]:
    """Checks the rows that were there before the foreign key; a scan that stops nobody."""
    if not follows_by_foreign_key(now):
        return []
    return [
        sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
            relation(new_side(now).table), sql.Identifier(constraint)
        )
        for constraint, ours, valid in _foreign_keys(conn, now)
        if ours and not valid
    ]


def _beside_sql(conn: Connection, migration: Migration, now: Migration) -> Iterator[Statement]:
    side = new_side(now).table
    there = conn.execute("SELECT to_regclass(%s) IS NOT NULL", [relation(side).as_string(conn)]).fetchone() == (True,)
    if now.placement is PlacementKind.COLUMN or not there:
        yield from make_placement(now).prepare_sql()
        yield from rights.first_sql(conn, now)
        return
    yield from rights.asking_sql(conn, now)  # its policies ask the former table
    if not follows_by_foreign_key(migration):
        return
    keys = _foreign_keys(conn, now)
    for constraint, ours, _ in keys:
        if not ours:
            yield sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(relation(side), sql.Identifier(constraint))
    if not any(ours for _, ours, _ in keys):
        columns = sql.SQL(", ").join(map(sql.Identifier, now.key_columns))
        yield sql.SQL(
            "ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE CASCADE ON UPDATE CASCADE NOT VALID"
        ).format(relation(side), columns, relation(now.table), columns)


def _switch_sql(
    conn: Connection, migration: Migration, now: Migration, phase: Phase, former: traces.Traces | None, what: str
) -> Iterator[Statement]:
    if former is not None:
        for name in former.triggers:
            yield sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(name), relation(former.table))
    if now.stored.by_triggers:
        yield from capture.install_sql(now, capture.attaching_roles(conn, now))
    known = known_columns(conn, now)
    if known is None:  # looked at before
        raise TableError(f"columns of {shown(now.table)} are gone.")
    formers = list(migration.run_state.former)
    if former is not None and former.columns and former.oid not in formers:
        formers.append(former.oid)
    yield from adopt_sql(now, phase, {**known, FORMER: formers}, what)
