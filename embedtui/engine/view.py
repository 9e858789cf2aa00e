"""The routed view of a migration: made with it or later, kept in step with the table, taken away on request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from psycopg import errors

from embedtui.engine.access import Access
from embedtui.errors import Refused
from embedtui.model import Migration, Phase, PlacementKind, RouteStatus, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import run_ddl
from embedtui.postgres.locks import alone_at_view
from embedtui.postgres.names import shown, shown_column
from embedtui.postgres.sides import routed_view
from embedtui.postgres.sides.layout import new_side
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import unread_sql
from embedtui.postgres.state.migrations import store_setting
from embedtui.postgres.state.pointer import read_status


@dataclass(frozen=True, slots=True)
class ViewStatus:
    """The routed view as it is, or would be."""

    name: str
    """As SQL writes it; empty where there is none."""
    schema: str
    """For a search path; empty where there is none."""
    statements: tuple[str, ...]
    """What an act would run, or has run."""


def view_status(at: Access, *, drop: bool = False) -> ViewStatus:
    """The view that is there, and the SQL that ``drop``, or making it (anew), would run."""
    migration = at.require()

    def read(conn: Connection) -> ViewStatus:
        there = routed_view.find(conn, migration)
        if drop:
            statements = routed_view.drop_sql(conn, there) if there is not None else []
        elif migration.phase.ended or migration.placement is PlacementKind.TABLE:
            statements = []
        else:
            statements = routed_view.make_sql(conn, migration)
        texts = tuple(statement.as_string(conn) for statement in statements)
        return ViewStatus(str(there or ""), shown_column(there.name.schema) if there else "", texts)

    return at.write(read, name="view")


def make_view(at: Access, schema: str | None = None, stop: threading.Event | None = None) -> ViewStatus:
    """Make the view of a migration that is under way, or bring it up to date; with a side table, have a fold make it.

    Raises:
        Refused: there is no new column yet, the migration has ended, or the view cannot be made; nothing is changed.
    """
    migration = at.under_way()
    beside = migration.placement is PlacementKind.TABLE
    if migration.phase in (Phase.PLAN, Phase.PREPARE):
        raise Refused(
            "There is no new column yet.", hint="embedtui run --until 0 prepares it; `view = true` makes both."
        )

    said: dict[str, object] = {"view": True, **({"view_schema": schema} if schema is not None else {})}
    wanted = replace(migration, settings={**migration.settings, **said})

    def work(conn: Connection) -> None:
        there = routed_view.find(conn, migration)
        if there is not None and schema is not None and there.name.schema != schema:
            raise Refused(f"The routed view is {there} already.", hint="To have it elsewhere: embedtui view --drop")
        wrong = routed_view.obstacle(conn, replace(wanted, placement=PlacementKind.COLUMN))
        if wrong is not None:
            raise Refused(wrong[0], hint=wrong[1])
        with alone_at_view(conn, migration.id) as mine:
            if not mine:
                raise _busy()
            for name, value in said.items():
                store_setting(conn, migration.id, name, value)
            if beside:
                add_audit(conn, migration.id, "view", "asked for: made when a cleanup folds the side table")
                return
            _run(conn, wanted, stop, at.say_waiting)

    at.write(work, name="view")
    return ViewStatus("", shown_column(routed_view.name_of(wanted).schema), ()) if beside else view_status(at)


def follow_table(
    conn: Connection, migration: Migration, stop: threading.Event, on_wait: Callable[[str], None]
) -> str | None:
    """Bring the view in step with the table's columns and grants; what was done or could not be, None: nothing."""
    if not migration.stored.view or migration.placement is not PlacementKind.COLUMN or migration.phase.ended:
        return None
    if migration.phase in (Phase.PLAN, Phase.PREPARE) or migration.stored.cutover.strategy == "rename":
        return None  # names that were exchanged are none to make it by: it shows the same vectors as before
    there = routed_view.find(conn, migration)
    if there is not None and (not there.ours or routed_view.current(conn, migration, there)):
        return None
    used = routed_view.dependents(conn, there) if there is not None else []
    if used:
        return (
            f"The routed view {there} is behind the table, and {', '.join(used)} depends on it: make it anew by hand."
        )
    wrong = routed_view.obstacle(conn, migration)
    if wrong is not None:
        return f"The routed view is missing. {wrong[0]} {wrong[1]}"
    with alone_at_view(conn, migration.id) as mine:
        if not mine:  # an operator is at it
            return None
        _run(conn, migration, stop, on_wait)
    return f"The routed view {there or shown(routed_view.name_of(migration))} was brought in step with the table."


def _busy() -> Refused:
    return Refused("Another process is at the routed view.", hint="Look again.")


def _run(conn: Connection, migration: Migration, stop: threading.Event | None, on_wait: Callable[[str], None]) -> None:
    there = routed_view.find(conn, migration)
    statements = routed_view.make_sql(conn, migration)
    # the table itself is read by them alone, which blocks nobody
    relations = [there.name] if there is not None else []
    run_ddl(
        conn, statements, migration=migration.id, stop=stop or threading.Event(), on_wait=on_wait, relations=relations
    )
    add_audit(conn, migration.id, "view", f"{routed_view.find(conn, migration)}: made as the table is now")


def drop_view(at: Access, stop: threading.Event | None = None) -> str:
    """Take the view away; gives its name.

    Raises:
        Refused: there is none, or something needs it.
        LockTimeout: a session holds it.
    """
    migration = at.require()

    def work(conn: Connection) -> str:
        with alone_at_view(conn, migration.id) as mine:
            if not mine:
                raise _busy()
            there = routed_view.find(conn, migration)
            if there is None:
                raise Refused(f"{shown(migration.table)} has no routed view of this migration.")
            _require_unused(conn, migration, there, read_status(conn, migration))
            statements = routed_view.drop_sql(conn, there)
            if not migration.phase.ended:
                statements.append(unread_sql(migration))  # a cutover may come before the lock does
            try:
                run_ddl(
                    conn,
                    statements,
                    migration=migration.id,
                    stop=stop or threading.Event(),
                    on_wait=at.say_waiting,
                    relations=[there.name],
                )
            except errors.ObjectNotInPrerequisiteState:
                raise _read(there) from None
            store_setting(conn, migration.id, "view", False)  # no run makes it again
            add_audit(conn, migration.id, "view", f"{there}: dropped")
            return str(there)

    return at.write(work, name="view")


def _read(there: routed_view.RoutedView) -> Refused:
    return Refused(
        f"Reads are on the new side: an application whose search path names {there} would find the old vectors.",
        hint="Roll back first, or drop it after the cleanup.",
    )


def _require_unused(conn: Connection, migration: Migration, there: routed_view.RoutedView, route: RouteStatus) -> None:
    used = routed_view.dependents(conn, there)
    if used:
        raise Refused(f"{', '.join(used)} depends on {there}.", hint="Drop it first, or point it at the table.")
    if not migration.phase.ended and (route.active is Side.NEW or route.canary):
        raise _read(there)
    vector = new_side(migration).embedding
    if migration.phase is Phase.DONE and vector not in there.columns:
        raise Refused(
            f"The table calls the new vectors {shown_column(vector)}: without {there} an application that knows only"
            " the former name fails.",
            hint=f"Once none is left: DROP VIEW {there};",
        )
