"""SQLAlchemy: every statement of an engine finds the table on the side of its context's route."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from embedtui.integrations.routing import Routing, ends_failure, is_pooled, move, no_transaction, path_of

_PATH, _OWN, _POOLED = "embedtui.path", "embedtui.own_path", "embedtui.pooled"

_followed: WeakKeyDictionary[Engine, list[Routing]] = WeakKeyDictionary()


def follow(engine: Engine | AsyncEngine, routing: Routing) -> None:
    """Set the search path of the engine's connections to the route's side, before the statements that need it.

    Looked at before every statement and not at the check-out alone: a session may have its connection before it has
    embedded anything. A connection that is on its side already costs no round trip; behind a pooler (PgBouncer) it is
    moved for each transaction. For the drivers psycopg, psycopg2 and asyncpg; the application must set no search path
    of its own meanwhile, but in the engine's ``connect_args``. Several tables of one engine: once for each.

    Raises (from the statements): Refused where the route is on the new side and there is no routed view that the role
    may use, or where a statement is in no transaction behind a pooler.
    """
    target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    routings = _followed.setdefault(target, [])
    known = bool(routings)
    routings[:] = [each for each in routings if each.name != routing.name] + [routing]
    if known:
        return

    @event.listens_for(target, "before_cursor_execute", retval=True)
    def before(
        conn: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        if ends_failure(statement):
            return statement, parameters
        _move(conn, routings)
        for each in routings:
            statement = each.tagged(statement)
        return statement, parameters

    def forget(conn: Connection, *_: Any) -> None:  # what was set in a transaction goes with it
        conn.info.pop(_PATH, None)

    def forget_local(conn: Connection, *_: Any) -> None:
        if conn.info.get(_POOLED):
            forget(conn)

    for name in ("rollback", "rollback_savepoint", "rollback_twophase"):
        event.listen(target, name, forget)
    for name in ("commit", "prepare_twophase"):
        event.listen(target, name, forget_local)

    @event.listens_for(target, "checkin")
    def checkin(_connection: Any, record: Any) -> None:  # a transaction that was not ended is rolled back
        record.info.pop(_PATH, None)


def _move(conn: Connection, routings: Sequence[Routing]) -> None:
    info, connection = conn.info, conn.connection
    if _OWN not in info:
        pid, info[_OWN] = _row(conn, "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path')")
        info[_POOLED] = is_pooled(connection.driver_connection, pid)
    own, pooled = info[_OWN], info[_POOLED]
    path = path_of(routings, own)
    if info.get(_PATH, own if pooled else None) == path:
        return
    if pooled and connection.dbapi_connection.autocommit:  # type: ignore[union-attr]
        raise no_transaction()
    info[_PATH] = move(routings, own, lambda query: _row(conn, query), local=pooled)


def _row(conn: Connection, statement: str) -> Any:
    with closing(conn.connection.cursor()) as cursor:
        cursor.execute(statement)
        return cursor.fetchone()
