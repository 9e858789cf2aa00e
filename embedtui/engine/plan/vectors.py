"""Checks of the old vectors: one size, what distance they are searched by, what else lies in the column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection, sql

from embedtui.config import Settings
from embedtui.engine.plan.draft import Draft
from embedtui.engine.plan.presets.padding import padding_checks
from embedtui.formatting import counted
from embedtui.model import Check, Distance, IndexMethod, Migration, PlacementKind, Side
from embedtui.postgres.catalog.vectors import (
    StoredVectors,
    VectorIndex,
    is_unit,
    stored_vectors,
    telling_column,
    told_distances,
    vector_indexes,
    why_unserved,
)
from embedtui.postgres.indexes import shapes_of, used_by_search
from embedtui.postgres.names import shown_column

SHOWN = 5
"""Partial indexes that a check names."""


def vector_checks(conn: Connection[Any], draft: Draft, migration: Migration, settings: Settings) -> Iterator[Check]:
    """What the old column holds, and how it is searched; reads some of its rows."""
    indexes = vector_indexes(conn, draft.facts.oid, draft.old_column)
    found = stored_vectors(conn, draft.facts, draft.old_column, draft.vector_schema, draft.scope_of("t"))
    yield from _check_sizes(conn, draft, found, indexes)
    if len(found.sizes) == 1:
        yield from padding_checks(conn, draft.facts, migration, found.sizes[0][0], draft.scope_of("t"))
    yield from _check_distance(draft, settings, indexes)
    index = _check_index(conn, draft, migration, indexes)
    if index is not None:
        yield index
    yield from _check_shapes(conn, migration)


def _check_sizes(
    conn: Connection[Any], draft: Draft, found: StoredVectors, indexes: tuple[VectorIndex, ...]
) -> Iterator[Check]:
    column = shown_column(draft.old_column)
    of_scope = draft.scope is not None
    looked_at = counted(found.rows, "row", "rows") + (" of the scope" if of_scope else "")
    looked_at += "" if found.whole or of_scope else " drawn at random"
    held = dict(found.sizes)
    served = {index.dimensions: index.name for index in reversed(indexes) if index.dimensions is not None}
    if of_scope:  # an index of other rows says nothing of these
        served = {}
    hint = "Move one model's rows at a time: set scope (--where) to a condition that tells them apart."
    if len({*held, *served}) > 1:
        sizes = [f"{size} ({counted(rows, 'row', 'rows')})" for size, rows in held.items()]
        sizes += [f"{size} (index {name})" for size, name in served.items() if size not in held]
        detail = f"{column} holds vectors of several sizes, so of several models: {', '.join(sizes)}; {looked_at} seen."
        tells = None
        if len(held) > 1:
            candidates = [each for each in draft.facts.columns if each.name not in (*draft.content, draft.old_column)]
            tells = telling_column(
                conn, draft.facts, candidates, draft.old_column, draft.vector_schema, draft.scope_of("t")
            )
        if tells is not None:
            name, values = tells
            shares = "; ".join(f"{size} where it is {value}" for value, size in list(values.items())[:6])
            detail += f" Column {shown_column(name)} tells them apart: {shares}."
            value = next(
                (value for value, size in values.items() if size == next(iter(held)) and value != "NULL"), None
            )
            if value is not None:
                condition = f"{shown_column(name)} = {sql.Literal(value).as_string(None)}"
                if draft.scope is not None:
                    condition = f"({draft.scope.given}) AND {condition}"
                hint = (
                    f'Move one model\'s rows at a time: scope = "{condition}", or --where; each scope its own --name.'
                )
        yield Check("stored vectors", "fail", detail, hint)
        return
    if not held:
        return  # an empty table or column: a notice says it
    lengths = "of length 1"
    if not found.unit and found.shortest is not None:
        lengths = f"of length {found.shortest:.3g} to {found.longest:.3g}"
    detail = f"{next(iter(held))} dimensions, {lengths}; {looked_at} seen"
    gaps = []
    if found.nulls:
        gaps.append(counted(found.nulls, "has no vector", "have no vector"))
    if found.zeros:
        gaps.append(counted(found.zeros, "is a zero vector", "are zero vectors"))
    if found.zeros:
        yield Check(
            "stored vectors",
            "warn",
            f"{detail}: {', '.join(gaps)}; the new model embeds the texts of all of them.",
            "Zero vectors are in no cosine index: is that where embedding has failed?",
        )
        return
    yield Check("stored vectors", "pass", ": ".join([detail, *gaps[:1]]))


def _check_distance(draft: Draft, settings: Settings, indexes: tuple[VectorIndex, ...]) -> Iterator[Check]:
    taken = draft.distance
    told = told_distances(indexes)
    column = shown_column(draft.old_column)
    by = {
        each: next(f"{shown_column(index.name)} ({index.opclass})" for index in indexes if index.distance is each)
        for each in told
    }
    if settings.distance is not None:
        others = [name for each, name in by.items() if each is not taken]
        detail = f"{taken.value}, as set ({settings.origin('distance')})"
        if others:
            yield Check("distance", "warn", f"{detail}; index {', '.join(others)} serves another.", "Is that meant?")
        else:
            yield Check("distance", "pass", detail)
    elif len(told) > 1:
        served = ", ".join(f"{each.value} by {name}" for each, name in by.items())
        hint = f"Set distance to what the application searches by: {', '.join(each.value for each in told)}."
        yield Check("distance", "fail", f"The indexes on {column} serve several distances: {served}.", hint)
    elif told:
        yield Check("distance", "pass", f"{taken.value}, by index {by[taken]}")
    else:
        seen = f"index {', '.join(index.name for index in indexes)} does not" if indexes else "no index on it does"
        yield Check(
            "distance",
            "unknown",
            f"What {column} is searched by is told by nothing ({seen}); {taken.value} is taken.",
            "Set distance to the application's: cosine (<=>), l2 (<->) or ip (<#>).",
        )


def _check_index(
    conn: Connection[Any], draft: Draft, migration: Migration, indexes: tuple[VectorIndex, ...]
) -> Check | None:
    """Whether our searches of the old side go by the index that the application's do."""
    why = why_unserved(indexes, draft.distance)
    if why is not None:
        # a partial index may be that of the scope, which the planner knows
        if draft.scope and used_by_search(conn, migration, Side.OLD).usable:
            return None
        detail = (
            f"{why[0].upper()}{why[1:]}: embedtui's own searches of {shown_column(draft.old_column)}, the Router's and"
            " those of a comparison, read the whole table; the application's are as before."
        )
        hint = "A comparison shows no latency of the old side then. An index of the whole column serves all searches."
        if any(index.predicate for index in indexes):
            detail = detail.replace(": embedtui's", ": without a filter that implies it, embedtui's", 1)
            hint = "Give comparisons the application's filter: gate.where; and the Router's searches theirs (where)."
        return Check("old index", "warn", detail, hint)
    shaped = [index for index in indexes if index.serves and index.cast_to and index.distance is draft.distance]
    if shaped and not any(index.serves and not index.cast_to for index in indexes):
        return Check(
            "old index",
            "pass",
            f"{shown_column(shaped[0].name)} is on {shaped[0].of}: the old side is searched by that expression, and the"
            " new side's index has the same shape.",
        )
    return None


