"""The plan: what a migration would do, find and cost, found out without changing anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from psycopg import Connection, sql

from embedtui.config import CHARACTERS_PER_TOKEN, SPECS, ModelSettings, Settings
from embedtui.errors import DatabaseError, EmbedtuiError, ProviderError, Refused
from embedtui.formatting import counted
from embedtui.model import Check, FaultClass, IndexMethod, Migration, PlacementKind, Plan, Remedy
from embedtui.postgres import indexes
from embedtui.postgres.catalog.discover import (
    Draft,
    RowTrigger,
    find_table,
    migration_name,
    resolve,
    shown,
    shown_column,
    version_tuple,
)
from embedtui.postgres.ddl import readable_seconds
from embedtui.postgres.sides import capture
from embedtui.postgres.sides.placement import content_sql, has_content_sql, make_placement
from embedtui.postgres.state import migrations as state
from embedtui.providers import EmbedReply, ProviderFault, RateLimits, make_embedder

FULL_SCAN_BYTES = 64 * 2**20
"""A table up to this size is read as a whole for the estimate (a fraction of a second); of a bigger one, a sample."""

SAMPLE_ROWS = 20_000

LONG_TRANSACTION_SECONDS = 600

_DATABASE_CHECKS = {"server", "rights", "writable", "state schema", "row security"}


@dataclass(frozen=True, slots=True)
class TextEstimate:
    """Rows and their texts; from a sample where ``exact`` is false."""

    rows: int
    empty: int
    """Rows with nothing to embed."""
    bytes: int
    """UTF-8 bytes of the texts to embed."""
    long: int
    """Rows that are likely over the model's tokens per input."""
    exact: bool


def make_plan(conn: Connection[Any], settings: Settings, *, check_provider: bool = False) -> Plan:
    """What a migration by these settings would do. Reads only; no request unless ``check_provider`` (one, of a word).

    Settings that name no table mean the migration under way, where there is one.

    Raises the errors of :func:`embedtui.postgres.discover.resolve`: no plan without a table, a key and two models.
    """
    if settings.table is None:
        settings = _of_live_migration(conn, settings)
    draft = resolve(conn, settings)
    placement, why = choose_placement(draft, settings)
    migration = _numbered(conn, draft.migration(placement))
    estimate = estimate_texts(conn, migration, draft)
    tokens = estimate_tokens(migration, estimate)
    price = migration.new_model.price_per_million
    provider, limits = _check_provider(settings, migration, check_provider)
    checks = [
        *_standing_checks(conn, draft, migration, settings),
        *_check_load(conn, draft, migration, estimate),
        *_check_texts(migration, estimate),
        provider,
    ]
    return Plan(
        table=migration.table,
        rows=estimate.rows,
        empty_rows=estimate.empty,
        estimated_tokens=tokens,
        estimated_cost=None if price is None else tokens / 1e6 * price,
        estimated_seconds=estimate_seconds(settings, limits, migration, estimate, tokens),
        placement=placement,
        placement_why=why,
        checks=tuple(checks),
        statements=plan_statements(conn, migration, settings),
    )


def _of_live_migration(conn: Connection[Any], settings: Settings) -> Settings:
    """The settings with all that the migration under way has stored; as they are where there is none."""
    live = state.load_migration(conn, migration_name(conn, settings))
    if live is None or live.phase.ended:
        return settings
    values: dict[str, object] = {
        "name": live.name,
        "table": live.table.name,
        "schema": live.table.schema,
        "key": live.key_columns,
        "content": live.content_columns,
        "old_column": live.old_column,
        "placement": live.placement.value,
        "distance": live.distance.value,
        "halfvec": live.vector_type == "halfvec",
    }
    if live.placement is PlacementKind.TABLE:
        values["new_table"] = live.new_table.name
    if live.new_column != live.old_column:  # a side table's may well have the same name
        values["new_column"] = live.new_column
    for side, model in (("old_model", live.old_model), ("new_model", live.new_model)):
        values |= {f"{side}.{each.name}": getattr(model, each.name) for each in fields(ModelSettings)}
    for head, stored in live.settings.items():
        values |= (
            {f"{head}.{name}": value for name, value in stored.items()} if isinstance(stored, dict) else {head: stored}
        )
    known = {spec.path for spec in SPECS}
    return settings.with_values(
        {path: value for path, value in values.items() if path in known and value is not None},
        "the migration under way",
    )


