"""A migration as the settings and the catalog make it: every choice that has only one answer is made here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from psycopg import Connection, sql

from embedtui.config import Settings
from embedtui.engine.plan.content_names import content_as_meant
from embedtui.engine.plan.contents import no_text_column, require_text_type, require_texts
from embedtui.engine.plan.presets import Preset, recognise
from embedtui.engine.plan.presets.checks import content_of, proposed_text
from embedtui.engine.plan.presets.elsewhere import with_texts_elsewhere
from embedtui.engine.plan.presets.padding import padded
from embedtui.engine.plan.text_table import TextsElsewhere, texts_elsewhere, texts_nearby
from embedtui.errors import DatabaseError, SettingsError, TableError
from embedtui.model import (
    Condition,
    Distance,
    EmbeddingModel,
    IndexMethod,
    Migration,
    Phase,
    PlacementKind,
    RowExpression,
    TableName,
)
from embedtui.postgres.catalog.facts import Candidate, Column, ServerFacts, TableFacts, UniqueKey
from embedtui.postgres.catalog.inspect import inspect_table, stored_dimensions
from embedtui.postgres.catalog.server import require_server, server_facts, version_tuple
from embedtui.postgres.catalog.tables import find_candidates, has_rows
from embedtui.postgres.catalog.vectors import VectorIndex, told_distances, vector_indexes
from embedtui.postgres.expressions import parse, row_sql
from embedtui.postgres.indexes import MAX_DIMENSIONS
from embedtui.postgres.names import either, in_quotes, shown, shown_column, suffixed
from embedtui.postgres.state.migrations import columns_being_filled
from embedtui.postgres.state.models import model_fingerprint
from embedtui.providers import unsaid_endpoint

STORED_DIMENSIONS = 16_000
"""Dimensions that a vector or halfvec can hold."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A migration as it would be, all choices made but the placement."""

    server: ServerFacts
    facts: TableFacts
    name: str
    key: UniqueKey
    """Columns in the order in which they were asked for."""
    content: tuple[str, ...]
    old_column: str
    old_type: str
    """``vector`` or ``halfvec``."""
    old_model: EmbeddingModel
    new_model: EmbeddingModel
    new_column: str | None
    """None: by placement."""
    new_table: str
    new_type: str
    vector_schema: str
    scope: RowExpression | None
    text: RowExpression | None
    """What makes the text of ``content``, where that is not the columns one under the other."""
    distance: Distance
    index_method: IndexMethod
    stored: Mapping[str, object]
    notices: tuple[str, ...]
    """What is worth saying, yet hinders nothing: an empty table, an empty column."""
    preset: Preset | None = None
    """The framework that made the table, where one is known."""
    elsewhere: TextsElsewhere | None = None
    """Where the texts are in another table."""

    def migration(self, placement: PlacementKind) -> Migration:
        """The migration in that placement, not stored yet (id 0)."""
        beside = placement is PlacementKind.COLUMN
        schema = self.facts.table.schema
        return Migration(
            id=0,
            name=self.name,
            table=self.facts.table,
            table_oid=self.facts.oid,
            key_columns=self.key.columns,
            key_types=self.key.types,
            content_columns=self.content,
            placement=placement,
            old_column=self.old_column,
            old_model=self.old_model,
            new_model=self.new_model,
            new_table=self.facts.table if beside else TableName(schema, self.new_table),
            new_column=self.new_column or (_next_column(self.old_column) if beside else "embedding"),
            vector_schema=self.vector_schema,
            vector_type=self.new_type,
            old_vector_type=self.old_type,
            distance=self.distance,
            index_method=self.index_method,
            phase=Phase.PLAN,
            condition=Condition.IDLE,
            reason="",
            desired="run",
            settings=dict(self.stored),
            content_types=tuple(column.plain_type for name in self.content if (column := self.facts.column(name))),
            key_equality=self.key.equality,
            scope=self.scope,
            content=self.text,
        )

    def scope_of(self, row: str) -> sql.Composable | None:
        """Condition that the row called ``row`` is one that is migrated; None where all are."""
        return None if self.scope is None else row_sql(self.scope, sql.Identifier(row))


def _next_column(old: str) -> str:
    """``embedding_v2``; where a former migration has left that as the old column, ``embedding_v3`` and so on."""
    match = re.fullmatch(r"embedding_v(\d+)", old)
    return f"embedding_v{int(match[1]) + 1}" if match else "embedding_v2"


