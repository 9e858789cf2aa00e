"""What a service imports: which model to embed with and which column to search, followed through every flip.

::

    router = Router("postgresql://…", application_name="search-api")
    route = router.route("documents")                      # in memory, no query
    vector = embed(route.query_prefix + question, model=route.model, dimensions=route.dimensions)
    hits = route.search(conn, vector, k=10, where="lang = %(lang)s", params={"lang": "en"}, columns=["title"])

A route holds the model *and* the column of one state of the pointer, so the two cannot diverge: a request that took its
route before a flip still searches the side that its query vector belongs to. A background thread follows the pointer by
LISTEN/NOTIFY, with a poll as the safety net; :class:`AsyncRouter` shares it, so a busy event loop delays no flip.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import random
import selectors
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.rows import dict_row, tuple_row

from embedtui.errors import DatabaseLost, EmbedtuiError, Refused
from embedtui.model import (
    Condition,
    Distance,
    EmbeddingModel,
    IndexMethod,
    Key,
    Migration,
    Phase,
    PlacementKind,
    Side,
    TableName,
)
from embedtui.postgres.connect import host_name, redact, translate
from embedtui.postgres.sides.search import key_equals, quoted, search_sql, vector_type
from embedtui.postgres.state.route import CHANNEL, bucket

__all__ = ["AsyncRoute", "AsyncRouter", "Hit", "Route", "Router", "RouterStatus", "put"]

Vector = str | Iterable[float]
"""A vector: floats (list, tuple, numpy array, …) or pgvector's text form ``[1,2,…]``."""

_log = logging.getLogger("embedtui.router")

_REPORT_SECONDS = 2.0
_CONNECT_SECONDS = 5
_RETRY_SECONDS = (0.1, 2.0)
"""First and longest wait before a lost connection is opened anew."""


class Hit(NamedTuple):
    """One row found."""

    key: Key
    distance: float
    values: dict[str, Any]
    """The requested columns."""


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """How well a Router is informed."""

    connected: bool
    """False: it goes on with the last known routes."""
    listening: bool
    """False on standbys and with ``listen=False``: the poll alone brings news. Behind a connection pooler False until a
    notification has come through it, since transaction pooling lets none through."""
    bound_seconds: float | None
    """A flip is noticed within milliseconds while listening, and within this many seconds at the latest; None while the
    connection is lost."""
    lost_since: datetime | None
    reporting: bool
    """Whether it may report epoch and searches to embedtui.listener."""
    detail: str
    """Why not, in one line without secrets."""
    epochs: dict[str, int]
    """Epoch seen of each route."""


