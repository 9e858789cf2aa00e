"""The pointer as a Router has it in memory: all sides of a route at one epoch, made from the rows of one look-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, TypeVar

from psycopg import sql

from embedtui.errors import Refused
from embedtui.model import (
    Condition,
    Distance,
    EmbeddingModel,
    IndexMethod,
    Migration,
    Phase,
    PlacementKind,
    RowExpression,
    Side,
    TableName,
)
from embedtui.model.bridge import LinearMap, figures_from
from embedtui.model.vector_shape import VectorShape
from embedtui.postgres.state.pointer import bucket
from embedtui.router.route import RouteFields, Tally, Vector
from embedtui.router.sql import SideSql

R = TypeVar("R", bound=RouteFields)
"""The kind of route: for threads or for asyncio."""


@dataclass(frozen=True, slots=True)
class RouteSnapshot(Generic[R]):
    """One state of a route, whole."""

    rows: list[dict[str, Any]]
    epoch: int
    active: Side
    canary: int
    sides: dict[Side, R]
    """The sides that exist."""
    bridged: R | None
    """The old side by the new model's vectors, while it is served so."""
    seen: float
    """time.monotonic() when this state was first seen."""

    def choose(self, key: str | None) -> R:
        """The side that a key reads: the active one, or the new one for the keys of the canary."""
        side = self.active
        if key is not None and self.canary and bucket(key) < self.canary:
            side = Side.NEW
        if self.bridged is not None and side is Side.OLD:
            return self.bridged
        return self.sides[side] if side in self.sides else next(iter(self.sides.values()))

    def to_search(self, name: str, model: str | int) -> R:
        """What a query vector of ``model`` searches: as :meth:`of_model`, through the bridge while it serves."""
        bridged = self.bridged
        if bridged is not None and self.active is Side.OLD and model in (bridged.model, bridged.model_id):
            old = self.sides[Side.OLD]
            if model not in (old.model, old.model_id):
                return bridged
        return self.of_model(name, model, None)

    def of_model(self, name: str, model: str | int, dimensions: int | None) -> R:
        """The side whose vectors ``model`` makes; of two models with one name the dimensions tell.

        Raises:
            Refused: no side, or both sides and no telling.
        """
        found = [side for side in self.sides.values() if model in (side.model, side.model_id)]
        if len(found) > 1 and dimensions is not None:
            found = [side for side in found if dimensions in (side.dimensions, side._shape.size)] or found
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


def moved(snapshot: RouteSnapshot[R], rows: list[dict[str, Any]]) -> RouteSnapshot[R]:
    """``snapshot`` as ``rows`` have it, where nothing but the pointer moved: statements composed are kept."""
    epoch = rows[0]["epoch"]
    sides = {side: replace(route, epoch=epoch) for side, route in snapshot.sides.items()}
    bridged = None if snapshot.bridged is None else replace(snapshot.bridged, epoch=epoch)
    return RouteSnapshot(rows, epoch, _active(rows), rows[0]["canary"], sides, bridged, time.monotonic())


def _active(rows: list[dict[str, Any]]) -> Side:
    return next((Side(row["side"]) for row in rows if row["active"]), Side.OLD)


def _today(route: R, rows: list[dict[str, Any]]) -> R | None:
    """``route``'s model as a fresh look-up has it; None where nothing has changed about it.

    Raises:
        Refused: its side is gone.
    """
    snapshots = snapshots_of(rows, type(route), {}, lambda _: route._tally, {})
    sides = list(snapshots[route.name].sides.values()) if snapshots else []
    old = [_over(each, route) for each in sides if route.bridged and each.side is Side.OLD]
    # a bridged route goes on to its own model's side where the old one is gone
    found = old or sorted(
        (each for each in sides if each.model_id == route.model_id), key=lambda each: each.side != route.side
    )
    if not found:
        raise Refused(
            f"Model {route.model} no longer serves route {route.name!r}: its side is gone.",
            hint="Take the route again, and embed with its model.",
        )
    same = (found[0].relation, found[0].column, found[0]._sql.stamped, found[0]._sql.attnum)
    return None if same == (route.relation, route.column, route._sql.stamped, route._sql.attnum) else found[0]


def begun_anew(rows: Iterable[dict[str, Any]], known: Mapping[str, RouteSnapshot[R]]) -> set[str]:
    """Routes that are another migration's by now, whose searches are counted from its beginning."""
    was = {name: snapshot.rows[0]["migration"] for name, snapshot in known.items()}
    return {row["name"] for row in rows if was.get(row["name"], row["migration"]) != row["migration"]}


