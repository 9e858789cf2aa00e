"""The checks of the plan: each with a result, a reason and a hint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from embedtui.arrays import np
from embedtui.config import Settings
from embedtui.engine.plan.contents import text_check
from embedtui.engine.plan.draft import Draft
from embedtui.engine.plan.estimates import TextEstimate
from embedtui.engine.plan.model_checks import model_checks
from embedtui.engine.plan.own_writes import own_write_checks
from embedtui.engine.plan.presets.checks import framework_checks
from embedtui.engine.plan.scope import scope_checks
from embedtui.engine.plan.server import routine_checks
from embedtui.engine.plan.surroundings import surrounding_checks
from embedtui.engine.plan.text_table import text_table_checks
from embedtui.engine.plan.vectors import length_check, vector_checks
from embedtui.formatting import counted
from embedtui.model import Blocker, Check, Command, FaultClass, IndexMethod, Migration, Phase, PlacementKind, Remedy
from embedtui.model.lifecycle import as_stored, refusal
from embedtui.postgres.catalog.server import version_tuple
from embedtui.postgres.catalog.tables import exists
from embedtui.postgres.names import relation, shown, shown_column
from embedtui.postgres.sides.layout import follows_by_foreign_key
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state.pointer import read_status, route_epoch
from embedtui.providers import ProviderFault, RateLimits, endpoint, shown_endpoint
from embedtui.providers.asking import asks_queries_otherwise
from embedtui.providers.patience import Asking
from embedtui.providers.start import TEXTS, first_answer
from embedtui.redaction import redact

DATABASE_CHECKS = frozenset({"server", "rights", "writable", "state schema", "row security"})
"""Checks whose failure is the database's or the role's, so its error and exit code are, too."""


def standing_checks(conn: Connection[Any], draft: Draft, migration: Migration, settings: Settings) -> Iterator[Check]:
    """All checks but those of a migration's load, its texts and its provider."""
    yield from _check_server(draft)
    yield from _check_rights(draft, migration)
    yield from _check_index_method(conn, migration)
    yield from routine_checks(conn, draft, settings)
    yield from _check_table(draft, migration.placement)
    yield from own_write_checks(conn, draft, migration)
    yield from _check_generated(draft, migration)
    yield from _check_foreign_key(draft, migration)
    yield from scope_checks(conn, migration, settings)
    yield from _check_new_side(conn, draft, migration)
    yield from _check_old_side(conn, draft, migration, settings)
    yield from vector_checks(conn, draft, migration, settings)
    yield from text_table_checks(draft.elsewhere, migration, draft.server.role)
    if draft.elsewhere is None:
        yield from framework_checks(conn, draft.facts, draft.preset, draft.content, scoped=draft.scope is not None)
    yield from surrounding_checks(conn, draft, migration, settings)
    yield from _check_replication(draft, migration.placement, settings)
    yield from model_checks(migration, settings)


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
            "A connection pooler sits between; transaction pooling would lose time-outs and locks.",
            "Connect to the server's own port.",
        )
    if not server.reads_all_stats:
        yield Check(
            "statistics",
            "warn",
            f"Role {server.role} does not see other sessions' statements, so holders of locks stay unnamed.",
            f"GRANT pg_read_all_stats TO {shown_column(server.role)};",
        )


