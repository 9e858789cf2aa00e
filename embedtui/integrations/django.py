"""Django: every statement of a connection finds the table on the side of its context's route.

In an ``AppConfig.ready()``::

    follow("default", Routing(Router(DATABASE_URL, application_name="django"), "documents"))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

from embedtui.integrations.routing import Routing, ends_failure, is_pooled, move, no_transaction, path_of


def follow(alias: str, routing: Routing) -> None:
    """Have the connections of ``alias`` (PostgreSQL) follow the route, those that are open and those to come.

    The path is set before every statement, since Django tells nobody of a rollback that takes it back: one short
    round trip each. Raises (from the statements) Refused where the route is on the new side and there is no view that
    the role may use, or where a statement is in no transaction behind a pooler.
    """

    def created(sender: Any, connection: Any, **_: Any) -> None:  # noqa: ARG001 (Django's signature)
        if connection.alias == alias:
            _wrap(connection, routing)

    which = f"embedtui {alias} {routing.name}"
    connection_created.disconnect(dispatch_uid=which)  # one of before stays otherwise
    connection_created.connect(created, weak=False, dispatch_uid=which)
    if connections[alias].connection is not None:
        _wrap(connections[alias], routing)


def _wrap(connection: Any, routing: Routing) -> None:
    routings: list[Routing] = connection.__dict__.setdefault("embedtui_routings", [])
    known = bool(routings)
    routings[:] = [each for each in routings if each.name != routing.name] + [routing]
    if known:
        return

    def row(query: str) -> Any:
        with connection.connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()

    pid, own = row("SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path')")
    pooled = is_pooled(connection.connection, pid)

    def moved(execute: Callable[..., Any], statement: Any, params: Any, many: bool, context: Any) -> Any:
        if ends_failure(statement):
            return execute(statement, params, many, context)
        if not pooled or not connection.autocommit:
            move(routings, own, row, local=pooled)
        elif path_of(routings, own) != own:
            raise no_transaction()
        for each in routings:
            statement = each.tagged(statement)
        return execute(statement, params, many, context)

    connection.execute_wrappers.append(moved)
