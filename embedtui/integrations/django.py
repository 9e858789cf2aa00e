"""Django: every statement of a connection finds the table on the side of its context's route.

In an ``AppConfig.ready()``::

    follow("default", Routing(Router(DATABASE_URL, application_name="django"), "documents"))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

from embedtui.integrations.routing import Routing, ends_failure


def follow(alias: str, routing: Routing) -> None:
    """Have the connections of ``alias`` (PostgreSQL) follow the route, those that are open and those to come.

    The path is set before every statement, since Django tells nobody of a rollback that takes it back: one short
    round trip each. Raises (from the statements) Refused where the route is on the new side and there is no view.
    """

    def created(sender: Any, connection: Any, **_: Any) -> None:  # noqa: ARG001 (Django's signature)
        if connection.alias == alias:
            _wrap(connection, routing)

    connection_created.connect(created, weak=False, dispatch_uid=f"embedtui {alias} {routing.name}")
    if connections[alias].connection is not None:
        _wrap(connections[alias], routing)


def _wrap(connection: Any, routing: Routing) -> None:
    def one(query: str) -> Any:
        with connection.connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    own = one("SHOW search_path")

    def moved(execute: Callable[..., Any], statement: Any, params: Any, many: bool, context: Any) -> Any:
        if ends_failure(statement):
            return execute(statement, params, many, context)
        path = routing.search_path(own)
        with context["connection"].connection.cursor() as cursor:
            cursor.execute(f"SET search_path = {path}")
        if path != own:
            routing.require_view(one)
        return execute(routing.tagged(statement), params, many, context)

    if not any(getattr(wrapper, "routed", None) is routing for wrapper in connection.execute_wrappers):
        moved.routed = routing  # type: ignore[attr-defined]
        connection.execute_wrappers.append(moved)
