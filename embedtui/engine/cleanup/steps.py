"""What the steps of a cleanup and of an abort share: alone, holding the route, and told when that was taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from embedtui.errors import Refused
from embedtui.model import Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import CLEANUP_CLASS
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import remember, rows_sql
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.route import held, hold_route, read_route

_SHORT_WAIT = "SET LOCAL lock_timeout = '500ms'"


def finish(conn: Connection, migration: Migration, act: str) -> None:
    """Remove embedtui's working rows; the log stays."""
    with unbounded(conn):
        for statement in rows_sql(migration):
            conn.execute(statement)
        remember(conn, migration, {"finished": True})
        add_audit(conn, migration.id, act, "finished")


def require_name(migration: Migration, typed_name: str) -> None:
    """Refuse where the typed name is not the table's."""
    if typed_name not in (migration.table.name, str(migration.table)):
        raise Refused(f"The typed name is not the table's: {migration.table}.", hint="Type it exactly.")


@contextmanager
def alone(conn: Connection, migration: Migration) -> Iterator[None]:
    """Inside, no other process cleans up or aborts the migration."""
    key = (CLEANUP_CLASS, migration.id)
    if conn.execute("SELECT pg_try_advisory_lock(%s, %s)", key).fetchone() != (True,):
        raise Refused("Another process is cleaning up or aborting this migration.", hint="Let it finish.")
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(%s, %s)", key)


@contextmanager
def holding(conn: Connection, migration: Migration, ending: str, epoch: int | None) -> Iterator[None]:
    """A transaction that holds the route for cleanup or abort; short, since a rollback may wait for it."""
    with conn.transaction():
        conn.execute(_SHORT_WAIT)
        hold_route(conn, migration, ending, expect_epoch=epoch)
        yield


@contextmanager
def taken_back(conn: Connection, migration: Migration, ending: str) -> Iterator[None]:
    """Tell a mover of the pointer that took the act back from a fault."""
    try:
        yield
    except psycopg.errors.ObjectNotInPrerequisiteState:
        require_held(conn, migration, ending)
        raise


def require_held(conn: Connection, migration: Migration, ending: str) -> None:
    """Raises Refused where a mover of the pointer has taken back what was begun."""
    if not held(conn, migration, ending):
        route = read_route(conn, migration.name)
        what = f"rolled back by {route.changed_by}" if route.active is Side.OLD else f"moved by {route.changed_by}"
        raise Refused(
            f"The pointer was {what} meanwhile: the {ending} is cancelled, and nothing was dropped.",
            hint="Look again; it begins anew if you still want it.",
        )


def present(conn: Connection, migration: Migration) -> Migration:
    """The migration as it is now: a cutover by exchanged names changes what its columns are called."""
    now = load_migration(conn, migration.name)
    return now if now is not None and now.id == migration.id else migration


@contextmanager
def unbounded(conn: Connection) -> Iterator[None]:
    """A transaction without a statement_timeout, for what reads the whole table."""
    with conn.transaction():
        # SET and not set_config(): a query would fix the isolation level
        conn.execute("SET LOCAL statement_timeout = 0")
        yield
