"""One route for all that one request does: the model that embeds, and the schema in which the table is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from psycopg import sql

from embedtui.errors import Refused
from embedtui.model import PlacementKind, Side
from embedtui.postgres.catalog.role_paths import split_path
from embedtui.router.async_client import AsyncRouter
from embedtui.router.client import Router
from embedtui.router.route import RouteFields

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Taken:
    route: RouteFields
    """Of the statements to come."""
    block: RouteFields | None
    """Of the whole block: an embedding takes no other."""


# one variable for all: a context keeps whatever it was ever given
_taken: ContextVar[Mapping[Routing, _Taken]] = ContextVar("embedtui_routes", default=MappingProxyType({}))


def _identifier(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


class Routing:
    """The route that a thread, or a task of asyncio, goes by: of its block, else of what it embedded last.

    ::

        routing = Routing(Router(DATABASE_URL, application_name="search"), "documents")
        with routing.use(key=user_id) as route:   # one request: nothing in it can mix two models
            ...

    Without a block each embedding takes the route anew, and the statements after it search where its vector belongs.
    One for the process; tasks and threads do not see each other's.
    """

    def __init__(self, router: Router | AsyncRouter, name: str, *, schema: str | None = None) -> None:
        """Nothing is opened.

        Args:
            router: follows the pointer.
            name: the route.
            schema: of the routed view; None is ``<name>_v2``, as ``embedtui view`` makes it.
        """
        self.router = router
        self.name = name
        self.schema = schema or f"{name}_v2"
        router.goes_by_view(name)

    @property
    def route(self) -> RouteFields:
        """The route of this context; without one, that of now, which is not kept."""
        taken = _taken.get().get(self)
        return taken.route if taken is not None else self._now()

    def take(self, *, documents: bool = False) -> RouteFields:
        """The route to embed by, kept for the statements that follow: the block's, else that of now.

        ``documents``: of texts to store. A bridge maps questions alone: these go to the new side. A question counts as
        a search.
        """
        route = self._take(documents)
        if not documents:
            route.count_search()
        return route

    def _take(self, documents: bool) -> RouteFields:
        taken = _taken.get().get(self)
        block = taken.block if taken is not None else None
        route = block or self._now()
        if documents and route.bridged:
            route = self.router.of_side(self.name, Side.NEW) or route
        return self._keep(route, block)

    def _now(self, key: str | None = None) -> RouteFields:
        """The Router's route; while the new vectors are in a side table, which no library reads, the old side's."""
        route = self.router.route(self.name, key)
        if route.side is Side.NEW and route.placement is PlacementKind.TABLE:
            return self.router.of_side(self.name, Side.OLD) or route
        return route

    @property
    def viewed(self) -> bool:
        """Whether there may be a routed view by now: with a side table there is none until a cleanup folds it."""
        new = self.router.of_side(self.name, Side.NEW)
        return new is None or new.placement is PlacementKind.COLUMN

    def _keep(self, route: RouteFields, block: RouteFields | None) -> RouteFields:
        _taken.set(MappingProxyType({**_taken.get(), self: _Taken(route, block)}))
        return route

    @contextmanager
    def use(self, key: str | None = None, *, model: str | int | None = None) -> Iterator[RouteFields]:
        """One route for the whole block; ``key`` and ``model`` as in :meth:`embedtui.Router.route`."""
        before = _taken.get()
        route = self._now(key) if model is None else self.router.route(self.name, key, model=model)
        self._keep(route, route)
        try:
            yield route
        finally:
            _taken.set(before)

    @contextmanager
    def whole(self, *, documents: bool = False) -> Iterator[RouteFields]:
        """One route for several embeddings that belong together, kept for the statements that follow them.

        As :meth:`take`, for a block: a flip between two of them would leave vectors of two models.
        """
        block = taken.block if (taken := _taken.get().get(self)) is not None else None
        route = self._take(documents)
        self._keep(route, route)
        try:
            yield route
        finally:
            self._keep(route, block)

    def choose(self, old: T, new: T) -> T:
        """What serves the side of this context's route: of two stores that name their schema themselves."""
        return new if self.route.side is Side.NEW else old

    def search_path(self, own: str) -> str:
        """The search path of this context's route, as SQL: the application's ``own``, or the view's schema and that."""
        schemas = split_path(own)
        if self.schema in schemas:  # as a role is given it for applications that know no route
            own = ", ".join(_identifier(each) for each in schemas if each != self.schema)
        if self.route.side is Side.OLD:
            return own
        return f"{_identifier(self.schema)}, {own}" if own.strip() else _identifier(self.schema)

    @property
    def view_sql(self) -> str | None:
        """Whether a session may use the routed view, null where there is none, as SQL; None where that is no matter.

        A schema that is missing in a search path, or may not be used, is passed over without an error, and the old
        vectors are found.
        """
        route = self.route
        if route.side is Side.OLD:
            return None
        usable = (
            "(SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')"
            " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE c.relkind = 'v' AND n.nspname = {_literal(self.schema)}"
            f" AND c.relname = (pg_catalog.parse_ident({_literal(route.relation)}))[2])"
        )
        if self.router.of_side(self.name, Side.OLD) is not None:
            return usable
        # after the cleanup the table itself has the new vectors, unless the old column was kept beside them
        return f"CASE WHEN {_old_kept(route)} THEN {usable} ELSE true END"

    def tagged(self, statement: str) -> str:
        """The statement with its side in a comment.

        A statement that a driver has prepared for one side would fail on the other ("cached plan must not change result
        type"): with the comment it is another one.
        """
        return f"{statement} /* embedtui: {self.route.side.value} */"

    def fit(self, route: RouteFields, vector: Any) -> list[float]:
        """A vector of the route's model as the route's side compares it: itself, shaped, or mapped over the bridge.

        Raises:
            Refused: it is not of the route's dimensions, so another model's.
        """
        bound = route.bind(vector)
        return json.loads(bound) if route.bridged or route.shaped else vector  # type: ignore[no-any-return]