def require_startable(conn: Connection[Any], settings: Settings) -> None:
    """Refuse to start or go on by these settings before anything is changed. Reads only.

    A new migration's provider is asked for one vector, so that a wrong key, model or size leaves nothing behind. One
    that is under way has to be the one that the settings describe.

    Raises Refused, and what ``resolve`` and ``require_ready`` raise.
    """
    known = state.load_migration(conn, migration_name(conn, settings))
    if known is None or known.phase.ended:
        require_ready(conn, resolve(conn, settings), settings, ask=True)
        return
    model, table = known.new_model, known.table
    if settings.table is not None and find_table(conn, settings.table, settings.schema)[0] != known.table_oid:
        raise Refused(f"The migration {known.name} is that of {shown(table)}.", hint="Say which one: --name.")
    for what, stored, asked in (
        ("model", model.name, settings.new_model.name),
        ("dimensions", str(model.dimensions), str(settings.new_model.dimensions or model.dimensions)),
        ("content", ", ".join(known.content_columns), ", ".join(settings.content)),
    ):
        if asked and asked != stored:
            raise Refused(
                f"The migration {known.name} is under way with {what} {stored}, and the settings say {asked}.",
                hint=f"Set it back, or give it up first: embedtui abort --table {shown_column(table.name)}",
            )


def require_ready(conn: Connection[Any], draft: Draft, settings: Settings, *, ask: bool = False) -> PlacementKind:
    """Refuse to begin what the plan's checks say cannot work; return the placement to begin with.

    Reads only; ``ask`` makes one request for one vector. A provider that is only busy or away is no reason to refuse.

    Raises the error of the first failed check: DatabaseError, ProviderError or Refused.
    """
    placement, _ = choose_placement(draft, settings)
    migration = draft.migration(placement)
    provider, _ = _check_provider(settings, migration, ask=ask)
    for check in (*_standing_checks(conn, draft, migration, settings), provider):
        if check.result == "fail":
            kind: type[EmbedtuiError] = Refused
            if check.name in _DATABASE_CHECKS:
                kind = DatabaseError
            elif check.name == "provider":
                kind = ProviderError
            raise kind(check.detail, hint=check.mend, remedies=check.remedies)
    return placement


def _standing_checks(conn: Connection[Any], draft: Draft, migration: Migration, settings: Settings) -> Iterator[Check]:
    """The checks that take no look at the rows."""
    yield from _check_server(draft)
    yield from _check_rights(draft, migration.placement)
    yield from _check_table(draft, migration.placement)
    yield from _check_new_side(conn, draft, migration)
    yield from _check_old_side(conn, draft, migration, settings)
    yield from _check_replication(draft, migration.placement, settings)
    yield from _check_models(migration, settings)


# --------------------------------------------------------------------------------------------------- placement


def choose_placement(draft: Draft, settings: Settings) -> tuple[PlacementKind, str]:
    """The placement, and why: the one that was set, else the one that the facts speak for.

    Beside the old column is the default: one table, one search. A side table where a new column would stop
    subscribers, fire the application's triggers on every row, or needs an ownership that this role lacks; and where the
    old index is so big that the updates which do leave their page would hurt.
    """
    reasons = list(_for_a_side_table(draft))
    if settings.placement is not None:
        origin = settings.origin("placement")
        if settings.placement is PlacementKind.COLUMN and reasons:
            return PlacementKind.COLUMN, f"as set ({origin}), though {'; '.join(reasons)}"
        return settings.placement, f"as set ({origin})"
    if reasons:
        return PlacementKind.TABLE, "; ".join(reasons)
    return (
        PlacementKind.COLUMN,
        "no row trigger, no publication and no big index on the old column speak for a side table",
    )