class _Tally:
    """Searches per side, counted by many threads."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self.counts = {Side.OLD: 0, Side.NEW: 0}

    def add(self, side: Side) -> None:
        with self._lock:
            self.counts[side] += 1


class _Sql:
    """The statements of one side, composed once and kept as text."""

    def __init__(self, migration: Migration, side: Side, pgvector: str, stamped: bool) -> None:
        self.migration, self.side, self.stamped = migration, side, stamped
        self.iterates = tuple(int(part) for part in pgvector.split(".")[:2] if part.isdigit()) >= (0, 8)
        self.search = functools.lru_cache(maxsize=256)(self._search)
        self.write = functools.lru_cache(maxsize=4)(self._write)

    def _search(self, columns: tuple[str, ...], where: str, iterative_scan: str | None) -> str:
        if iterative_scan is None:  # a filtered index scan stops too early otherwise
            iterative_scan = "strict_order" if where and self.iterates else ""
        return search_sql(
            self.migration,
            self.side,
            columns=columns,
            where=sql.SQL(where) if where else None,
            iterative_scan=iterative_scan,
        ).as_string(None)

    def _write(self, guarded: bool) -> str:
        # Here and not above: it imports numpy, which searching does not need.
        from embedtui.postgres.sides.placement import content_sql, fingerprint_sql, new_side

        migration, table = self.migration, self.migration.table

        def percent(text: sql.Composable) -> sql.SQL:
            return sql.SQL(text.as_string(None).replace("%", "%%"))

        side = new_side(migration)
        names = {
            "table": quoted(table.schema, table.name),
            "alias": quoted(table.name),
            "vector": sql.SQL("CAST({} AS {})").format(sql.Placeholder("vector"), vector_type(migration, self.side)),
            "model": sql.Literal(migration.new_model.id),
            "fingerprint": percent(fingerprint_sql(migration, table.name)),
            "where": key_equals(migration),
            "guard": sql.SQL(" AND {} = %(content)s").format(percent(content_sql(migration, table.name)))
            if guarded
            else sql.SQL(""),
            "side": quoted(side.table.schema, side.table.name),
            "embedding": quoted(side.embedding),
            "model_column": quoted(side.model),
            "source_column": quoted(side.source),
            "old": quoted(migration.old_column),
            "keys": sql.SQL(", ").join(quoted(name) for name in migration.key_columns),
        }
        if self.side is Side.OLD:
            text = "UPDATE {table} SET {old} = {vector} WHERE {where}{guard}"
        elif migration.placement is PlacementKind.TABLE:
            # The lock keeps the content as it is between fingerprint and commit.
            text = (
                "WITH embedtui_row AS MATERIALIZED (SELECT {keys}, {fingerprint} AS embedtui_source FROM {table}"
                " WHERE {where}{guard} FOR NO KEY UPDATE)"
                " INSERT INTO {side} ({keys}, {embedding}{stamp_columns}) SELECT {keys}, {vector}{stamp_values}"
                " FROM embedtui_row"
                " ON CONFLICT ({keys}) DO UPDATE SET {embedding} = excluded.{embedding}{stamp_updates}"
            )
        else:
            text = "UPDATE {table} SET {embedding} = {vector}{stamp_sets} WHERE {where}{guard}"
        stamps = {
            "stamp_columns": ", {model_column}, {source_column}",
            "stamp_values": ", {model}, embedtui_source",
            "stamp_updates": ", {model_column} = excluded.{model_column}, {source_column} = excluded.{source_column}",
            "stamp_sets": ", {model_column} = {model}, {source_column} = {fingerprint}",
        }
        for name, stamp in stamps.items():
            text = text.replace("{" + name + "}", stamp if self.stamped else "")
        return sql.SQL(text).format(**names).as_string(None)


@dataclass(frozen=True, slots=True)
class _RouteFields:
    name: str
    side: Side
    model: str
    """The model's name: embed queries and documents with it, and with nothing else, for this route."""
    model_id: int
    """Its id in embedtui.model."""
    provider: str
    dimensions: int
    query_prefix: str
    document_prefix: str
    relation: str
    """Quoted, qualified relation that holds the vectors."""
    column: str
    placement: PlacementKind
    epoch: int
    """Epoch of the pointer when this route was read."""
    _sql: _Sql = field(repr=False, compare=False)
    _tally: _Tally = field(repr=False, compare=False)

    def bind(self, vector: Vector) -> str:
        """``vector`` as the text to bind, checked for this route's dimensions.

        Raises:
            Refused: another number of dimensions, so another model's vector.
        """
        if isinstance(vector, str):
            text, size = vector, vector.count(",") + 1
        else:
            plain = vector.tolist() if hasattr(vector, "tolist") else vector
            values = [float(value) for value in plain]
            text, size = str(values), len(values)
        if size != self.dimensions:
            raise Refused(
                f"Model {self.model} makes {self.dimensions} dimensions, the vector has {size}.",
                hint="Embed with the model and dimensions of the route that searches.",
            )
        return text

    def search_sql(
        self,
        *,
        columns: Sequence[str] = (),
        where: str = "",
        iterative_scan: str | None = None,
        style: str = "named",
    ) -> str:
        """The search as plain SQL text, for SQLAlchemy and others; each call counts as a search of this side.

        Result columns: ``key`` (text[]), ``distance`` (double precision), then ``columns``. Parameters: ``vector`` (the
        text that :meth:`bind` gives) and ``k``, written ``:vector`` with style ``named`` (SQLAlchemy's ``text()``),
        ``%(vector)s`` with ``pyformat`` (psycopg), ``$1`` and ``$2`` with ``dollar`` (asyncpg). ``where`` is a trusted
        filter on the table in the same style, and ``iterative_scan`` as in :meth:`Route.search`.
        """
        self._tally.add(self.side)
        if style == "pyformat":
            return self._sql.search(tuple(columns), where, iterative_scan)
        vector, k = {"named": (":vector", ":k"), "dollar": ("$1", "$2")}[style]
        mark = "\0" if where else ""  # the filter's own per cent signs are none of ours
        text = self._sql.search(tuple(columns), mark, iterative_scan)
        text = text.replace("%(vector)s", vector).replace("%(k)s", k).replace("%%", "%")
        return text.replace("\0", where) if where else text

    def _prepare(
        self,
        vector: Vector,
        k: int,
        where: str | sql.Composable,
        params: Mapping[str, Any] | None,
        columns: Sequence[str],
        iterative_scan: str | None,
    ) -> tuple[str, dict[str, Any]]:
        if isinstance(where, sql.Composable):
            where = where.as_string(None)
        text = self._sql.search(tuple(columns), where, iterative_scan)
        self._tally.add(self.side)
        return text, {**(params or {}), "vector": self.bind(vector), "k": k}