def snapshots_of(
    rows: Iterable[dict[str, Any]],
    make: Callable[..., R],
    known: Mapping[str, RouteSnapshot[R]],
    tally: Callable[[str], Tally],
    maps: Mapping[int, LinearMap],
) -> dict[str, RouteSnapshot[R]]:
    """Pointers from the rows of one look-up; what did not change stays the very same object.

    ``maps``: of bridges, by version. One that is served and not among them is not gone through.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    result = {}
    for name, both in by_name.items():
        both.sort(key=lambda row: row["side"] != "old")
        bridging = any(row.get("bridging") and row["bridge"] in maps for row in both)
        if name in known and _fixed(known[name].rows) == _fixed(both) and bridging is (known[name].bridged is not None):
            result[name] = known[name] if known[name].rows == both else moved(known[name], both)
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
                    dimensions=_shape(row).given,
                    requested_dimensions=_requested(row),
                    query_prefix=row["query_prefix"],
                    document_prefix=row["document_prefix"],
                    relation=sql.Identifier(row["relation_schema"], row["relation_name"]).as_string(None),
                    column=row["column_name"],
                    placement=migration.placement,
                    epoch=row["epoch"],
                    bridge=None,
                    figures=None,
                    _map=None,
                    _shape=_shape(row),
                    _sql=SideSql(migration, side, row["pgvector"] or "", row["stamped"], *_of_column(row)),
                    _tally=tally(name),
                    _renew=_today,
                )
        epoch, canary, bridged = both[0]["epoch"], both[0]["canary"], _bridged(both, sides, maps)
        result[name] = RouteSnapshot(both, epoch, _active(both), canary, sides, bridged, time.monotonic())
    return result


def _shape(row: dict[str, Any]) -> VectorShape:
    """What the model's vectors go through; an older installation's view knows of nothing."""
    size = row["dimensions"]
    return VectorShape(size, row.get("given") or size, row.get("normalise", False))


def _requested(row: dict[str, Any]) -> int | None:
    return _shape(row).given if row.get("send_dimensions", True) else None


def _of_column(row: dict[str, Any]) -> tuple[int | None, str]:
    """Number of a side's column, and what its index casts it to; an older installation's view tells neither."""
    return row.get("attnum"), row.get("search_type", "")


def _bridged(both: list[dict[str, Any]], sides: Mapping[Side, R], maps: Mapping[int, LinearMap]) -> R | None:
    """The old side by the new model's vectors, where it is served so, from a route's two rows."""
    old, new = both
    if not old.get("bridging") or Side.OLD not in sides or old["bridge"] not in maps:
        return None
    return replace(
        sides[Side.OLD],
        model=new["model"],
        model_id=new["model_id"],
        provider=new["provider"],
        dimensions=_shape(new).given,
        requested_dimensions=_requested(new),
        query_prefix=new["query_prefix"],
        document_prefix=new["document_prefix"],
        bridge=old["bridge"],
        figures=figures_from(old["bridge_figures"]),
        _map=maps[old["bridge"]],
        _shape=_shape(new),
    )


def _over(old: R, bridged: R) -> R:
    """A bridged route over its column as it is called now."""
    return replace(
        bridged, relation=old.relation, column=old.column, placement=old.placement, _sql=old._sql, epoch=old.epoch
    )


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
        content_types=tuple(old.get("content_types", ())),  # a schema of before 4 has neither
        key_equality=tuple(old.get("key_equality", ())),
        scope=_expression(old.get("scope_sql")),  # a schema of before 5 has neither
        content=_expression(old.get("content_sql")),
        distance=Distance(old["distance"]),
        index_method=IndexMethod(old["index_method"]),
        phase=Phase(old["phase"]),
        condition=Condition.IDLE,
        reason="",
        desired="run",
    )


def _expression(text: str | None) -> RowExpression | None:
    return None if text is None else RowExpression("", text, ())


def _key(key: object) -> list[str]:
    """A key of one column may be given plainly; of several, as a sequence in the key's order."""
    return [_key_text(part) for part in key] if isinstance(key, tuple | list) else [_key_text(key)]


def _key_text(part: object) -> str:
    """Text that is read as the same value whatever the service's session is set to."""
    if isinstance(part, bytes | bytearray | memoryview):
        return f"\\x{bytes(part).hex()}"
    if isinstance(part, timedelta):  # each field with its own sign, which sql_standard would else spread over all
        return f"{part.days:+d} days {part.seconds:+d} seconds {part.microseconds:+d} microseconds"
    return str(part)


def writing(
    snapshot: RouteSnapshot[R], name: str, key: object, vector: Vector, model: str | int, content: str | None
) -> tuple[R, dict[str, Any]]:
    """The side that the model's vectors belong to, and the values to bind.

    Raises:
        Refused: a model of neither side, or other dimensions.
    """
    if not isinstance(vector, str):
        vector = [float(value) for value in vector]
    size = vector.count(",") + 1 if isinstance(vector, str) else len(vector)
    side = snapshot.of_model(name, model, size)
    values = {"key": _key(key), "vector": side.bind(vector)}
    if content is not None:
        values["content"] = content
    return side, values