def _for_a_side_table(draft: Draft) -> Iterator[str]:
    facts = draft.facts
    table = shown(facts.table)
    if not facts.is_owner:
        yield f"adding a column takes the owner of {table}, and {draft.server.role} is not"
    carried = [publication.name for publication in facts.publications if not publication.columns]
    if carried:
        yield f"publication {', '.join(carried)} would carry a new column to subscribers that do not have it"
    if facts.subscribed:
        yield f"{table} is the target of a subscription"
    fired = _fired_by_update(draft)
    if fired:
        yield f"an update of every row would fire {', '.join(trigger.name for trigger in fired)}"
    big = max((index.bytes for index in facts.indexes_on(draft.old_column)), default=0)
    if big > draft.server.shared_buffers:
        yield (
            f"the old index ({readable_bytes(big)}) is bigger than shared_buffers"
            f" ({readable_bytes(draft.server.shared_buffers)}), and some updates have to touch it"
        )


def _fired_by_update(draft: Draft) -> list[RowTrigger]:
    """The application's row triggers that an update of the new column alone would fire."""
    return [
        trigger for trigger in draft.facts.triggers if trigger.enabled and trigger.on_update and not trigger.columns
    ]


# --------------------------------------------------------------------------------------------------- estimates


def estimate_texts(conn: Connection[Any], migration: Migration, draft: Draft) -> TextEstimate:
    """Count rows and texts: all of a small table, a sample of the blocks of a bigger one."""
    facts = draft.facts
    size = facts.total_bytes - sum(index.bytes for index in facts.indexes)
    exact = size <= FULL_SCAN_BYTES or not facts.rows
    percent = 100.0 if exact else min(100.0, max(0.001, 100 * SAMPLE_ROWS / (facts.rows or 1)))
    row = conn.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE NOT {has}),"
            " coalesce(sum(octet_length({text})) FILTER (WHERE {has}), 0)::int8,"
            " count(*) FILTER (WHERE {has} AND octet_length({text}) > {limit})"
            " FROM {table} AS t{sample}"
        ).format(
            has=has_content_sql(migration, "t"),
            text=content_sql(migration, "t"),
            limit=sql.Literal(int(migration.new_model.max_input_tokens * CHARACTERS_PER_TOKEN)),
            table=sql.Identifier(migration.table.schema, migration.table.name),
            sample=sql.SQL("" if exact else f" TABLESAMPLE SYSTEM ({percent:.6f})"),
        )
    ).fetchone()
    assert row is not None
    counted, empty, size_of_texts, long = row
    if exact or not counted:
        return TextEstimate(counted, empty, size_of_texts, long, exact)
    factor = (facts.rows or counted) / counted
    return TextEstimate(
        facts.rows or counted, round(empty * factor), round(size_of_texts * factor), round(long * factor), False
    )


def estimate_tokens(migration: Migration, estimate: TextEstimate) -> int:
    """Tokens of the texts with their prefixes, at four bytes each.

    Bytes and not characters: where a character takes three bytes (Chinese, Japanese), it is near to a token of its own.
    """
    prefix = len(migration.new_model.document_prefix.encode()) * (estimate.rows - estimate.empty)
    return math.ceil((estimate.bytes + prefix) / CHARACTERS_PER_TOKEN)


def estimate_seconds(
    settings: Settings, limits: RateLimits | None, migration: Migration, estimate: TextEstimate, tokens: int
) -> float | None:
    """The time that the provider's quota imposes, in seconds; None where no quota is known.

    The quota is the smaller of the set and the told one. Requests are counted as full as the provider allows.
    """
    model, pacing = migration.new_model, settings.pacing
    told = limits or RateLimits()
    per_minute = [value for value in (pacing.tokens_per_minute, told.limit_tokens) if value]
    requests_per_minute = [value for value in (pacing.requests_per_minute, told.limit_requests) if value]
    rows = estimate.rows - estimate.empty
    requests = max(math.ceil(tokens / model.max_tokens), math.ceil(rows / model.max_inputs))
    minutes = [tokens / min(per_minute)] if per_minute else []
    minutes += [requests / min(requests_per_minute)] if requests_per_minute else []
    return max(minutes) * 60 if minutes else None