def _hits(rows: Iterable[tuple[Any, ...]], columns: Sequence[str]) -> list[Hit]:
    return [Hit(tuple(row[0]), row[1], dict(zip(columns, row[2:], strict=True))) for row in rows]


class Route(_RouteFields):
    """One side of one state of the pointer: model and column together. Take one per request; never mix two."""

    __slots__ = ()

    def search(
        self,
        conn: psycopg.Connection[Any],
        vector: Vector,
        k: int = 10,
        *,
        where: str | sql.Composable = "",
        params: Mapping[str, Any] | None = None,
        columns: Sequence[str] = (),
        iterative_scan: str | None = None,
    ) -> list[Hit]:
        """The ``k`` rows nearest to ``vector``, a vector of this route's model, nearest first.

        Args:
            conn: the service's own connection; its transaction and settings are respected.
            vector: the query's vector.
            k: rows wanted.
            where: trusted SQL on the table's columns, evaluated inside the search; values as ``%(name)s`` in ``params``
                (names other than ``vector`` and ``k``).
            params: values of the filter.
            columns: columns of the table to return in :attr:`Hit.values`.
            iterative_scan: ``strict_order``, ``relaxed_order`` or ``off`` (pgvector 0.8 or later), for the present
                transaction; by default strict where there is a filter, else the session's setting.

        Raises:
            Refused: a vector of other dimensions.
            psycopg.Error: as the database says.
        """
        text, values = self._prepare(vector, k, where, params, columns, iterative_scan)
        with conn.cursor(row_factory=tuple_row) as cursor:
            return _hits(cursor.execute(text, values), columns)


class AsyncRoute(_RouteFields):
    """As :class:`Route`, for asyncio."""

    __slots__ = ()

    async def search(
        self,
        conn: psycopg.AsyncConnection[Any],
        vector: Vector,
        k: int = 10,
        *,
        where: str | sql.Composable = "",
        params: Mapping[str, Any] | None = None,
        columns: Sequence[str] = (),
        iterative_scan: str | None = None,
    ) -> list[Hit]:
        """As :meth:`Route.search`."""
        text, values = self._prepare(vector, k, where, params, columns, iterative_scan)
        async with conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(text, values)
            return _hits(await cursor.fetchall(), columns)


R = TypeVar("R", bound=_RouteFields)


@dataclass(frozen=True, slots=True)
class _Pointer(Generic[R]):
    """One state of a route, whole."""

    rows: list[dict[str, Any]]
    epoch: int
    active: Side
    canary: int
    sides: dict[Side, R]
    """The sides that exist."""
    seen: float
    """time.monotonic() when this state was first seen."""

    def choose(self, key: str | None) -> R:
        side = self.active
        if key is not None and self.canary and bucket(key) < self.canary:
            side = Side.NEW
        return self.sides[side] if side in self.sides else next(iter(self.sides.values()))

    def of_model(self, name: str, model: str | int, dimensions: int | None) -> R:
        """The side whose vectors ``model`` makes; of two models with one name the dimensions tell.

        Raises:
            Refused: no side, or both sides and no telling.
        """
        found = [side for side in self.sides.values() if model in (side.model, side.model_id)]
        if len(found) > 1 and dimensions is not None:
            found = [side for side in found if side.dimensions == dimensions] or found
        if len({side.model_id for side in found}) > 1:
            raise Refused(
                f"Both models of route {name!r} are called {model}.", hint="Give the model's id (route.model_id)."
            )
        if not found:
            known = ", ".join(f"{side.model} (id {side.model_id})" for side in self.sides.values())
            raise Refused(f"Model {model} is of no side of route {name!r}.", hint=f"Its models: {known}.")
        return next((side for side in found if side.side is self.active), found[0])