def _check_rights(draft: Draft, migration: Migration) -> Iterator[Check]:
    facts, server, placement = draft.facts, draft.server, migration.placement
    role, table = shown_column(server.role), shown(facts.table)
    missing: list[str] = []
    scan = ""
    grants: list[str] = []

    def need(held: bool, what: str, grant: str) -> None:
        if not held:
            missing.append(what)
            grants.append(grant)

    schema = shown_column(facts.table.schema)
    if placement is PlacementKind.TABLE or migration.index_method is not IndexMethod.NONE:  # an index, too
        need(facts.may_create_in_schema, f"create in schema {schema}", f"GRANT CREATE ON SCHEMA {schema} TO {role}")
    if placement is PlacementKind.COLUMN:
        need(facts.is_owner, f"own {table}", f"GRANT {shown_column(facts.owner)} TO {role}")
        need(facts.may_update, f"update {table}", f"GRANT UPDATE ON {table} TO {role}")
    else:
        if migration.stored.by_triggers:  # a trigger that a subscription's worker fires as well is its owner's to make
            owner = f"GRANT {shown_column(facts.owner)} TO {role}"
            need(facts.is_owner, f"put triggers on {table} that always fire", owner)
            scan = "" if facts.is_owner else ' Or set change_capture = "scan": no trigger is made then.'
        if follows_by_foreign_key(migration):
            need(facts.may_reference or facts.is_owner, f"refer to {table}", f"GRANT REFERENCES ON {table} TO {role}")
        need(facts.may_update, f"lock rows of {table}", f"GRANT UPDATE ON {table} TO {role}")
    if missing:
        yield Check("rights", "fail", f"Role {role} may not {', '.join(missing)}.", "; ".join(grants) + f";{scan}")
    else:
        yield Check("rights", "pass", f"{role} has what it needs on {table}")
    if not server.may_create_schema:
        hint = f"GRANT CREATE ON DATABASE {shown_column(server.database)} TO {role};"
        if server.state_schema:
            hint = f"GRANT CREATE, USAGE ON SCHEMA embedtui TO {role};"
        yield Check("state schema", "fail", f"Role {role} may not create in schema embedtui.", hint)


def _check_index_method(conn: Connection[Any], migration: Migration) -> Iterator[Check]:
    """Whether this pgvector can build the index, before anything is paid for."""
    method, kind = migration.index_method.value, f"{migration.vector_type}_{migration.distance.value}_ops"
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_opclass c JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.opcnamespace"
        " WHERE m.amname = %s AND c.opcname = %s AND n.nspname = %s)",
        [method, kind, migration.vector_schema],
    ).fetchone()
    if migration.index_method is not IndexMethod.NONE and not (row and row[0]):
        yield Check(
            "index method",
            "fail",
            f"This pgvector has no {method} index for {kind}.",
            'ALTER EXTENSION vector UPDATE; or index.method = "ivfflat" or "none".',
        )


def _check_table(draft: Draft, placement: PlacementKind) -> Iterator[Check]:
    facts = draft.facts
    key = ", ".join(map(shown_column, draft.key.columns))
    yield Check("key", "pass", f"{key} ({draft.key.name})")
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
        yield Check(
            "new column",
            "warn",
            "A new column breaks prepared SELECT * and RETURNING *, and COPY and INSERT … SELECT * without columns. The"
            " backfill gives each row a new version: what goes by xmin (a loader that reads what changed, a mapper's"
            " concurrency token) sees every row changed, and a REPEATABLE READ or SERIALIZABLE transaction that changes"
            " a row which was written since it began has to be tried again, as beside any other writer.",
            "Name the columns there, or use placement table.",
        )
    yield from _check_columns(draft)
    for notice in draft.notices:
        yield Check("notice", "warn", notice)


def _check_columns(draft: Draft) -> Iterator[Check]:
    facts = draft.facts
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


def _check_generated(draft: Draft, migration: Migration) -> Iterator[Check]:
    """Columns that PostgreSQL makes: none can be written, and no trigger is told a value that is not stored."""
    old = draft.facts.column(draft.old_column)
    if old is not None and old.generated:
        yield Check(
            "old column",
            "fail",
            f"{shown_column(old.name)} is a generated column: nobody can write it, so no rollback could be kept fresh.",
            "Migrate the column that it is made of (--column).",
        )
    named = [*migration.content_columns, *(() if migration.scope is None else migration.scope.names)]
    columns = [draft.facts.column(name) for name in dict.fromkeys(named)]
    if draft.elsewhere is not None and migration.text_table is not None:
        columns += [draft.elsewhere.facts.column(name) for name in migration.text_table.text.names]
    virtual = [shown_column(column.name) for column in columns if column is not None and column.generated == "v"]
    if virtual and migration.stored.by_triggers:
        yield Check(
            "virtual columns",
            "fail",
            f"{', '.join(virtual)}: virtual generated columns, whose values no trigger is told, so no change of them"
            " would be captured.",
            'Write what they are made of instead (content_sql, scope), or set change_capture = "scan".',
        )


