"""SQLAlchemy: every statement of an engine finds the table on the side of its context's route."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from embedtui.integrations.routing import Routing, ends_failure

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
    if path != info[_OWN] and not info.get(_CHECKED):
        routing.require_view(lambda query: _one(conn, query))
        info[_CHECKED] = True
    info[_PATH] = path


def _one(conn: Connection, statement: str) -> Any:
    with closing(conn.connection.cursor()) as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        return row[0] if row else None