_MOVING = ("epoch", "active", "canary")
"""What a flip changes of a route's rows; all else is the migration's."""


def _fixed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in _MOVING} for row in rows]


def _moved(pointer: _Pointer[R], rows: list[dict[str, Any]]) -> _Pointer[R]:
    """``pointer`` as ``rows`` have it, where nothing but the pointer moved: statements composed are kept."""
    epoch = rows[0]["epoch"]
    sides = {side: replace(route, epoch=epoch) for side, route in pointer.sides.items()}
    return _Pointer(rows, epoch, _active(rows), rows[0]["canary"], sides, time.monotonic())


def _active(rows: list[dict[str, Any]]) -> Side:
    return next((Side(row["side"]) for row in rows if row["active"]), Side.OLD)


_LOOK_UP = "SELECT * FROM embedtui.route_side"

_LOOK_UP_TABLE = """
SELECT * FROM embedtui.route_side
WHERE name = coalesce((SELECT name FROM embedtui.route_side WHERE name = %(table)s LIMIT 1),
                      (SELECT name FROM embedtui.route_side WHERE table_oid = to_regclass(%(table)s) LIMIT 1))
"""

_REPORT = """
INSERT INTO embedtui.listener AS l
    (id, name, host, pid, application, epoch, epoch_seen_at, searches_old, searches_new)
VALUES (%(id)s, %(name)s, %(host)s, %(pid)s, %(application)s, %(epoch)s,
        clock_timestamp() - make_interval(secs => %(ago)s), %(old)s, %(new)s)
ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, heartbeat = clock_timestamp(),
    epoch_seen_at = CASE WHEN l.epoch = excluded.epoch THEN l.epoch_seen_at ELSE excluded.epoch_seen_at END,
    searches_old = excluded.searches_old, searches_new = excluded.searches_new
"""


