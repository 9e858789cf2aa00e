"""Checks of what lies around the table: what would refuse our DDL, be opened by it, or be forgotten at the switch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.engine.plan.draft import Draft
from embedtui.model import Check, Migration, PlacementKind, TableName
from embedtui.postgres.catalog.surroundings import Surroundings, surroundings
from embedtui.postgres.names import shown, shown_column
from embedtui.postgres.sides import routed_view
from embedtui.postgres.sides.layout import follows_by_foreign_key
from embedtui.postgres.state.migrations import columns_being_filled
from embedtui.redaction import redact

NAMED = 8
"""Other columns that are named one by one."""
MOST_COLUMNS = 1600
"""Of a table (PostgreSQL's MaxHeapAttributeNumber) …"""
OURS = 3
"""… and those that placement ``column`` adds: vector, model, fingerprint."""


def surrounding_checks(
    conn: Connection[Any], draft: Draft, migration: Migration, settings: Settings
) -> Iterator[Check]:
    """What the catalog says beside the table itself."""
    sizes = (migration.old_model.dimensions, migration.new_model.dimensions)
    found = surroundings(conn, draft.facts.oid, draft.old_column, sizes)
    encoding = conn.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        yield Check(
            "encoding",
            "fail",
            f"The database's encoding is {encoding}, which lacks characters of queries, reasons, texts to come: a run"
            " would fail at the first of them.",
            "Move it to one of encoding UTF8: pg_dump, createdb -E UTF8, restore.",
        )
    yield from _check_writes(draft, found, migration.placement)
    yield from _check_event_triggers(found, migration.placement, settings)
    yield from _check_inheritance(draft, found)
    yield from _check_view(conn, migration)
    if migration.placement is PlacementKind.TABLE:
        yield from _check_as_closed(draft, found, migration)
    loose = [name for name in found.loose_collations if name in draft.key.columns]
    if loose:
        yield Check(
            "collation",
            "warn",
            f"Key column {', '.join(map(shown_column, loose))} has a nondeterministic collation: keys that differ only"
            " in what it ignores are one key to it.",
            "Nothing to do, where the application knows no such keys.",
        )
    yield from _check_other_columns(conn, migration, found)


def _check_writes(draft: Draft, found: Surroundings, placement: PlacementKind) -> Iterator[Check]:
    beside = placement is PlacementKind.COLUMN
    if draft.facts.columns_of:
        yield Check(
            "columns",
            "fail" if beside else "warn",
            f"{shown(draft.facts.table)} is {draft.facts.columns_of}: no column can be added to it or dropped alone.",
            'Set placement = "table".' if beside else "The cleanup leaves the old column, and the side table stays.",
        )
    elif found.columns_used + OURS > MOST_COLUMNS:
        yield Check(
            "columns",
            "fail" if beside else "warn",
            f"{shown(draft.facts.table)} has had {found.columns_used:,} of the {MOST_COLUMNS:,} columns that a table"
            f" can have in its life; new vectors with model and fingerprint take {OURS}.",
            'Set placement = "table".' if beside else "No cleanup can fold the side table into a column: it stays.",
        )
    if found.rules_between and beside:
        yield Check(
            "rules",
            "fail",
            f"Rules of {shown(draft.facts.table)} do something else, or more, where a row is written:"
            f" {', '.join(map(shown_column, found.rules_between))}; new vectors might never arrive.",
            'Set placement = "table": the table itself is not written then.',
        )
    if found.views:
        yield Check(
            "views",
            "warn",
            f"The table is written through {', '.join(found.views)} as well; none of them shows a new column.",
            "Writes through them are captured; searches of the new side have to name the table.",
        )


def _check_event_triggers(found: Surroundings, placement: PlacementKind, settings: Settings) -> Iterator[Check]:
    triggers = settings.change_capture == "triggers"
    scan = 'Set change_capture = "scan": changes are found by reading the table, and no trigger is made'
    if found.citus and triggers:
        yield Check("distributed table", "fail", "Citus refuses triggers on its distributed tables.", f"{scan}.")
    commands = ["CREATE SCHEMA", "CREATE TABLE", "CREATE INDEX", "CREATE FUNCTION"]
    commands += ["ALTER TABLE"] if placement is PlacementKind.COLUMN else []
    commands += ["CREATE TRIGGER"] if triggers else []
    accepted = "event triggers" in settings.accept
    for each in found.event_triggers:
        hit = [command for command in commands if each.fires_on(command)]
        if not hit:
            continue
        listed = ", ".join(hit)
        if not each.raises:
            detail = f"Event trigger {shown_column(each.name)} takes part in {listed}."
            yield Check("event triggers", "warn", detail, "Make sure that it lets embedtui's statements pass.")
            continue
        hint = 'Let it pass, or, where it does: accept = ["event triggers"].'
        if "CREATE TRIGGER" in hit and each.tags:
            rest = "" if hit == ["CREATE TRIGGER"] else "; the other statements are still subject to it"
            hint = f"{scan}{rest}. {hint}"
        yield Check(
            "event triggers",
            "warn" if accepted else "fail",
            f"Event trigger {shown_column(each.name)} can refuse {listed}, and these are statements of prepare.",
            hint,
        )


def _check_view(conn: Connection[Any], migration: Migration) -> Iterator[Check]:
    """Whether a routed view can be had, and what it costs."""
    if not migration.stored.view:
        if migration.placement is PlacementKind.COLUMN:
            yield Check(
                "routed view",
                "pass",
                "none is asked for: view = true, or later `embedtui view`, serves LangChain, LlamaIndex, SQLAlchemy,"
                " Django, and an application by its search path",
            )
        return
    later = migration.placement is PlacementKind.TABLE
    wrong = routed_view.obstacle(conn, replace(migration, placement=PlacementKind.COLUMN))
    if wrong is not None:
        yield Check("routed view", "fail", wrong[0], f"{wrong[1]} Or do without: view = false.")
        return
    if later:
        yield Check(
            "routed view",
            "warn",
            "A side table has none, since no application could write through a join: the cleanup makes it as it folds"
            " the side table, and an application that goes by it stays on the old side until then.",
            'To have it follow the cutover: placement = "column".',
        )
        return
    name, alone = shown(routed_view.name_of(migration)), ""
    if migration.scope is not None:
        alone = (
            f" It has the rows where {redact(migration.scope.given)} alone: no other is found through it, and a write"
            " of one is refused. So what reads or writes others has to keep an engine (or role) that does not follow."
        )
    yield Check(
        "routed view",
        "warn",
        f"{name} shows the table with the new vectors as {shown_column(migration.old_column)}.{alone} While it is"
        " there, PostgreSQL refuses DROP TABLE, and DROP COLUMN and ALTER TYPE of what it shows; COPY, TRUNCATE and"
        " ON CONFLICT ON CONSTRAINT need the table itself, and so does a role that may read only some of its columns.",
        "Before such DDL: embedtui view --drop, and embedtui view after it.",
    )


def _check_inheritance(draft: Draft, found: Surroundings) -> Iterator[Check]:
    """Children that a backfill would not reach."""
    table = shown(draft.facts.table)
    if found.hypertable:
        yield Check(
            "inheritance",
            "fail",
            f"{table} is a hypertable of TimescaleDB, whose chunks a backfill would not reach.",
            "embedtui cannot move hypertables yet. Leave the inheritance as it is.",
        )
    elif draft.facts.inherits:
        yield Check(
            "inheritance",
            "fail",
            f"{table} takes part in old-style inheritance, whose children a backfill would not reach.",
            "Use declarative partitioning, or migrate each table by itself after NO INHERIT.",
        )


def _check_as_closed(draft: Draft, found: Surroundings, migration: Migration) -> Iterator[Check]:
    """What a side table does to be as closed as the table itself."""
    table = shown(draft.facts.table)
    closing = [each.name for each in found.event_triggers if each.row_security and each.fires_on("CREATE TABLE")]
    if not draft.facts.row_security and not closing:
        return
    why = f"{table} has row security" if draft.facts.row_security else ""
    why = why or f"Event trigger {shown_column(closing[0])} puts row security on new tables"
    detail = f"{why}: the side table gets policies that ask {table}, under the reader's own rights, for each row read."
    if not follows_by_foreign_key(migration):
        detail += f" While they are there, DROP TABLE {table} without CASCADE and a change of its key's types fail."
    yield Check(
        "row security of the new side",
        "warn",
        detail,
        'Workers need BYPASSRLS or the side table\'s ownership. placement = "column" needs no such look-up.',
    )


def _check_other_columns(conn: Connection[Any], migration: Migration, found: Surroundings) -> Iterator[Check]:
    """Vectors that would be left behind, or fit the new side by their size alone."""
    own = columns_being_filled(conn)
    new = (migration.new_table.schema, migration.new_table.name, migration.new_column)
    others = [
        each
        for each in found.other_columns
        if (each.schema, each.name, each.column) not in own and (each.schema, each.name, each.column) != new
    ]
    if not others:
        return
    names = [
        f"{shown(TableName(each.schema, each.name))}.{shown_column(each.column)}"
        f" ({each.size if each.size > 0 else 'any size'})"
        for each in others[:NAMED]
    ]
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    yield Check(
        "other vectors",
        "warn",
        f"Other columns hold vectors that fit one of the two models by size: {', '.join(names)}{more}. Where they are"
        " compared with this one (a query cache, a second column), searches go wrong at the switch without an error.",
        "Find out which model filled each; empty caches at the cutover, move the others as well.",
    )