# -------------------------------------------------------------------------------------------------- statements


def plan_statements(conn: Connection[Any], migration: Migration, settings: Settings) -> tuple[str, ...]:
    """The SQL that prepare and index would run, in order, as text.

    The tables of schema ``embedtui`` are named, not spelled out: they are the same in every migration.
    """
    statements: list[str] = [
        "CREATE SCHEMA IF NOT EXISTS embedtui; -- and its own tables, where they are not there yet"
    ]
    statements += [_text(conn, statement) for statement in make_placement(migration).prepare_sql()]
    if settings.change_capture == "triggers":
        statements += [_text(conn, statement) for statement in capture.install_sql(migration)]
    statements += [
        _text(conn, statement) for statement in indexes.create_sql(conn, migration, index_options(migration))
    ]
    return tuple(statements)


def index_options(migration: Migration) -> indexes.IndexOptions:
    """The index as the migration's settings ask for it."""
    chosen = migration.settings.get("index")
    values = chosen if isinstance(chosen, dict) else {}
    return indexes.IndexOptions(
        method=migration.index_method,
        **{name: value for name, value in values.items() if name != "method" and value is not None},
    )


def _text(conn: Connection[Any], statement: sql.Composable | str) -> str:
    text = statement if isinstance(statement, str) else statement.as_string(conn)
    return text.strip().rstrip(";") + ";"


def _numbered(conn: Connection[Any], migration: Migration) -> Migration:
    """The migration with the id it has, or would get next, since the names of triggers carry it."""
    live = state.load_migration(conn, migration.name)
    if live is not None and not live.phase.ended and live.table_oid == migration.table_oid:
        return replace(migration, id=live.id)
    return replace(migration, id=(live.id if live else 0) + 1)


# ------------------------------------------------------------------------------------------------------ checks


def _check_server(draft: Draft) -> Iterator[Check]:
    server = draft.server
    yield Check("server", "pass", f"PostgreSQL {server.version_text}, pgvector {server.vector_version}")
    if version_tuple(server.vector_version or "0") < (0, 8, 4):
        yield Check(
            "pgvector",
            "warn",
            f"pgvector {server.vector_version}: before 0.8.4 a vacuum could corrupt HNSW indexes.",
            "Upgrade pgvector first: ALTER EXTENSION vector UPDATE;",
        )
    if server.standby or server.read_only:
        yield Check(
            "writable",
            "fail",
            "This server is a standby." if server.standby else "Transactions are read-only here.",
            f"Point the connection string at the primary, as a role that may write to {server.database}.",
        )
    if server.pooled:
        yield Check(
            "pooling",
            "warn",
            "A connection pooler sits between; transaction pooling would lose temporary tables and locks.",
            "Connect to the server's own port.",
        )
    if not server.reads_all_stats:
        yield Check(
            "statistics",
            "warn",
            f"Role {server.role} does not see other sessions' statements, so holders of locks stay unnamed.",
            f"GRANT pg_read_all_stats TO {shown_column(server.role)};",
        )