def resolve(conn: Connection[Any], settings: Settings) -> Draft:
    """Make all choices that the settings leave open from the catalog, where only one is possible.

    Reads only.

    Raises:
        TableError: a table, column or key is wrong or ambiguous; the candidates are named.
        SettingsError: another setting is; it and its origin are named.
        DatabaseError: the server or a right is missing.
    """
    server = server_facts(conn)
    vector_schema = require_server(server)
    if settings.table is None:
        raise SettingsError("No table is set.", hint=_candidates_hint(find_candidates(conn)))
    facts = inspect_table(conn, settings.table, settings.schema)
    _require_readable(server, facts)
    settings = content_as_meant(conn, facts, settings)
    preset = recognise(facts)
    old = _old_column(conn, facts, settings, preset)
    settings = with_texts_elsewhere(conn, facts, preset, settings)
    elsewhere = texts_elsewhere(conn, server, facts, settings)
    if preset is not None and not settings.content and settings.content_sql is None and elsewhere is None:
        proposed = proposed_text(conn, facts, preset)
        settings = settings.with_values({"content_sql": proposed} if proposed else {}, preset.name)
    scope, text = _expressions(conn, facts, settings, old, elsewhere)
    content = text.names if text is not None else _content_columns(conn, facts, settings, preset)
    key = _key(facts, settings)
    of_scope = None if scope is None else row_sql(scope, sql.Identifier("t"))
    dimensions = stored_dimensions(conn, facts, old.name, vector_schema, of_scope)
    settings = padded(conn, facts, settings, preset, old.name, dimensions, of_scope)
    old_model, new_model = _models(settings, old, dimensions)
    found = vector_indexes(conn, facts.oid, old.name)
    halved = any(index.distance and index.cast_to == "halfvec" for index in found)
    return Draft(
        server=server,
        facts=facts,
        name=settings.name or facts.table.name,
        key=key,
        content=content,
        old_column=old.name,
        old_type=old.base_type,
        old_model=old_model,
        new_model=new_model,
        new_column=_new_column(settings, old),
        new_table=settings.new_table or suffixed(facts.table.name, "_embedding_v2"),
        new_type=_new_type(settings, server, old, new_model.dimensions, cast=halved),
        vector_schema=vector_schema,
        scope=scope,
        text=text,
        distance=settings.distance or _told(found) or Distance.COSINE,
        index_method=settings.index.method,
        stored=_stored(facts, key, settings),
        notices=_notices(conn, facts, old, dimensions),
        preset=preset,
        elsewhere=elsewhere,
    )


def _stored(facts: TableFacts, key: UniqueKey, settings: Settings) -> dict[str, object]:
    """No foreign key where none is possible, or where it would keep partitions from being detached or dropped."""
    stored = settings.stored()
    if (facts.kind == "partitioned" or not key.referable) and not settings.says("foreign_key"):
        stored["foreign_key"] = False
    return stored


def _require_readable(server: ServerFacts, facts: TableFacts) -> None:
    """Refuse a table whose rows this role would not see, or only some of them."""
    table = shown(facts.table)
    if facts.persistence == "t":
        raise TableError(f"{table} is a temporary table.", hint="Name one that other sessions can see.")
    if facts.foreign_leaves:
        raise TableError(
            f"{facts.foreign_leaves[0]}, a partition of {table}, is a foreign table: another server's rows.",
            hint='Migrate it there; here detach it, or move the other partitions each by itself (placement = "table").',
        )
    if not facts.may_select:
        raise DatabaseError(
            f"Role {server.role} may not read {table}.", hint=f"GRANT SELECT ON {table} TO {shown_column(server.role)};"
        )
    if facts.row_security_applies:
        raise DatabaseError(
            f"Row security would hide rows of {table} from role {server.role}.",
            hint="Use the table's owner, or a role with BYPASSRLS.",
        )


def _models(settings: Settings, old: Column, dimensions: int | None) -> tuple[EmbeddingModel, EmbeddingModel]:
    """Old and new model; ``dimensions`` are those that the old column holds, where it holds any."""
    path = "old_model.pad_to" if settings.old_model.pad_to else "old_model.dimensions"
    if dimensions and settings.value(path) not in (None, dimensions):
        raise SettingsError(
            f"{path} = {settings.value(path)} ({settings.origin(path)}): "
            f"{shown_column(old.name)} holds vectors of {dimensions}.",
            hint=f"Set it to {dimensions}, or leave it out.",
        )
    new_model = settings.new_model.complete("new")
    # an old column that is empty and untyped holds nothing to mix up; the new model's size stands in
    old_model = settings.old_model.complete("old", dimensions=dimensions or new_model.dimensions)
    if _same(old_model, new_model):
        raise SettingsError(
            f"The old and the new model are the same: {new_model.name} with {new_model.dimensions} dimensions.",
            hint="Set EMBED_MODEL (or new_model.name) to the model to move to.",
        )
    if unsaid := unsaid_endpoint(old_model, new_model, settings.environ):
        reason, hint = unsaid[1]
        raise SettingsError(reason, hint=hint)
    return old_model, new_model


