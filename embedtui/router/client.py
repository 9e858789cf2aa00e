"""Routing for threads: the Router, and a write without one."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import psycopg

from embedtui.errors import Refused
from embedtui.postgres.state.route_side import read_sides_called, read_sides_of
from embedtui.router.follower import CONNECT_SECONDS, Follower
from embedtui.router.renamed import RENAMED, attempt, repeatable
from embedtui.router.route import Route, Tally, Vector
from embedtui.router.route_snapshot import RouteSnapshot, snapshots_of, writing


class Router(Follower[Route]):
    """Follows the routes of a database; one per process, shared by its threads."""

    _route_class = Route

    def __enter__(self) -> Router:
        """Follow until the end of the block."""
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop following."""
        self.close()

    def open(self) -> None:
        """Start following and wait for the first answer; without this, the first :meth:`route` does it.

        Raises:
            EmbedtuiError: the database is not reached or not prepared; the Router goes on trying meanwhile.
        """
        self._start()
        self._tried.wait(CONNECT_SECONDS + 1)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop following."""
        self._end()

    def write(
        self,
        conn: psycopg.Connection[Any],
        name: str,
        key: object,
        vector: Vector,
        *,
        model: str | int,
        content: str | None = None,
    ) -> bool:
        """Store a row's vector on the side of its model, stamped with the model and the content's fingerprint.

        Args:
            conn: the service's connection; runs inside its transaction.
            name: the route.
            key: the row's key, or a tuple of a composite key's parts in order.
            vector: the vector of the row's content as it is stored now.
            model: name or id of the model that made it.
            content: the text that was embedded (content columns joined by newlines); with it, a row whose content
                changed meanwhile is left alone.

        Returns:
            False where there is no such row, or its content is no longer ``content``.

        Raises:
            Refused: a model of neither side, or other dimensions.
        """
        return _store(conn, self._snapshot(name), name, key, vector, model, content)

    def _snapshot(self, name: str) -> RouteSnapshot[Route]:
        self.route(name)
        return self._known[name]


def put(
    conn: psycopg.Connection[Any],
    table: str,
    key: object,
    model: str | int,
    vector: Vector,
    *,
    content: str | None = None,
) -> bool:
    """As :meth:`Router.write` without a Router: one look-up of the route and one write, on ``conn``.

    Args:
        conn: the service's connection.
        table: the route's name, or the table's as SQL would write it.
        key: the row's key, or a tuple of a composite key's parts in order.
        model: name or id of the model that made the vector.
        vector: the vector of the row's content as it is stored now.
        content: the text that was embedded; with it, a row whose content changed meanwhile is left alone.

    Returns:
        False where there is no such row, or its content is no longer ``content``.

    Raises:
        Refused: no route for the table, a model of neither side, or other dimensions.
    """
    snapshots = snapshots_of(read_sides_of(conn, table), Route, {}, lambda _name: Tally(), {})
    if not snapshots:
        raise Refused(f"There is no route for {table!r}.", hint="It is made by `embedtui run`.")
    [(name, snapshot)] = snapshots.items()
    return _store(conn, snapshot, name, key, vector, model, content)


def _store(
    conn: psycopg.Connection[Any],
    snapshot: RouteSnapshot[Route],
    name: str,
    key: object,
    vector: Vector,
    model: str | int,
    content: str | None,
) -> bool:
    side, values = writing(snapshot, name, key, vector, model, content)

    def run(side: Route) -> bool:
        return conn.execute(side._sql.write(content is not None), values).rowcount > 0

    try:
        stored = attempt(conn, lambda: run(side))
        if stored or side._sql.attnum is None or not repeatable(conn):
            return stored
        failure = None
    except RENAMED as error:
        failure = error
    now = side._renew(side, read_sides_called(conn, name))
    if now is None:
        if failure is not None:
            raise failure
        return False
    return run(now)