def _check_foreign_key(draft: Draft, migration: Migration) -> Iterator[Check]:
    """What the application could do to its table until now, and could not while a foreign key refers to it."""
    if not follows_by_foreign_key(migration):
        return
    mend = "foreign_key = false: triggers keep the side table in step, and all of that works as before."
    table = shown(draft.facts.table)
    if draft.facts.persistence == "u":
        yield Check("foreign key", "fail", f"{table} is unlogged: no logged side table may refer to it.", mend)
        return
    if not draft.key.referable:
        yield Check(
            "foreign key", "fail", f"No foreign key can refer to {draft.key.name}, by its columns' types.", mend
        )
        return
    fails = ["TRUNCATE and DROP TABLE without CASCADE", "SET UNLOGGED", "a change of its key's columns or their types"]
    if draft.facts.kind == "partitioned":
        fails[1] = "DETACH PARTITION, DROP or TRUNCATE of a partition"
    detail = f"The side table refers to {table}; while it does, these can fail there: {', '.join(fails)}."
    yield Check("foreign key", "warn", detail, mend)


def _check_new_side(conn: Connection[Any], draft: Draft, migration: Migration) -> Iterator[Check]:
    live = state.load_migration(conn, migration.name)
    if live is not None and not live.phase.ended and live.table_oid == draft.facts.oid:
        yield _under_way(live, refusal(Command.ABORT, as_stored(live, read_status(conn, live))))
        return
    if live is not None and live.phase.ended and route_epoch(conn, live) is not None:
        yield from _check_route(conn, draft, migration, live)
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
                "A finished migration left it, and searches may use it. Choose another name: --new-column."
                if state.finished_model(conn, draft.facts.oid, migration.new_column) is not None
                else "Choose another name (--new-column), or drop what is left of an earlier attempt.",
            )
    elif exists(conn, migration.new_table):
        yield Check(
            "new side",
            "fail",
            f"{shown(migration.new_table)} exists already.",
            "Choose another name (new_table), or drop what is left of an earlier attempt.",
        )


def _under_way(live: Migration, stays: Blocker | None) -> Check:
    """The migration that there is already, and what its phase allows; ``stays``: why an abort is refused."""
    said = f"A migration of {shown(live.table)} is under way (phase {live.phase.value})"
    if stays is None:
        return Check("migration", "warn", f"{said}; an abort takes it back.", "Go on with it.", (Remedy.RUN,))
    return Check(
        "migration", "warn", f"{said}, and no abort takes it back now. {stays.message}", stays.hint, stays.remedies
    )


