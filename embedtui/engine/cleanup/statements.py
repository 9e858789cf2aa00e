"""The exact SQL of a cleanup and of an abort, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from psycopg import sql

from embedtui.engine.cleanup import traces
from embedtui.engine.cleanup.choice import (
    CleanupChoice,
    CleanupStep,
    final_column,
    renames,
    restores_not_null,
    stored_choice,
)
from embedtui.engine.cleanup.notices import decided
from embedtui.engine.cleanup.settle import end_capture_sql
from embedtui.engine.plan.statements import index_options
from embedtui.model import IndexMethod, Migration, Phase, PlacementKind, Side, TableName
from embedtui.postgres.catalog import column_attributes
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement
from embedtui.postgres.indexes import create_sql, pairs_of
from embedtui.postgres.joined import as_called_now
from embedtui.postgres.names import relation, shown, shown_column
from embedtui.postgres.sides import capture, routed_view
from embedtui.postgres.sides.fold import Fold, column_for, folded, leftover_sql, prepare_sql
from embedtui.postgres.sides.layout import new_side, scope_sql
from embedtui.postgres.state.ending import folded_sql, left_check_sql, read_ending, record_sql, rows_sql


def cleanup_statements(conn: Connection, migration: Migration, choice: CleanupChoice) -> tuple[CleanupStep, ...]:
    """The steps that a cleanup would still take, with the exact SQL of each, in order."""
    state = read_ending(conn, migration)
    if state.begun:
        choice = stored_choice(state.record)
        not_null = state.has("not_null")
    else:
        choice = decided(conn, migration, choice)
        not_null = restores_not_null(migration, choice, inspect_oid(conn, migration.table_oid))
    steps = [] if state.begun else [CleanupStep("begin", "phase cleanup; a rollback takes it back until the drop")]
    if choice.archive is not None and not state.has("archived"):
        texts = [archive_sql(migration, choice.archive)]
        if isinstance(choice.archive, TableName):
            texts = [*archive_table_sql(migration, choice.archive), *texts]
        detail = f"old vectors to {choice.archive}, in pages by key, counted"
        steps.append(CleanupStep("archive", detail, shown_sql(conn, texts)))
    if choice.fold and migration.placement is PlacementKind.TABLE and not state.has("contracted"):
        steps += _fold_steps(conn, migration)
        migration = folded(migration, column_for(conn, migration))
    if not state.has("contracted"):
        detail = "what is queued is embedded; from here on changes are the application's"
        steps.append(CleanupStep("settle", detail, shown_sql(conn, end_capture_sql(conn, migration))))
        contract = contract_sql(conn, migration, choice, not_null, state.left)
        space = "" if choice.keep_old else "; the old vectors' disk space comes back as rows are rewritten"
        detail = f"one short transaction{space}"
        steps.append(CleanupStep("contract", detail, shown_sql(conn, contract)))
    if not_null and (not state.has("contracted") or constraint_exists(conn, migration)):
        checks = [validate_sql(migration), *set_not_null_sql(migration)]
        steps.append(CleanupStep("not null", f"{final_column(migration)} NOT NULL again", shown_sql(conn, checks)))
    if not state.has("finished"):
        steps.append(
            CleanupStep("finish", "embedtui's working rows go, the log stays", shown_sql(conn, rows_sql(migration)))
        )
    return tuple(steps)


def _fold_steps(conn: Connection, migration: Migration) -> list[CleanupStep]:
    fold = Fold(migration, column_for(conn, migration))
    into = fold.into
    column = f"{shown(into.table)}.{shown_column(into.new_column)}"
    steps = [
        CleanupStep(
            "fold",
            f"the vectors of {shown(migration.new_table)} are copied to {column}, a row of each page at a time",
            shown_sql(conn, [*prepare_sql(conn, migration, fold.column), fold.page_sql()]),
        )
    ]
    if migration.index_method is not IndexMethod.NONE:
        built = shown_sql(conn, create_sql(conn, into, index_options(into)))
        steps.append(CleanupStep("index", f"on {column}, beside the work", built))
    viewed = migration.stored.view and routed_view.obstacle(conn, into) is None
    made = routed_view.make_sql(conn, into) if viewed else []
    exchange = shown_sql(conn, [*made, *exchange_sql(conn, migration, fold.column)])
    detail = "one short transaction: the side table goes, and whoever follows the route searches the column"
    return [*steps, CleanupStep("exchange", detail, exchange)]


def abort_statements(conn: Connection, migration: Migration) -> tuple[CleanupStep, ...]:
    """The steps that an abort would still take, with the exact SQL of each, in order."""
    state = read_ending(conn, migration)
    steps = [] if state.begun else [CleanupStep("begin", "workers stop")]
    if not state.has("contracted"):
        steps.append(CleanupStep("remove", "one short transaction", shown_sql(conn, remove_sql(conn, migration))))
    if not state.has("finished"):
        steps.append(
            CleanupStep("finish", "embedtui's working rows go, the log stays", shown_sql(conn, rows_sql(migration)))
        )
    return tuple(steps)


def shown_sql(conn: Connection, statements: Sequence[Statement]) -> tuple[str, ...]:
    """Statements as an operator reads them."""
    return tuple(statement.as_string(conn) for statement in statements)


def exchange_sql(conn: Connection, migration: Migration, column: str) -> list[Statement]:
    """The new side is the column from here on, and the side table goes; the old side stays as it is."""
    fold = Fold(migration, column)
    watched, beside = as_called_now(conn, migration), relation(migration.new_table)
    locked = [*map(relation, capture.tables(watched)), beside]
    statements: list[Statement] = [sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(each) for each in locked]
    statements += [*fold.last_sql(conn), sql.SQL("DROP TABLE {}").format(beside)]
    statements += [*capture.remove_sql(watched), *capture.remove_functions_sql(migration, "side")]
    if migration.stored.by_triggers:
        statements += capture.install_sql(folded(watched, column), capture.attaching_roles(conn, migration))
    return [*statements, *folded_sql(fold.into)]


def contract_sql(
    conn: Connection, migration: Migration, choice: CleanupChoice, not_null: bool, left: Mapping[str, int]
) -> list[Statement]:
    """All that production could notice, in one transaction with the record of it: all of it is done, or nothing."""
    table = relation(migration.table)
    watched = as_called_now(conn, migration)
    statements: list[Statement] = [
        sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(relation(each)) for each in capture.tables(watched)
    ]
    statements.append(left_check_sql(migration, left))
    if migration.placement is PlacementKind.TABLE:
        view = routed_view.find(conn, migration)
        statements += routed_view.drop_sql(conn, view) if view is not None else []
        statements += leftover_sql(conn, migration)
    side = new_side(migration)
    statements += capture.remove_sql(watched)
    new = pairs_of(conn, migration) if renames(migration, choice) else []
    if renames(migration, choice):
        statements += column_attributes.take_over_sql(conn, migration)
    if not choice.keep_old:
        statements.append(sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, sql.Identifier(migration.old_column)))
    pairs = [(side.embedding, migration.old_column)] if renames(migration, choice) else []
    if migration.placement is PlacementKind.COLUMN:
        provenance = [(side.model, f"{migration.old_column}_model"), (side.source, f"{migration.old_column}_source")]
        if not choice.keep_provenance:
            statements.append(
                sql.SQL("ALTER TABLE {} {}").format(
                    table,
                    sql.SQL(", ").join(
                        sql.SQL("DROP COLUMN {}").format(sql.Identifier(column)) for column, _ in provenance
                    ),
                )
            )
        elif pairs:
            pairs += provenance
    statements += [
        sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(table, sql.Identifier(source), sql.Identifier(target))
        for source, target in pairs
    ]
    for index, old in new:
        renamed = TableName(index.schema, old.name)
        statements.append(sql.SQL("ALTER INDEX {} RENAME TO {}").format(relation(index), sql.Identifier(old.name)))
        statements += column_attributes.index_comment_sql(conn, old, renamed)
    if not_null:
        # checked for new rows at once and for the present ones later, without a long lock
        statements.append(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID").format(
                table, _constraint(migration), sql.Identifier(final_column(migration))
            )
        )
    gone = "" if choice.keep_old else Side.OLD.value
    # ended at once: Routers then write without the provenance columns
    statements += record_sql(migration, Phase.DONE, gone, migration.old_column if pairs else migration.new_column)
    return statements


def remove_sql(conn: Connection, migration: Migration) -> list[Statement]:
    """Takes everything back to before ``prepare``."""
    view = routed_view.find(conn, migration)
    statements = routed_view.drop_sql(conn, view) if view is not None else []
    statements += traces.removal_sql(traces.find(conn, migration))
    statements += capture.remove_functions_sql(migration)
    return [*statements, *record_sql(migration, Phase.ABORTED, Side.NEW.value, migration.new_column)]


def _constraint(migration: Migration) -> sql.Identifier:
    return sql.Identifier(f"embedtui_{migration.id}_not_null")


def validate_sql(migration: Migration) -> sql.Composed:
    """Check the present rows: a scan without a long lock."""
    return sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(relation(migration.table), _constraint(migration))


def set_not_null_sql(migration: Migration) -> list[Statement]:
    """Short: a valid CHECK spares SET NOT NULL its scan (PostgreSQL 12 or later)."""
    table = relation(migration.table)
    return [
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL").format(table, sql.Identifier(final_column(migration))),
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table, _constraint(migration)),
    ]


def old_vectors_sql(migration: Migration, within: sql.Composable | None = None) -> sql.Composed:
    """The old vectors with their keys, of the rows called ``t`` that ``within`` says."""
    return sql.SQL("SELECT {} FROM {} AS t WHERE {} AND {} IS NOT NULL{}").format(
        sql.SQL(", ").join(sql.Identifier("t", name) for name in (*migration.key_columns, migration.old_column)),
        relation(migration.table),
        scope_sql(migration, "t"),
        sql.Identifier("t", migration.old_column),
        sql.SQL("") if within is None else sql.SQL(" AND {}").format(within),
    )


def archive_sql(migration: Migration, archive: TableName | Path, within: sql.Composable | None = None) -> sql.Composed:
    """The old vectors into a table that is there, or in COPY's text form."""
    vectors = old_vectors_sql(migration, within)
    if isinstance(archive, TableName):
        return sql.SQL("INSERT INTO {} {}").format(relation(archive), vectors)
    return sql.SQL("COPY ({}) TO STDOUT").format(vectors)


def archive_table_sql(migration: Migration, archive: TableName) -> tuple[sql.Composed, ...]:
    """A table for the old vectors, empty, with the table's key; its comment says whose vectors they are."""
    keys = sql.SQL(", ").join(map(sql.Identifier, migration.key_columns))
    model = migration.old_model
    said = (
        f"Column {migration.old_column} of {migration.table}: vectors of {model.called}, {model.dimensions} dimensions,"
        f" archived by embedtui on {datetime.now(UTC):%Y-%m-%d}"
    )
    return (
        sql.SQL("CREATE TABLE {} AS {} WITH NO DATA").format(relation(archive), old_vectors_sql(migration)),
        sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(relation(archive), keys),
        sql.SQL("COMMENT ON TABLE {} IS {}").format(relation(archive), sql.Literal(said)),
    )


def constraint_exists(conn: Connection, migration: Migration) -> bool:
    """Whether the CHECK that stands in for NOT NULL is there."""
    found = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %s AND conname = %s)",
        (migration.table_oid, f"embedtui_{migration.id}_not_null"),
    )
    return found.fetchone() == (True,)
