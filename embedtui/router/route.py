"""One side of one state of the pointer: what to embed with, what to search, and the search itself."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from embedtui.arrays import np
from embedtui.errors import Refused
from embedtui.known import provider
from embedtui.model import Key, PlacementKind, Side
from embedtui.model.bridge import BridgeFigures, LinearMap
from embedtui.model.vector_shape import VectorShape
from embedtui.postgres.state.route_side import read_sides_called, read_sides_called_async
from embedtui.router.renamed import RENAMED, attempt, attempt_async, repeatable
from embedtui.router.sql import SideSql

Vector = str | Iterable[float]
"""A vector: floats (list, tuple, numpy array, …) or pgvector's text form ``[1,2,…]``."""


class Hit(NamedTuple):
    """One row found."""

    key: Key
    distance: float
    values: dict[str, Any]
    """The requested columns."""


TIMED, TIMED_SECONDS = 500, 10.0
"""The last searches of a side whose time is kept, enough for a p95; of these, those of the last seconds are told."""


class Tally:
    """Searches per side, counted by many threads, and what the last ones took."""

    def __init__(self) -> None:
        """Begin at none."""
        self.reset()

    def reset(self) -> None:
        """Begin again, with a lock of our own: a forked child may have inherited a held one."""
        self._lock = threading.Lock()
        self.counts = {Side.OLD: 0, Side.NEW: 0}
        self._took: dict[Side, deque[tuple[float, float]]] = {side: deque(maxlen=TIMED) for side in Side}

    def add(self, side: Side) -> None:
        """Count a search."""
        with self._lock:
            self.counts[side] += 1

    def took(self, side: Side, began: float) -> None:
        """Keep what a search took that ``began`` then; takes no lock: appending to a deque is one step."""
        now = time.perf_counter()
        self._took[side].append((now, now - began))

    def latency_ms(self) -> list[float | None]:
        """p50 and p95 of the last searches, of the old side and of the new; None where there were none of late."""
        found: list[float | None] = []
        since = time.perf_counter() - TIMED_SECONDS
        for side in (Side.OLD, Side.NEW):
            taken = sorted(seconds for ended, seconds in self._took[side].copy() if ended >= since)
            last = len(taken) - 1
            found += [1000 * taken[round(share * last)] for share in (0.5, 0.95)] if taken else [None, None]
        return found