def _check_route(conn: Connection[Any], draft: Draft, migration: Migration, ended: Migration) -> Iterator[Check]:
    """The route of an ended migration is taken over only where that moves nobody: who follows it reads its vectors."""
    done = ended.phase is Phase.DONE
    column = ended.new_column if done else ended.old_column
    if done and ended.placement is PlacementKind.TABLE:
        table, oid = ended.new_table, "SELECT to_regclass(%s)::oid::int8"
        row = conn.execute(oid, [relation(table).as_string(conn)]).fetchone()
        served = row[0] if row is not None else None
    else:
        table, served = ended.table, ended.table_oid
    query = "SELECT FROM pg_attribute WHERE attrelid = %s AND attname = %s AND NOT attisdropped"
    if served is None or conn.execute(query, [served, column]).rowcount == 0:
        return  # what it served is gone
    same_rows = not done or ended.scope == migration.scope
    if (served, column) == (draft.facts.oid, migration.old_column) and same_rows:
        return
    rows = f", {redact(ended.scope.given)}" if ended.scope is not None else ""
    yield Check(
        "name",
        "fail",
        f"The route {ended.name} serves {shown(table)}.{shown_column(column)}{rows}, since a migration that is"
        f" {ended.phase}: who follows it would be moved to other vectors.",
        "Give this one a name of its own: --name.",
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
    hint = f'For another migration set old_model.name = "{left.name}" and another new model.'
    if named is not None:
        yield Check("old model", "fail", f"{detail}; the settings say {named}.", hint)
    elif (left.name, left.shape, left.document_prefix) == (new.name, new.shape, new.document_prefix):
        yield Check("old model", "fail", f"{detail}: nothing is left to do.", hint)
    else:
        yield Check("old model", "warn", f"{detail}; the settings name no old model.", hint)


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


def text_checks(conn: Connection[Any], draft: Draft, migration: Migration, estimate: TextEstimate) -> Iterator[Check]:
    """The texts as they will be sent, and those that are likely over the model's limit."""
    model = migration.new_model
    shown_texts = text_check(conn, draft.elsewhere.facts if draft.elsewhere else draft.facts, migration)
    if shown_texts is not None:
        yield shown_texts
    if estimate.long:
        yield Check(
            "long texts",
            "warn",
            f"About {counted(estimate.long, 'text is', 'texts are')} likely over {model.name}'s"
            f" {model.max_input_tokens:,} tokens.",
            "They will be listed as faulty, to be shortened or skipped.",
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of asking the provider: its check, and what else the reply told."""

    check: Check
    limits: RateLimits | None = None
    length: float | None = None
    """Of the vector that came."""

    def checks(self, draft: Draft, settings: Settings) -> Iterator[Check]:
        """The check, and whether the vector suits the distance."""
        yield self.check
        found = None if self.length is None else length_check(draft, settings, self.length)
        if found is not None:
            yield found


def endpoint_check(settings: Settings, migration: Migration) -> Check:
    """Where texts are sent: all of them to the new model, some to the old one."""
    new, old = (shown_endpoint(each, settings.environ) for each in (migration.new_model, migration.old_model))
    detail = f"Texts go to {new or 'no known endpoint'}."
    if not migration.old_model.unasked:
        detail += (
            f" The old model is asked at {old or 'no known endpoint'}: for the proof, queries, and edits after the"
        )
        detail += " cutover."
    return Check("endpoints", "pass", detail)


def provider_check(settings: Settings, migration: Migration, ask: bool, asking: Asking | None = None) -> Answer:
    """Whether the provider serves the new model, with a request for two texts if ``ask``.

    Raises Interrupted: whoever is ``asking`` waits no longer.
    """
    model = migration.new_model
    try:
        if not ask:
            endpoint(model, settings.environ)
            detail = f"{model.name} was not asked."
            return Answer(Check("provider", "unknown", detail, "Ask it for one vector.", (Remedy.ASK,)))
        with (asking or Asking()).embedder(model, settings.environ) as embedder:
            reply = first_answer(embedder, model)
            if asks_queries_otherwise(model):
                embedder.embed(TEXTS[:1], kind="query")
    except ProviderFault as fault:
        # busy or away: the run waits for it and says so
        result = "warn" if fault.fault_class is FaultClass.PROVIDER else "fail"
        return Answer(Check("provider", result, fault.reason, fault.hint))
    detail = f"{model.name} answered with {model.shape.given} dimensions in {reply.seconds:.1f} s"
    detail += ", divided by their length" if model.normalise else ""
    length = float(np.linalg.norm(reply.vectors[0]))
    return Answer(Check("provider", "pass", ". ".join([detail, *reply.remarks])), reply.limits, length)