def _pointers(
    rows: Iterable[dict[str, Any]],
    make: Callable[..., R],
    known: Mapping[str, _Pointer[R]],
    tally: Callable[[str], _Tally],
) -> dict[str, _Pointer[R]]:
    """Pointers from the rows of one look-up; what did not change stays the very same object."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    result = {}
    for name, both in by_name.items():
        both.sort(key=lambda row: row["side"] != "old")
        if name in known and _fixed(known[name].rows) == _fixed(both):
            result[name] = known[name] if known[name].rows == both else _moved(known[name], both)
            continue
        migration = _migration(*both)
        sides = {}
        for row in both:
            if row["present"]:
                side = Side(row["side"])
                sides[side] = make(
                    name=name,
                    side=side,
                    model=row["model"],
                    model_id=row["model_id"],
                    provider=row["provider"],
                    dimensions=row["dimensions"],
                    query_prefix=row["query_prefix"],
                    document_prefix=row["document_prefix"],
                    relation=sql.Identifier(row["relation_schema"], row["relation_name"]).as_string(None),
                    column=row["column_name"],
                    placement=migration.placement,
                    epoch=row["epoch"],
                    _sql=_Sql(migration, side, row["pgvector"] or "", row["stamped"]),
                    _tally=tally(name),
                )
        result[name] = _Pointer(both, both[0]["epoch"], _active(both), both[0]["canary"], sides, time.monotonic())
    return result


def _migration(old: dict[str, Any], new: dict[str, Any]) -> Migration:
    """What searching and writing need of a migration, from the two rows of its route."""

    def model(row: dict[str, Any]) -> EmbeddingModel:
        return EmbeddingModel(
            row["model"],
            row["dimensions"],
            provider=row["provider"],
            query_prefix=row["query_prefix"],
            document_prefix=row["document_prefix"],
            id=row["model_id"],
        )

    return Migration(
        id=old["migration"],
        name=old["name"],
        table=TableName(old["table_schema"], old["table_name"]),
        table_oid=old["table_oid"],
        key_columns=tuple(old["key_columns"]),
        key_types=tuple(old["key_types"]),
        content_columns=tuple(old["content_columns"]),
        placement=PlacementKind(old["placement"]),
        old_column=old["column_name"],
        old_model=model(old),
        new_model=model(new),
        new_table=TableName(new["relation_schema"], new["relation_name"]),
        new_column=new["column_name"],
        vector_schema=old["vector_schema"],
        vector_type=new["vector_type"],
        old_vector_type=old["vector_type"],
        distance=Distance(old["distance"]),
        index_method=IndexMethod(old["index_method"]),
        phase=Phase(old["phase"]),
        condition=Condition.IDLE,
        reason="",
        desired="run",
    )


class _Follower(Generic[R]):
    """The part that sync and async share: a thread that follows the pointer, and routes in memory."""

    _route_class: Callable[..., R]

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str = "",
        poll_seconds: float = 2.0,
        listen: bool = True,
    ) -> None:
        """
        Args:
            dsn: connection string of the database that holds the route (a standby will do).
            application_name: how this service is called on the operator's screen.
            poll_seconds: how often the route is read even if nothing was heard. It bounds how late a flip is noticed
                where LISTEN brings nothing: on standbys, and behind transaction pooling (PgBouncer), which is found
                out. Search there as you like; a server's own port for the Router makes it follow within milliseconds.
            listen: False spares a transaction pooler the LISTEN, which there stays on a session that others use.
        """
        self._dsn, self._application = dsn, application_name
        self._poll_seconds, self._listen = poll_seconds, listen
        self._known: dict[str, _Pointer[R]] = {}
        self._tallies: dict[str, _Tally] = {}
        self._wake_pair: tuple[socket.socket, ...] = ()
        """Reading and writing end of what interrupts the thread's waiting."""
        self._fresh()
        if hasattr(os, "register_at_fork"):
            this = weakref.ref(self)

            def after_fork() -> None:
                if (router := this()) is not None:
                    router._fresh()

            os.register_at_fork(after_in_child=after_fork)

    def _fresh(self) -> None:
        """As before the thread was started; in a forked child the thread is gone, the routes known stay."""
        self._id = uuid.uuid4()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._tried = threading.Event()
        self._stop = False
        self._connected = self._listening = False
        self._lost_since: datetime | None = None
        self._error: EmbedtuiError | None = None
        self._report_error = ""
        self._heard: list[str] = []
        for tally in self._tallies.values():
            tally.reset()
        self._close_wake()

    def _close_wake(self) -> None:
        for end in self._wake_pair:
            end.close()
        self._wake_pair = ()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._wake_pair = socket.socketpair()
                self._wake_pair[0].setblocking(False)
                self._stop = False
                self._tried.clear()
                self._thread = threading.Thread(target=self._follow, name="embedtui-router", daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        for writer in self._wake_pair[1:]:
            with contextlib.suppress(OSError):
                writer.send(b"!")

    def _end(self) -> None:
        thread = self._thread
        if thread is not None:
            self._stop = True
            self._wake()
            thread.join(_CONNECT_SECONDS + 5)
            self._thread = None
            self._close_wake()

    @property
    def status(self) -> RouterStatus:
        """How well this Router is informed."""
        problems = [str(self._error)] if self._error else []
        if self._report_error:
            problems.append(self._report_error)
        return RouterStatus(
            connected=self._connected,
            listening=self._listening,
            bound_seconds=self._poll_seconds if self._connected else None,
            lost_since=self._lost_since,
            reporting=not self._report_error,
            detail=" ".join(problems),
            epochs={name: pointer.epoch for name, pointer in self._known.items()},
        )

    def route(self, name: str, key: str | None = None, *, model: str | int | None = None) -> R:
        """Where to search now, and with which model's vectors: from memory, without a query.

        Args:
            name: the route: the table's name unless configured otherwise.
            key: what a canary goes by, e.g. the user's id; the same key stays on its side. None: the active side.
            model: the model (name, or id in embedtui.model) that a query vector was made with already; it decides.

        Raises:
            Refused: no such route, or a model of neither side.
            DatabaseLost: the database has not been reached yet.
        """
        if self._thread is None:
            self._start()
        pointer = self._known.get(name)
        if pointer is None:
            pointer = self._first(name)
        if name not in self._tallies:
            self._tallies[name] = _Tally()
        return pointer.choose(key) if model is None else pointer.of_model(name, model, None)

    def _first(self, name: str) -> _Pointer[R]:
        self._tried.wait(_CONNECT_SECONDS + 1)
        if name in self._known:
            return self._known[name]
        if self._error is not None:
            raise self._error
        if not self._connected:
            raise DatabaseLost("The database does not answer.", hint="Is the server running, and the DSN right?")
        raise Refused(f"There is no route {name!r}.", hint="It is made by `embedtui run`.")

    def _tally(self, name: str) -> _Tally:
        return self._tallies.setdefault(name, _Tally())

    # ------------------------------------------------------------------------------------------- the thread

    def _follow(self) -> None:
        delay = _RETRY_SECONDS[0]
        while not self._stop:
            try:
                with self._connect() as conn:
                    delay = _RETRY_SECONDS[0]
                    self._serve(conn)
            except (psycopg.Error, OSError) as error:
                self._connected = self._listening = False
                if self._lost_since is None:
                    self._lost_since = datetime.now(UTC)
                    _log.warning(
                        "route unknown for now, going on with the last known one: %s", translate(error, dsn=self._dsn)
                    )
                self._error = translate(error, dsn=self._dsn)
                self._tried.set()
                self._wait(None, delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _RETRY_SECONDS[1])
        self._connected = self._listening = False

    def _connect(self) -> psycopg.Connection[Any]:
        # No session settings: behind a pooler they would reach other clients.
        return psycopg.connect(
            self._dsn,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=_CONNECT_SECONDS,
            application_name=f"embedtui/router {self._application}".strip(),
            keepalives=1,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=4,
            tcp_user_timeout=30_000,  # a statement that is never acknowledged must not keep an old route for minutes
        )

    def _serve(self, conn: psycopg.Connection[Any]) -> None:
        """Follow the pointer on one connection until it is lost or the Router is closed."""
        self._report_error = ""
        self._heard = []
        # Also called for what arrives while another statement runs, which would otherwise wait for the poll.
        conn.add_notify_handler(lambda notify: self._heard.append(notify.payload))
        if self._listen:
            try:
                conn.execute(f"LISTEN {CHANNEL}")
                self._listening = not _is_pooled(conn)
            except (errors.ReadOnlySqlTransaction, errors.FeatureNotSupported):  # a standby
                self._listening = False
        poll_at = report_at = 0.0
        while not self._stop:
            heard, self._heard = self._heard, []
            news = self._apply(heard)
            if heard or time.monotonic() >= poll_at:
                news = self._look_up(conn) or news
                poll_at = time.monotonic() + self._poll_seconds
            if news or time.monotonic() >= report_at:
                self._report(conn)
                report_at = time.monotonic() + _REPORT_SECONDS
            if not self._heard:
                self._wait(conn, max(0.0, min(poll_at, report_at) - time.monotonic()))
        self._sign_off(conn)

    def _wait(self, conn: psycopg.Connection[Any] | None, seconds: float) -> None:
        """Wait for a notification, a call to wake up, or the time."""
        wake = self._wake_pair[0]
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            if conn is not None:
                selector.register(conn, selectors.EVENT_READ)
            ready = {chosen.fileobj for chosen, _ in selector.select(seconds)}
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
        if conn is not None and conn in ready:
            # Below psycopg's own generator, which gives the interpreter away to the searching threads once more.
            conn.pgconn.consume_input()
            while notify := conn.pgconn.notifies():
                self._heard.append(notify.extra.decode())
                self._listening = True  # heard at rest: a pooler, if any, keeps our session

    def _apply(self, heard: list[str]) -> bool:
        """Follow moves that were told in full, without a query; whether any was. A look-up comes after it anyway."""
        moved = False
        for payload in heard:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told = json.loads(payload)
                pointer = self._known[told["name"]]
                # The very next epoch, or something else may have changed in between. Anyone may NOTIFY: check.
                if (
                    pointer.rows[0]["migration"] == told["migration"]
                    and pointer.epoch + 1 == told["epoch"]
                    and told["active"] in ("old", "new")
                    and 0 <= told["canary"] <= 100
                ):
                    rows = [
                        row
                        | {"epoch": told["epoch"], "active": row["side"] == told["active"], "canary": told["canary"]}
                        for row in pointer.rows
                    ]
                    self._known = self._known | {told["name"]: _moved(pointer, rows)}
                    moved = True
        return moved

    def _look_up(self, conn: psycopg.Connection[Any]) -> bool:
        """Read all routes in one statement; whether any changed."""
        try:
            with conn.cursor(row_factory=dict_row) as cursor:
                rows = cursor.execute(_LOOK_UP).fetchall()
        except (errors.UndefinedTable, errors.InvalidSchemaName, errors.InsufficientPrivilege) as error:
            self._error, self._connected = translate(error), True
            self._tried.set()
            return False
        known = _pointers(rows, self._route_class, self._known, self._tally)
        changed = known != self._known
        self._known = known  # one assignment: readers see the old state or the new one, whole
        if self._lost_since is not None:
            _log.warning("the database answers again; the route is up to date")
        self._connected, self._lost_since, self._error = True, None, None
        self._tried.set()
        return changed

    def _report(self, conn: psycopg.Connection[Any]) -> None:
        """Tell the operators the epoch seen and the searches so far; a Router that may not goes on without."""
        if self._report_error:
            return
        now = time.monotonic()
        values = [
            {
                "id": uuid.uuid5(self._id, name),
                "name": name,
                "host": host_name(),
                "pid": os.getpid(),
                "application": self._application,
                "epoch": self._known[name].epoch,
                "ago": now - self._known[name].seen,
                "old": tally.counts[Side.OLD],
                "new": tally.counts[Side.NEW],
            }
            for name, tally in list(self._tallies.items())
            if name in self._known
        ]
        try:
            for value in values:
                conn.execute(_REPORT, value)
        except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction, errors.UndefinedTable) as error:
            self._report_error = f"Not reporting: {redact(str(error.diag.message_primary))}."

    def _sign_off(self, conn: psycopg.Connection[Any]) -> None:
        if not self._report_error:
            ids = [uuid.uuid5(self._id, name) for name in self._tallies]
            with contextlib.suppress(psycopg.Error):
                conn.execute("DELETE FROM embedtui.listener WHERE id = ANY (%s)", [ids])