def _check_rights(draft: Draft, placement: PlacementKind) -> Iterator[Check]:
    facts, server = draft.facts, draft.server
    role, table = shown_column(server.role), shown(facts.table)
    missing: list[str] = []
    grants: list[str] = []

    def need(held: bool, what: str, grant: str) -> None:
        if not held:
            missing.append(what)
            grants.append(grant)

    if placement is PlacementKind.COLUMN:
        need(facts.is_owner, f"own {table}", f"GRANT {shown_column(facts.owner)} TO {role}")
        need(facts.may_update, f"update {table}", f"GRANT UPDATE ON {table} TO {role}")
    else:
        schema = shown_column(facts.table.schema)
        need(facts.may_create_in_schema, f"create in schema {schema}", f"GRANT CREATE ON SCHEMA {schema} TO {role}")
        need(facts.may_trigger or facts.is_owner, f"put triggers on {table}", f"GRANT TRIGGER ON {table} TO {role}")
        need(facts.may_reference or facts.is_owner, f"refer to {table}", f"GRANT REFERENCES ON {table} TO {role}")
        need(facts.may_update, f"lock rows of {table}", f"GRANT UPDATE ON {table} TO {role}")
    if missing:
        yield Check("rights", "fail", f"Role {role} may not {', '.join(missing)}.", "; ".join(grants) + ";")
    else:
        yield Check("rights", "pass", f"{role} has what it needs on {table}")
    if not server.may_create_schema:
        mend = f"GRANT CREATE ON DATABASE {shown_column(server.database)} TO {role};"
        if server.state_schema:
            mend = f"GRANT CREATE, USAGE ON SCHEMA embedtui TO {role};"
        yield Check("state schema", "fail", f"Role {role} may not create in schema embedtui.", mend)


def _check_table(draft: Draft, placement: PlacementKind) -> Iterator[Check]:
    facts = draft.facts
    key = ", ".join(map(shown_column, draft.key.columns))
    yield Check("key", "pass", f"{key} ({draft.key.name})")
    if facts.inherits:
        yield Check(
            "inheritance",
            "fail",
            f"{shown(facts.table)} takes part in old-style inheritance, whose children a backfill would not reach.",
            "Use declarative partitioning, or migrate each table by itself after NO INHERIT.",
        )
    if facts.rules:
        yield Check(
            "rules",
            "warn",
            f"Rules rewrite statements on the table: {', '.join(facts.rules)}.",
            "Make sure that they leave INSERT, UPDATE and DELETE their usual effect.",
        )
    if facts.persistence == "u":
        yield Check("unlogged", "warn", "The table is unlogged: a crash of the server empties it.")
    collisions = {"embedding", "model", "source"} & set(draft.key.columns)
    if placement is PlacementKind.TABLE and collisions:
        yield Check(
            "key",
            "fail",
            f"The key column {', '.join(sorted(collisions))} has the name of one of the side table's own.",
            "Use placement column.",
        )
    if placement is PlacementKind.COLUMN:
        fired = _fired_by_update(draft)
        if fired:
            yield Check(
                "triggers",
                "warn",
                f"The backfill updates every row and fires {', '.join(trigger.name for trigger in fired)}.",
                "Use placement table, unless that is harmless.",
            )
        yield Check(
            "new column",
            "warn",
            "A new column breaks prepared SELECT * and RETURNING *, and COPY and INSERT … SELECT * without columns.",
            "Name the columns there, or use placement table.",
        )
    old = facts.column(draft.old_column)
    if old is not None and old.not_null and not old.has_default:
        yield Check(
            "old column",
            "warn",
            f"{shown_column(old.name)} is NOT NULL: after the cutover, an insert that brings only a new vector fails.",
            f"ALTER TABLE {shown(facts.table)} ALTER {shown_column(old.name)} DROP NOT NULL;",
        )
    dependents = facts.dependents_on(draft.old_column)
    if dependents:
        yield Check(
            "dependents",
            "warn",
            f"Depend on {shown_column(draft.old_column)}: "
            f"{', '.join(f'{each.kind} {each.name}' for each in dependents)}.",
            "The cleanup will stop at them: change them to the new side before it.",
        )
    for notice in draft.notices:
        yield Check("notice", "warn", notice)