@dataclass(frozen=True, slots=True)
class RouteFields:
    """What both kinds of route hold, and what they make of it without a connection."""

    name: str
    side: Side
    model: str
    """The model's name: embed queries and documents with it, and with nothing else, for this route."""
    model_id: int
    """Its id in embedtui.model."""
    provider: str
    dimensions: int
    """Of the vectors that the model gives."""
    requested_dimensions: int | None
    """What a request says of them; None: nothing, where the model refuses that (text-embedding-ada-002)."""
    query_prefix: str
    document_prefix: str
    relation: str
    """Quoted, qualified relation that holds the vectors."""
    column: str
    placement: PlacementKind
    epoch: int
    """Epoch of the pointer when this route was read."""
    bridge: int | None
    """Version of the bridge that is gone through, see :attr:`bridged`; a route holds its map whole."""
    figures: BridgeFigures | None
    """How well that does, on rows held out."""
    _sql: SideSql = field(repr=False, compare=False)
    _map: LinearMap | None = field(repr=False, compare=False)
    _shape: VectorShape = field(repr=False, compare=False)
    _tally: Tally = field(repr=False, compare=False)
    _renew: Callable[[Any, list[dict[str, Any]]], Any] = field(repr=False, compare=False)
    """This side as rows looked up anew have it; None where nothing has changed about it."""

    def fields(self, use: Literal["document", "query"]) -> dict[str, Any]:
        """What this route's provider is to be told with such texts, e.g. ``{"input_type": "query"}``; often nothing.

        Fields of your own (``extra_body``) are not among them: those are settings of each machine.
        """
        manners = provider(self.provider)
        return dict(manners.query if use == "query" else manners.document)

    @property
    def bridged(self) -> bool:
        """Whether ``model`` is the new one, whose vectors :meth:`search` maps and searches the *old* column with."""
        return self.bridge is not None

    @property
    def shaped(self) -> bool:
        """Whether the column holds the model's vectors padded, or divided by their length; :meth:`bind` does that."""
        return self._shape.changes

    def bind(self, vector: Vector) -> str:
        """``vector`` as the text to bind, checked for this route's dimensions.

        It is made what the column holds: padded, or divided by its length, where the model's are; on a bridged route it
        is mapped.

        Raises:
            Refused: another number of dimensions, so another model's vector.
        """
        values: list[float] = []
        if isinstance(vector, str):
            text, size = vector, vector.count(",") + 1
        else:
            values = vector.tolist() if hasattr(vector, "tolist") else list(vector)
            text, size = "", len(values)
        if size not in (self.dimensions, self._shape.size):
            raise Refused(
                f"Model {self.model} makes {self.dimensions} dimensions, the vector has {size}.",
                hint="Embed with the model and dimensions of the route that searches.",
            )
        if self._map is not None or self._shape.changes:
            made = self._shape(np.array([values or json.loads(text)], np.float32))[0]
            return str((made if self._map is None else self._map(made)).tolist())
        return text or str([float(value) for value in values])

    def count_search(self) -> None:
        """Tell operators of a search of this side that :meth:`search` and :meth:`search_sql` have no part in."""
        self._tally.add(self.side)

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

    def _text(self, where: str | sql.Composable, columns: Sequence[str], iterative_scan: str | None) -> str:
        if isinstance(where, sql.Composable):
            where = where.as_string(None)
        return self._sql.search(tuple(columns), where, iterative_scan)

    def _prepare(
        self,
        vector: Vector,
        k: int,
        where: str | sql.Composable,
        params: Mapping[str, Any] | None,
        columns: Sequence[str],
        iterative_scan: str | None,
    ) -> tuple[str, dict[str, Any]]:
        self._tally.add(self.side)
        text = self._text(where, columns, iterative_scan)
        return text, {**(params or {}), "vector": self.bind(vector), "k": k}


def hits(rows: Iterable[tuple[Any, ...]], columns: Sequence[str]) -> list[Hit]:
    """Rows of a search as hits, its requested columns by name."""
    return [Hit(tuple(row[0]), row[1], dict(zip(columns, row[2:], strict=True))) for row in rows]


def again(vector: Vector) -> Vector:
    """The vector as one that can be bound twice: the side it searches may have gone, and a bridge's map with it."""
    return vector if isinstance(vector, str) or hasattr(vector, "tolist") else list(vector)


class Route(RouteFields):
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
        vector = again(vector)
        text, values = self._prepare(vector, k, where, params, columns, iterative_scan)

        def run(text: str) -> list[Hit]:
            with conn.cursor(row_factory=tuple_row) as cursor:
                return hits(cursor.execute(text, values), columns)

        began = time.perf_counter()
        try:
            found = attempt(conn, lambda: run(text))
            self._tally.took(self.side, began)
            if found or self._sql.attnum is None or not repeatable(conn):
                return found
            failure = None
        except RENAMED as error:
            failure = error
        now = self._renew(self, read_sides_called(conn, self.name))
        if now is None:
            if failure is not None:
                raise failure
            return []
        values["vector"] = now.bind(vector)
        return run(now._text(where, columns, iterative_scan))


class AsyncRoute(RouteFields):
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
        vector = again(vector)
        text, values = self._prepare(vector, k, where, params, columns, iterative_scan)

        async def run(text: str) -> list[Hit]:
            async with conn.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(text, values)
                return hits(await cursor.fetchall(), columns)

        began = time.perf_counter()
        try:
            found = await attempt_async(conn, lambda: run(text))
            self._tally.took(self.side, began)
            if found or self._sql.attnum is None or not repeatable(conn):
                return found
            failure = None
        except RENAMED as error:
            failure = error
        now = self._renew(self, await read_sides_called_async(conn, self.name))
        if now is None:
            if failure is not None:
                raise failure
            return []
        values["vector"] = now.bind(vector)
        return await run(now._text(where, columns, iterative_scan))