def _old_kept(route: RouteFields) -> str:
    """Whether the table has a column by the old name that is not the new vectors', as SQL: it would be searched."""
    relation, new, old = (_literal(name) for name in (route.relation, route.column, route._sql.migration.old_column))
    return (
        "EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=)"
        f" pg_catalog.to_regclass({relation}) AND a.attname OPERATOR(pg_catalog.=) {old}::pg_catalog.name"
        f" AND a.attname OPERATOR(pg_catalog.<>) {new}::pg_catalog.name AND NOT a.attisdropped)"
    )


# ---------------------------------------------------------------------------- for frameworks that have a connection


def ends_failure(statement: object) -> bool:
    """Whether a statement is the one that a failed transaction takes: nothing may be run before it."""
    return isinstance(statement, str) and statement.lstrip()[:8].upper() == "ROLLBACK"


def is_pooled(driver: Any, pid: int) -> bool:
    """Whether a pooler sits between: it tells the driver of a backend that is not the session's, ``pid``.

    Its next transaction may be in another session, so that no search path outlasts one.
    """
    told = driver.info.backend_pid if hasattr(driver, "info") else driver.get_server_pid()
    return bool(told != pid)


def no_transaction() -> Refused:
    """What a statement outside a transaction meets behind a pooler."""
    return Refused(
        "Behind a pooler (PgBouncer) a search path holds for one transaction, and this statement is in none.",
        hint="Put it into a transaction, or connect to the server's own port.",
    )


def path_of(routings: Sequence[Routing], own: str) -> str:
    """The search path by which each table is found on its side."""
    for routing in routings:
        own = routing.search_path(own)
    return own


def move(routings: Sequence[Routing], own: str, ask: Callable[[str], Any], *, local: bool = False) -> str:
    """Move a session to this context's sides, in one round trip; gives the path.

    Args:
        routings: of all tables that are followed.
        own: the application's search path.
        ask: gives the one row of a query by the session, a sequence or a mapping.
        local: for the transaction alone.

    Raises:
        Refused: a route is on the new side, and the session would not find its view.
    """
    path = path_of(routings, own)
    wanted = [(routing, query) for routing in routings if (query := routing.view_sql) is not None]
    asked = [f"SELECT pg_catalog.set_config('search_path', {_literal(path)}, {local}) AS path"]
    row = ask(", ".join((*asked, *(f"{query} AS view_{number}" for number, (_, query) in enumerate(wanted)))))
    found = list(row.values() if isinstance(row, Mapping) else row)  # as the application's connection has its rows
    for (routing, _), usable in zip(wanted, found[1:], strict=True):
        if usable is None:
            message = f"Schema {routing.schema} holds no routed view of {routing.route.relation}."
        else:
            message = f"This role may not use schema {routing.schema}, which has the routed view."
        if not usable:
            raise Refused(message, hint="`embedtui view` makes it, with the table's grants; or name its schema.")
    return path