def _check_new_side(conn: Connection[Any], draft: Draft, migration: Migration) -> Iterator[Check]:
    live = state.load_migration(conn, migration.name)
    if live is not None and not live.phase.ended and live.table_oid == draft.facts.oid:
        yield Check(
            "migration",
            "warn",
            f"A migration of {shown(migration.table)} is under way (phase {live.phase.value}).",
            "Go on with it, or take it back by an abort.",
            (Remedy.RUN,),
        )
        return
    if live is not None and not live.phase.ended:
        yield Check(
            "name",
            "fail",
            f"The name {live.name} is that of {shown(live.table)}'s migration, which is under way.",
            "Choose another one: --name.",
        )
    if migration.placement is PlacementKind.COLUMN:
        names = [migration.new_column, f"{migration.new_column}_model", f"{migration.new_column}_source"]
        taken = [name for name in names if draft.facts.column(name)]
        if taken:
            yield Check(
                "new side",
                "fail",
                f"{shown(migration.table)} has a column {', '.join(map(shown_column, taken))} already.",
                "Choose another name (--new-column), or drop what is left of an earlier attempt.",
            )
    else:
        row = conn.execute(
            "SELECT to_regclass(%s) IS NOT NULL",
            [sql.Identifier(migration.new_table.schema, migration.new_table.name).as_string(conn)],
        ).fetchone()
        if row and row[0]:
            yield Check(
                "new side",
                "fail",
                f"{shown(migration.new_table)} exists already.",
                "Choose another name (new_table), or drop what is left of an earlier attempt.",
            )


def _check_old_side(conn: Connection[Any], draft: Draft, migration: Migration, settings: Settings) -> Iterator[Check]:
    """What a finished migration left in the old column is known: by another model's name it would be searched wrongly.

    The settings of that migration, used once more, say just that, or would pay for the same vectors again.
    """
    left = state.finished_model(conn, draft.facts.oid, draft.old_column)
    named, new = settings.old_model.name, migration.new_model
    if left is None or left.name == named:
        return
    detail = f"A finished migration left vectors of {left.name} in {shown_column(draft.old_column)}"
    mend = f'For another migration set old_model.name = "{left.name}" and another new model.'
    if named is not None:
        yield Check("old model", "fail", f"{detail}; the settings say {named}.", mend)
    elif (left.name, left.dimensions, left.document_prefix) == (new.name, new.dimensions, new.document_prefix):
        yield Check("old model", "fail", f"{detail}: nothing is left to do.", mend)
    else:
        yield Check("old model", "warn", f"{detail}; the settings name no old model.", mend)


def _check_replication(draft: Draft, placement: PlacementKind, settings: Settings) -> Iterator[Check]:
    facts = draft.facts
    # embedtui's own tables, and a side table in the same schema, would be carried to a subscriber without them
    wide = [each.name for each in facts.publications if each.scope == "all"]
    wide += [each.name for each in facts.publications if each.scope == "schema" and placement is PlacementKind.TABLE]
    if wide:
        accepted = "publications" in settings.accept
        yield Check(
            "publications",
            "warn" if accepted else "fail",
            f"Publication {', '.join(wide)} carries new tables too: its subscribers stop until they have them.",
            'Create schema embedtui and the new side on the subscribers first, then set accept = ["publications"].',
        )
    carried = [each.name for each in facts.publications if not each.columns and each.name not in wide]
    if carried and placement is PlacementKind.COLUMN:
        yield Check(
            "publications",
            "warn",
            f"Publication {', '.join(carried)} would carry the new column: subscribers stop until they have it.",
            "Add the column on the subscribers first, or use placement table.",
        )
    if facts.subscribed:
        yield Check(
            "subscription",
            "warn",
            f"{shown(facts.table)} is filled by a subscription; its rows are captured too (ENABLE ALWAYS).",
        )


