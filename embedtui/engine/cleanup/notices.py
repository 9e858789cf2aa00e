"""Before anything is dropped: who was heard from, what the cleanup does, and what breaks where nobody was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from embedtui.engine.cleanup.choice import CleanupChoice, named_as_before, renames, restores_not_null
from embedtui.engine.cutover.strategies import cutover_settings
from embedtui.formatting import counted, size
from embedtui.model import Check, Migration, PlacementKind
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.catalog.role_paths import roles_on_path
from embedtui.postgres.catalog.usage import Naming, naming
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation, shown, shown_column
from embedtui.postgres.sides import routed_view
from embedtui.postgres.state.listeners import ever_heard, heard_from, read_listeners
from embedtui.postgres.state.pointer import read_status
from embedtui.redaction import redact

TOLD = ("env_file", "hook")
"""Strategies that tell services of names."""


def decided(conn: Connection, migration: Migration, choice: CleanupChoice) -> CleanupChoice:
    """The choice with what was left open: names that somebody follows are kept, else the old ones are taken.

    A scope's old column is kept whatever was chosen.
    """
    return _decided(conn, migration, choice)[0]


def _decided(conn: Connection, migration: Migration, choice: CleanupChoice) -> tuple[CleanupChoice, str]:
    """(the choice, why the new side's names are kept where that was left open)."""
    fold, rename, why = choice.fold, choice.rename, ""
    if migration.scope is not None:  # what is outside is searched by the old column
        choice = replace(choice, keep_old=True)
    if migration.placement is PlacementKind.COLUMN:
        why = followed(conn, migration) if rename is None else ""
        fold, rename = False, not why if rename is None else rename
    elif fold is None:
        why = followed(conn, migration)
        if not why and not migration.stored.view and ever_heard(conn, migration):
            why = "a Router was heard from, and follows it"
        fold = not choice.keep_old and not why
    return replace(choice, fold=fold, rename=rename is not False), why


def routers_behind(conn: Connection, migration: Migration) -> int:
    """Routers heard from lately that do not know of the pointer's last change yet."""
    epoch = read_status(conn, migration).epoch
    return sum(listener.epoch < epoch for listener in read_listeners(conn, migration.name))


def followed(conn: Connection, migration: Migration) -> str:
    """Why the new side's names are kept; empty where nobody is known to go by them."""
    strategy = cutover_settings(migration).strategy
    name = shown_column(migration.new_column)
    if migration.placement is PlacementKind.TABLE:
        name = shown(migration.new_table)
    if strategy in TOLD:
        return f"strategy {strategy} has told services of {name}"
    found = _naming_new(conn, migration)
    return f"{name} is named by {found}" if found else ""


def _naming_new(conn: Connection, migration: Migration) -> Naming:
    if migration.placement is PlacementKind.TABLE:
        return naming(conn, migration.new_table.name)
    return naming(conn, migration.new_column)


def cleanup_notices(conn: Connection, migration: Migration, choice: CleanupChoice) -> tuple[Check, ...]:
    """What an operator should know before a cleanup, though it blocks nothing."""
    choice, why = _decided(conn, migration, choice)
    found = list(_stays(migration))
    found += [_fold(conn, migration)] if choice.fold else _kept(migration, choice, why)
    found += [_heard(conn, migration), *_who_names(conn, migration, choice)]
    if restores_not_null(migration, choice, inspect_oid(conn, migration.table_oid)):
        text = f"{shown_column(migration.old_column)} is NOT NULL again, as it was: a row needs its vector to come in."
        found.append(Check("not null", "warn", text))
    return (*found, _after(migration))


def _fold(conn: Connection, migration: Migration) -> Check:
    name = relation(migration.new_table).as_string(conn)
    row = conn.execute(
        "SELECT pg_table_size(c)::int8, pg_indexes_size(c)::int8, greatest(pg_stat_get_live_tuples(c), (SELECT"
        " reltuples::int8 FROM pg_class WHERE oid = c)) FROM to_regclass(%s) c WHERE c IS NOT NULL",
        [name],
    ).fetchone()
    table, index, rows = row if row is not None else (0, 0, 0)
    return Check(
        "fold",
        "pass",
        f"About {counted(rows, 'vector', 'vectors')} of {shown(migration.new_table)} are copied into a column of"
        f" {shown(migration.table)}, beside the work, and indexed CONCURRENTLY; one short transaction then gives the"
        f" column the name {shown_column(migration.old_column)} and drops the side table. Until then that takes about"
        f" {size(table)} of disk more, and an index like the side table's ({size(index)} with its key's). How long it"
        " takes is told once it runs; it can be stopped, and goes on. The column is new, and stands last: that breaks"
        " prepared SELECT * and RETURNING *, and INSERT or COPY without a list of columns.",
        "Keep the side table: --no-fold.",
    )


def _stays(migration: Migration) -> Iterator[Check]:
    if migration.scope is not None:
        text = (
            f"{shown_column(migration.old_column)} stays: rows outside the scope ({redact(migration.scope.given)}) are"
            " searched by it."
        )
        yield Check("scope", "pass", text)


def _kept(migration: Migration, choice: CleanupChoice, why: str) -> Iterator[Check]:
    if migration.placement is PlacementKind.TABLE:
        old, side = shown_column(migration.old_column), shown(migration.new_table)
        because = f": {why}" if why else ""
        gone = "" if choice.keep_old else f" An application that reads {shown(migration.table)}.{old} breaks."
        yield Check("side table", "warn", f"{side} stays{because}.{gone}", "Fold it into the table: --fold.")
    elif why and not choice.keep_old and not renames(migration, choice):
        name = shown_column(migration.new_column)
        yield Check("names", "warn", f"{name} keeps its name: {why}.", "Give it the old one's: --rename.")


def _heard(conn: Connection, migration: Migration) -> Check:
    applications = heard_from(conn, migration)
    found = [
        f"Router {each.application} ({counted(each.searches_new, 'search', 'searches')} of the new side since"
        f" {each.since:%Y-%m-%d %H:%M %Z})"
        for each in applications[:3]
    ]
    if len(applications) > 3:
        found.append(f"Routers of {len(applications) - 3} more applications")
    view = routed_view.find(conn, migration)
    for role, sessions in roles_on_path(conn, view.name.schema).items() if view is not None else ():
        who = f"role {role}" if role else "every role"
        found.append(f"{who} by the routed view ({counted(sessions, 'session', 'sessions')} now)")
    if found:
        return Check("heard", "pass", f"Heard from: {'; '.join(found)}.")
    same = migration.old_model.dimensions == migration.new_model.dimensions
    wrong = "finds the wrong rows, and no error says so" if same else "fails by its dimensions"
    return Check(
        "heard",
        "warn",
        "Nobody was heard from: no Router, no integration, no role on a routed view. An application that still embeds"
        f" with {migration.old_model.called} {wrong} from the drop on.",
        f"Have it embed with {migration.new_model.name} by then.",
    )


def _who_names(conn: Connection, migration: Migration, choice: CleanupChoice) -> Iterator[Check]:
    if choice.keep_old:
        return
    old = naming(conn, migration.table.name, migration.old_column)
    if old:
        now = migration.new_model.name if named_as_before(migration, choice) else "nothing: it fails"
        yield Check("old column", "warn", f"{shown_column(migration.old_column)}, which will mean {now}: {old}.")
    yield Check("unseen", "unknown", f"Could not be looked at: {', '.join(old.unseen)}.")


def _after(migration: Migration) -> Check:
    return Check(
        "after it",
        "warn",
        "A row that is written or edited from then on gets no vector from embedtui.",
        f"The application has to embed with {migration.new_model.name} and write the vector itself; until it does, put"
        " the cleanup off: `embedtui run --follow` keeps the new side current for as long as it runs.",
    )