def _same(one: EmbeddingModel, other: EmbeddingModel) -> bool:
    """Whether their vectors could not be told apart by the registry."""
    return model_fingerprint(one) == model_fingerprint(other)


def _candidates_hint(candidates: Sequence[Candidate]) -> str:
    if not candidates:
        return "This database has no table with a vector column that this role may read."
    names = dict.fromkeys(shown(each.table) for each in candidates[:5])
    return f"Set --table, or table in embedtui.toml; tables with vectors: {', '.join(names)}."


def _missing(setting: str, settings: Settings, facts: TableFacts, name: str) -> TableError:
    close = get_close_matches(name, [column.name for column in facts.columns], n=2) or [
        column.name for column in facts.columns if column.name.lower() == name.lower()
    ]
    near = f"; did you mean {either(shown_column(match) for match in close)}?" if close else "."
    hint = f"Setting: {setting} ({settings.origin(setting)})."
    return TableError(f"no column {in_quotes(name)} in {shown(facts.table)}{near}", hint=hint)


def _old_column(conn: Connection[Any], facts: TableFacts, settings: Settings, preset: Preset | None) -> Column:
    table = shown(facts.table)
    if settings.old_column is not None:
        found = facts.column(settings.old_column)
        if found is None:
            raise _missing("old_column", settings, facts, settings.old_column)
        if not found.is_vector:
            raise TableError(
                f"{shown_column(found.name)} of {table} is {found.type}, not a vector (old_column, "
                f"{settings.origin('old_column')}).",
                hint=_of_domains(facts) or f"Vector columns: {_listed(facts.vector_columns)}.",
            )
        return found
    filled = columns_being_filled(conn)
    others = [
        column
        for column in facts.vector_columns
        if column.name != settings.new_column and (facts.table.schema, facts.table.name, column.name) not in filled
    ]
    choices = others or facts.vector_columns
    if not choices:
        raise TableError(
            f"{table} has no vector column.",
            hint=_of_domains(facts) or "embedtui moves the vectors of an existing vector or halfvec column.",
        )
    if len(choices) > 1 and preset is not None:
        choices = [column for column in choices if column.name == preset.vector] or choices
    if len(choices) > 1:
        raise TableError(
            f"{table} has {len(choices)} vector columns: {_listed(choices)}.",
            hint="Say which one holds the old vectors: --column, or old_column in embedtui.toml.",
        )
    return choices[0]


def _of_domains(facts: TableFacts) -> str:
    """What to do about vectors in a column of a domain, whose type pgvector's operators and indexes do not go by."""
    statements = [
        f"ALTER TABLE {shown(facts.table)} ALTER {shown_column(column.name)} TYPE {column.plain_type};"
        for column in facts.columns
        if column.type != column.plain_type and re.fullmatch(r"(.*\.)?(vector|halfvec)(\(\d+\))?", column.plain_type)
    ]
    return (
        f"Vectors of a domain are not migrated; of its base type they are: {' '.join(statements)}" if statements else ""
    )


def _expressions(
    conn: Connection[Any], facts: TableFacts, settings: Settings, old: Column, elsewhere: TextsElsewhere | None
) -> tuple[RowExpression | None, RowExpression | None]:
    """The scope, and what makes the text, where these are set."""
    scope = text = None
    if settings.scope is not None:
        scope = parse(conn, facts.table, settings.scope, setting="scope", condition=True)
    if settings.content_sql is not None:
        if settings.content:
            raise SettingsError(
                f"Both content ({settings.origin('content')}) and content_sql ({settings.origin('content_sql')})"
                " are set.",
                hint="Leave out one of the two.",
            )
        if elsewhere is None:
            scanned = settings.change_capture == "scan"
            text = parse(conn, facts.table, settings.content_sql, setting="content_sql", scanned=scanned)
    if elsewhere is not None:
        text = elsewhere.expression
    ours = {old.name, settings.new_column}
    for setting, expression in (("scope", scope), ("content_sql", text)):
        for name in sorted(ours.intersection(() if expression is None else expression.names)):
            raise SettingsError(
                f"{setting} names {shown_column(name)}, a column that embedtui itself writes.",
                hint="Use columns of the application's.",
            )
    return scope, text