def _check_load(conn: Connection[Any], draft: Draft, migration: Migration, estimate: TextEstimate) -> Iterator[Check]:
    server = draft.server
    rows = estimate.rows - estimate.empty
    width = 2 if migration.vector_type == "halfvec" else 4
    vectors = rows * (migration.new_model.dimensions * width + 8)
    if migration.index_method is IndexMethod.HNSW:
        options = index_options(migration)
        memory = indexes.forecast(rows, migration.new_model.dimensions, options.m, migration.vector_type)
        allowed = server.maintenance_work_mem
        if options.maintenance_work_mem is not None:
            row = conn.execute("SELECT pg_size_bytes(%s)", [options.maintenance_work_mem]).fetchone()
            allowed = int(row[0]) if row else allowed
        if memory > allowed:
            yield Check(
                "index memory",
                "warn",
                f"The HNSW build wants about {readable_bytes(memory)}; maintenance_work_mem is "
                f"{readable_bytes(allowed)}, beyond which it slows to a crawl.",
                "Raise it for the build, if the server has the memory: "
                f'index.maintenance_work_mem = "{math.ceil(memory / 2**20)}MB".',
            )
        else:
            yield Check("index memory", "pass", f"about {readable_bytes(memory)} for the HNSW build")
    yield Check(
        "disk",
        "unknown",
        f"The new vectors take about {readable_bytes(vectors)}, an HNSW index on them about as much again; "
        "the server does not say what is free.",
    )
    if server.prepared_transactions:
        yield Check(
            "prepared transactions",
            "warn",
            f"{counted(server.prepared_transactions, 'prepared transaction holds', 'prepared transactions hold')} back"
            " pruning and the index build.",
            "See pg_prepared_xacts; COMMIT PREPARED or ROLLBACK PREPARED what is there.",
        )
    row = conn.execute(
        "SELECT count(*), coalesce(max(extract(epoch FROM now() - xact_start)), 0)::int FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " AND xact_start < now() - make_interval(secs => %s)",
        [LONG_TRANSACTION_SECONDS],
    ).fetchone()
    if row and row[0]:
        yield Check(
            "long transactions",
            "warn",
            f"{row[0]} open for up to {readable_seconds(row[1])}: DDL and the index build wait until they end.",
            "Look for `idle in transaction` in pg_stat_activity.",
        )


def _check_texts(migration: Migration, estimate: TextEstimate) -> Iterator[Check]:
    model = migration.new_model
    if estimate.long:
        yield Check(
            "long texts",
            "warn",
            f"About {counted(estimate.long, 'text is', 'texts are')} likely over {model.name}'s"
            f" {model.max_input_tokens:,} tokens.",
            "They will be listed as faulty, to be truncated or skipped.",
        )


def _check_models(migration: Migration, settings: Settings) -> Iterator[Check]:
    new, old = migration.new_model, migration.old_model
    if new.price_per_million is None and settings.pacing.spend_cap is not None:
        yield Check(
            "price",
            "fail",
            f"A spend cap is set ({settings.origin('pacing.spend_cap')}), but the price of {new.name} is not known.",
            "Set new_model.price_per_million.",
        )
    elif new.price_per_million is None:
        yield Check("price", "unknown", f"The price of {new.name} is not known.", "Set new_model.price_per_million.")
    if new.retired:
        yield Check("new model", "fail", f"{new.name} is retired.", "Choose a model that is served.")
    if old.retired:
        yield Check(
            "old model",
            "warn",
            f"The old model ({old.name}) does not answer: after the cutover, a rollback finds edited rows stale.",
            "Nothing to do; the screen counts them.",
        )


def _check_provider(settings: Settings, migration: Migration, ask: bool) -> tuple[Check, RateLimits | None]:
    """The provider's check, with one request if ``ask``; and the limits it told."""
    model = migration.new_model
    try:
        embedder = make_embedder(model, timeout=20, environ=settings.environ)
        try:
            reply: EmbedReply | None = embedder.embed(["embedtui"], kind="document") if ask else None
        finally:
            embedder.close()
    except ProviderFault as fault:
        # busy or away: the run waits for it and says so
        result = "warn" if fault.fault_class is FaultClass.PROVIDER else "fail"
        return Check("provider", result, fault.reason, fault.hint), None
    if reply is None:
        detail = f"{model.name} was not asked."
        return Check("provider", "unknown", detail, "embedtui plan --check-provider asks it for one vector."), None
    detail = f"{model.name} answered with {reply.vectors.shape[1]} dimensions in {reply.seconds:.1f} s"
    return Check("provider", "pass", detail), reply.limits


def readable_bytes(size: float) -> str:
    """A size as people say it, in powers of 1,024."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"