def _is_pooled(conn: psycopg.Connection[Any]) -> bool:
    """Whether a pooler sits between: it names a backend of its own making, not the server's."""
    row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    return row is not None and row[0] != conn.info.backend_pid


def _key(key: object) -> list[str]:
    """A key of one column may be given plainly; of several, as a sequence in the key's order."""
    return [str(part) for part in key] if isinstance(key, tuple | list) else [str(key)]


class Router(_Follower[Route]):
    """Follows the routes of a database; one per process, shared by its threads."""

    _route_class = Route

    def __enter__(self) -> Router:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start following and wait for the first answer; without this, the first :meth:`route` does it.

        Raises:
            EmbedtuiError: the database is not reached or not prepared; the Router goes on trying meanwhile.
        """
        self._start()
        self._tried.wait(_CONNECT_SECONDS + 1)
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
        text, values = _writing(self._pointer(name), name, key, vector, model, content)
        return conn.execute(text, values).rowcount > 0

    def _pointer(self, name: str) -> _Pointer[Route]:
        self.route(name)
        return self._known[name]


class AsyncRouter(_Follower[AsyncRoute]):
    """As :class:`Router`, for asyncio; ``await open()`` at start-up, or the first :meth:`route` waits for it."""

    _route_class = AsyncRoute

    async def __aenter__(self) -> AsyncRouter:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """As :meth:`Router.open`."""
        self._start()
        await asyncio.to_thread(self._tried.wait, _CONNECT_SECONDS + 1)
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Stop following."""
        await asyncio.to_thread(self._end)

    async def write(
        self,
        conn: psycopg.AsyncConnection[Any],
        name: str,
        key: object,
        vector: Vector,
        *,
        model: str | int,
        content: str | None = None,
    ) -> bool:
        """As :meth:`Router.write`."""
        self.route(name)
        text, values = _writing(self._known[name], name, key, vector, model, content)
        return (await conn.execute(text, values)).rowcount > 0


def _writing(
    pointer: _Pointer[Any], name: str, key: object, vector: Vector, model: str | int, content: str | None
) -> tuple[str, dict[str, Any]]:
    if not isinstance(vector, str):
        vector = [float(value) for value in vector]
    size = vector.count(",") + 1 if isinstance(vector, str) else len(vector)
    side = pointer.of_model(name, model, size)
    values = {"key": _key(key), "vector": side.bind(vector)}
    if content is not None:
        values["content"] = content
    return side._sql.write(content is not None), values


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
        key, model, vector, content: as in :meth:`Router.write`.

    Raises:
        Refused: no route for the table, a model of neither side, or other dimensions.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_LOOK_UP_TABLE, {"table": table}).fetchall()
    pointers = _pointers(rows, Route, {}, lambda name: _Tally())
    if not pointers:
        raise Refused(f"There is no route for {table!r}.", hint="It is made by `embedtui run`.")
    [(name, pointer)] = pointers.items()
    text, values = _writing(pointer, name, key, vector, model, content)
    return conn.execute(text, values).rowcount > 0
