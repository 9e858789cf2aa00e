"""SQLAlchemy: every statement of an engine finds the table on the side of its context's route."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from embedtui.errors import Refused
from embedtui.integrations.routing import Routing, ends_failure
from embedtui.model import Side

_PATH, _OWN, _CHECKED = "embedtui.path", "embedtui.own_path", "embedtui.checked"


def follow(engine: Engine | AsyncEngine, routing: Routing) -> None:
    """Set the search path of the engine's connections to the route's side, before the statements that need it.

    Looked at before every statement and not at the check-out alone: a session may have its connection before it has
    embedded anything. A connection that is on its side already costs no round trip. For the drivers psycopg, psycopg2
    and asyncpg; the application must set no search path of its own meanwhile, but in the engine's ``connect_args``.

    Raises (from the statements): Refused where the route is on the new side and there is no routed view.
    """
    target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine

    @event.listens_for(target, "before_cursor_execute", retval=True)
    def before(
        conn: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        if ends_failure(statement):
            return statement, parameters
        _move(conn, routing)
        return routing.tagged(statement), parameters

    def forget(conn: Connection, *_: Any) -> None:  # what was set in a transaction goes with it
        conn.info.pop(_PATH, None)

    for name in ("rollback", "rollback_savepoint", "rollback_twophase"):
        event.listen(target, name, forget)

    @event.listens_for(target, "checkin")
    def checkin(_connection: Any, record: Any) -> None:  # a transaction that was not ended is rolled back
        record.info.pop(_PATH, None)


def _move(conn: Connection, routing: Routing) -> None:
    info = conn.info
    if _OWN not in info:
        info[_OWN] = _one(conn, "SHOW search_path")
    path = routing.search_path(info[_OWN])
    if info.get(_PATH) == path:
        return
    with closing(conn.connection.cursor()) as cursor:
        cursor.execute(f"SET search_path = {path}")
    if path != info[_OWN]:
        _require_view(conn, routing)
    info[_PATH] = path


def _require_view(conn: Connection, routing: Routing) -> None:
    """A schema that is missing in a search path is passed over without an error, and the old vectors are found."""
    if conn.info.get(_CHECKED) or routing.router.of_side(routing.name, Side.OLD) is None:
        return  # after the cleanup the table itself has the new vectors, under the old name where none was kept
    schema = routing.schema.replace("'", "''")
    found = _one(
        conn,
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE c.relkind = 'v' AND n.nspname = '{schema}')",
    )
    if not found:
        raise Refused(
            f"Schema {routing.schema} holds no routed view.", hint="`embedtui view` makes it; or name its schema."
        )
    conn.info[_CHECKED] = True


def _one(conn: Connection, statement: str) -> Any:
    with closing(conn.connection.cursor()) as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        return row[0] if row else None