def _content_columns(
    conn: Connection[Any], facts: TableFacts, settings: Settings, preset: Preset | None
) -> tuple[str, ...]:
    table = shown(facts.table)
    for name in settings.content:
        found = facts.column(name)
        if found is None:
            raise _missing("content", settings, facts, name)
        require_text_type(conn, facts, found, settings.origin("content"))
    if settings.content:
        return settings.content
    if preset is not None:
        return content_of(facts, preset)
    choices = facts.text_choices
    if not choices:
        raise no_text_column(conn, facts, texts_nearby(conn, facts))
    if len(choices) > 1:
        raise TableError(
            f"{table} has {len(choices)} text columns: {_listed(choices)}.",
            hint="Say which are embedded, in their order: --content, or content in embedtui.toml.",
        )
    require_texts(conn, facts, choices[0], texts_nearby(conn, facts))
    return (choices[0].name,)


def _key(facts: TableFacts, settings: Settings) -> UniqueKey:
    table = shown(facts.table)
    for name in settings.key:
        if facts.column(name) is None:
            raise _missing("key", settings, facts, name)
    if not facts.keys:
        column = settings.key[0] if settings.key else "id"
        raise TableError(
            f"{table} has no unique key over NOT NULL columns.",
            hint=f"Add one, e.g. ALTER TABLE {table} ADD PRIMARY KEY ({shown_column(column)});",
        )
    if not settings.key:
        return facts.keys[0]
    for key in facts.keys:
        if set(key.columns) == set(settings.key):
            places = [key.columns.index(name) for name in settings.key]
            return replace(
                key,
                columns=settings.key,
                types=tuple(key.types[place] for place in places),
                equality=tuple(key.equality[place] for place in places if key.equality),
            )
    keys = "; ".join(", ".join(map(shown_column, key.columns)) for key in facts.keys)
    asked = ", ".join(map(shown_column, settings.key))
    raise TableError(
        f"{asked} is not a unique key over NOT NULL columns of {table} (key, {settings.origin('key')}).",
        hint=f"Unique keys: {keys}.",
    )


def _new_column(settings: Settings, old: Column) -> str | None:
    """The new column's name where one is set; None leaves it to the placement."""
    name = settings.new_column if settings.origin("new_column") != "default" else None
    if name is not None and name == old.name:
        raise SettingsError(
            f'new_column = "{name}" ({settings.origin("new_column")}) is the old column.', hint="Choose another."
        )
    return name


def _new_type(settings: Settings, server: ServerFacts, old: Column, dimensions: int, *, cast: bool) -> str:
    """Type of the new column; ``cast``: the old side's index is on a cast of its column to halfvec."""
    half = settings.halfvec
    # an index can be on a cast to halfvec; where the old one is, the column keeps its precision as the old one does
    if half is None:
        half = old.base_type == "halfvec" or (dimensions > MAX_DIMENSIONS["vector"] and not cast)
    kind = "halfvec" if half else "vector"
    where = f"new_model.dimensions = {dimensions} ({settings.origin('new_model.dimensions')})"
    if dimensions > STORED_DIMENSIONS:
        raise SettingsError(f"{where}: pgvector holds at most {STORED_DIMENSIONS}.", hint="Choose fewer.")
    indexed = settings.index.method is not IndexMethod.NONE
    if indexed and dimensions > MAX_DIMENSIONS["halfvec"]:
        raise SettingsError(
            f"{where}: {settings.index.method.value} indexes halfvec only to {MAX_DIMENSIONS['halfvec']}.",
            hint='Choose fewer (EMBED_DIMENSIONS), or index.method = "none".',
        )
    half = half or (indexed and dimensions > MAX_DIMENSIONS["vector"])
    if half and version_tuple(server.vector_version or "0") < (0, 7, 0):
        raise DatabaseError(
            f"halfvec needs pgvector 0.7.0; this database has {server.vector_version}.",
            hint="Upgrade pgvector, or choose at most 2,000 dimensions.",
        )
    return kind


def _told(indexes: Sequence[VectorIndex]) -> Distance | None:
    """The distance that the indexes on the old column serve; None where there is none, or they disagree."""
    told = told_distances(indexes)
    return told[0] if len(told) == 1 else None


def _notices(conn: Connection[Any], facts: TableFacts, old: Column, dimensions: int | None) -> tuple[str, ...]:
    notices = []
    if not has_rows(conn, facts.table):
        notices.append(f"{shown(facts.table)} is empty: there is nothing to embed until rows arrive.")
    elif dimensions is None:
        notices.append(f"{shown_column(old.name)} holds no vectors among its first rows.")
    return tuple(notices)


def _listed(columns: Iterable[Column]) -> str:
    return ", ".join(shown_column(column.name) for column in columns) or "none"