def _check_shapes(conn: Connection[Any], migration: Migration) -> Iterator[Check]:
    """Which indexes the new side gets where the old side has some that are of a part of the rows."""
    if migration.index_method is IndexMethod.NONE:
        return
    shapes = shapes_of(conn, migration)
    partial = shapes.partial
    if shapes.unmade:
        given = "; ".join(f"{each.name} where {each.predicate}: {each.why}" for each in shapes.unmade[:SHOWN])
        more = f"; and {len(shapes.unmade) - SHOWN:,} more" if len(shapes.unmade) > SHOWN else ""
        detail = f"Not taken over: {given}{more}. The new side gets an index of all its rows instead"
        hint = "A filtered search goes through that by pgvector's iterative scan (0.8 or later), slower than before."
        if migration.placement is PlacementKind.TABLE:
            hint += " Placement column keeps the shape."
        yield Check("partial indexes", "warn", f"{detail}.", hint)
    if partial:
        names = ", ".join(shown_column(shape.name) for shape in partial[:SHOWN])
        more = f" and {len(partial) - SHOWN:,} more" if len(partial) > SHOWN else ""
        detail = f"The new side gets {counted(len(shapes.made), 'index', 'indexes')}, as the old one has: {names}{more}"
        yield Check("partial indexes", "pass", f"{detail}, each of some rows; built one after the other.")


def length_check(draft: Draft, settings: Settings, length: float) -> Check | None:
    """Whether the new model's vectors suit an inner product or L2; ``length`` is that of one of them.

    None where that is so, or where the distance does not mind.
    """
    if draft.distance is Distance.COSINE or is_unit(length):
        return None
    detail = (
        f"{draft.new_model.name} gives vectors of other lengths than 1 ({length:.3g}), and distance"
        f" {draft.distance.value} weighs the length: long vectors come first, whatever they mean."
    )
    chosen = settings.distance is not None
    hint = (
        "Set new_model.normalise = true: its vectors, and the Router's queries, are divided by their length, and the"
        ' application\'s operator stays. Or distance = "cosine"; the application searches the new side by <=> then.'
    )
    if not chosen:
        hint += f' Or say that it is meant: distance = "{draft.distance.value}".'
    return Check("lengths", "warn" if chosen else "fail", detail, hint)
