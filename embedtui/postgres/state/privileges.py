"""What each role may do in schema ``embedtui``, and the SQL that grants just that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from psycopg import sql

from embedtui.model import Migration, PlacementKind, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import follows_by_foreign_key, new_side

FUNCTIONS = ("route", "side_for", "search", "bridge", "put")
"""What an application may call; all run with its own rights."""


class Role(StrEnum):
    """Whose role it is."""

    OPERATOR = "operator"
    """Owns the table and schema ``embedtui``: prepares, builds the index, moves the pointer, cleans up."""
    WORKER = "worker"
    """Embeds, keeps both sides current, compares, verifies."""
    APPLICATION = "application"
    """Routes, searches and writes vectors, by Router or SQL."""
    WATCHER = "watcher"
    """Looks at the dashboard."""


@dataclass(frozen=True, slots=True)
class Right:
    """A privilege on a relation of schema ``embedtui``, or on some of its columns."""

    privilege: str
    relation: str
    columns: tuple[str, ...] = ()
    """Empty: all, also those that a later version adds."""

    def statement(self, role: str) -> sql.Composed:
        """The GRANT."""
        columns = sql.SQL(" ({})").format(_list(self.columns)) if self.columns else sql.SQL("")
        kind = sql.SQL("SEQUENCE " if self.relation.endswith("_seq") else "")
        return sql.SQL("GRANT {}{} ON {}{} TO {}").format(
            sql.SQL(self.privilege), columns, kind, sql.Identifier("embedtui", self.relation), sql.Identifier(role)
        )


def _rights(*lines: str) -> tuple[Right, ...]:
    """Rights as a DBA writes them: ``UPDATE (condition, reason) migration``."""
    found = []
    for line in lines:
        head, _, table = line.rpartition(" ")
        privilege, _, columns = head.partition(" ")
        found.append(Right(privilege, table, tuple(name.strip() for name in columns.strip("()").split(",") if name)))
    return tuple(found)


_WATCHER_READS = (
    "schema_version", "model", "migration", "worker", "shard", "queue_id_seq", "pace", "route", "listener", "audit",
    "route_side", "partition", "bridge", "batch_job",
)  # fmt: skip
_WORKER_READS = (
    "schema_version", "model", "migration", "worker", "shard", "queue", "queue_id_seq", "fault", "stale", "pace",
    "route", "listener", "query", "query_vector", "evaluation", "verdict", "audit", "capture_fault", "partition",
    "bridge", "bridge_row", "batch_job", "batch_line",
)  # fmt: skip

RIGHTS: Mapping[Role, tuple[Right, ...]] = {
    Role.WORKER: _rights(
        *(f"SELECT {table}" for table in _WORKER_READS),
        # never what is migrated, how, or where to: the operator's statements are made of these columns
        "UPDATE (phase, phase_at, condition, reason, desired, total_rows, synced, synced_tokens, synced_first,"
        " old_tokens, asked_new, asked_old, proof_tokens) migration",
        "UPDATE (learnt_inputs, learnt_tokens, learnt_at) model",
        "INSERT (migration, host, pid, operator) worker",
        "UPDATE (doing, since, threads, holds, rows, in_flight, heartbeat, stopped_at) worker",
        "INSERT (migration, leaf, filenode, first_block, last_block) shard",
        "UPDATE (last_block, state, worker, lease_until, passes, rows, updates, hot_updates, tokens, job, live) shard",
        "INSERT (migration, token, worker, inputs, lines, estimate, reserved) batch_job",
        "UPDATE (state, worker, file, batch, status, reason, finished, reserved, rows, tokens, asked_at, sent_at,"
        " looked_at, missing_since, ended_at) batch_job",
        "INSERT (job, number, shard, keys, sources, bytes) batch_line",
        "UPDATE (tokens) batch_line",
        "DELETE batch_line",
        "INSERT (migration, key, kind, at, text_key, text_entry) queue",
        "DELETE queue",
        "INSERT (migration, key, side, class, reason) fault",
        "UPDATE (reason, attempts, state, last_seen) fault",
        "DELETE fault",
        "INSERT (migration, reason) capture_fault",
        "DELETE capture_fault",
        "INSERT (migration, leaf, trigger) partition",
        "UPDATE (trigger) partition",
        "INSERT (migration, key, bridge, digest, missing, embed) stale",
        "UPDATE (bridge, digest, missing) stale",
        "DELETE stale",
        # not the knobs: rates, concurrency and spend cap are the operator's
        "UPDATE (token_level, request_level, filled_at, blocked_until, blocked_why, concurrency, spent_tokens,"
        " requests, rejected, characters_per_token) pace",
        "INSERT (migration, text, row_key, relevant, source) query",
        "UPDATE (relevant, source) query",
        "INSERT (query, model, vector) query_vector",
        "UPDATE (vector) query_vector",
        # neither time nor role: these the server says
        "INSERT (migration, who, k, queries, measures, checks, verdict, state) evaluation",
        "INSERT (migration, who, host, act, detail) audit",
    ),
    Role.APPLICATION: _rights(
        "SELECT route_side",
        "SELECT bridge_row",
        "SELECT (id, name, epoch, epoch_seen_at, searches_old, searches_new, by_view, latency_ms) listener",
        "INSERT (id, name, host, pid, application, epoch, epoch_seen_at, searches_old, searches_new, by_view,"
        " latency_ms) listener",
        "UPDATE (epoch, epoch_seen_at, heartbeat, searches_old, searches_new, by_view, latency_ms) listener",
        "DELETE listener",
    ),
    # no keys, texts, vectors or notes: whoever may not read the table reads nothing of its rows here either
    Role.WATCHER: _rights(
        *(f"SELECT {table}" for table in _WATCHER_READS),
        "SELECT (id, migration, kind, at) queue",
        "SELECT (id, migration, side, class, reason, attempts, state, first_seen, last_seen) fault",
        "SELECT (migration, side, at, bridge, missing) stale",
        "SELECT (id, migration, at) capture_fault",
        "SELECT (id, migration, at, who, role, k, queries, checks, verdict, state) evaluation",
    ),
}
"""By role; an operator owns it all."""


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """What the catalog says of a role."""

    name: str
    superuser: bool
    owns_schema: bool
    """Owns schema ``embedtui``, or is a member of the role that does."""


def role_facts(conn: Connection, name: str) -> RoleFacts | None:
    """None: there is no such role."""
    row = conn.execute(
        "SELECT r.rolsuper, coalesce((SELECT pg_catalog.pg_has_role(r.oid, n.nspowner, 'MEMBER')"
        " FROM pg_catalog.pg_namespace n WHERE n.nspname = 'embedtui'), false)"
        " FROM pg_catalog.pg_roles r WHERE r.rolname = %s",
        [name],
    ).fetchone()
    return None if row is None else RoleFacts(name, *row)


@dataclass(frozen=True, slots=True)
class Tables:
    """What an operator is to work on, by their oids; None where it is not known, or there is none."""

    source: int | None = None
    texts: int | None = None
    """The table with the texts, where that is another one."""
    triggers: bool = True
    """Whether they get triggers."""


def operator_sql(conn: Connection, role: str, tables: Tables) -> tuple[sql.Composed, ...]:
    """What an operator needs before anything is prepared; the owners' membership only where it is missing.

    Triggers on the table with the texts are its owner's to make; without them it is only read.
    """
    name = sql.Identifier(role)
    row = conn.execute("SELECT current_database()").fetchone()
    assert row is not None
    statements = [
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(row[0]), name),
        sql.SQL("GRANT pg_read_all_stats TO {}").format(name),
    ]
    found = conn.execute(
        "SELECT c.oid::int8, n.nspname, c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (%s)",
        [[tables.source, tables.texts]],
    )
    names = {oid: TableName(schema, table) for oid, schema, table in found}
    source, texts = names.get(tables.source or 0), names.get(tables.texts or 0)
    if source is not None:
        statements.append(sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(sql.Identifier(source.schema), name))
    if texts is not None and (source is None or texts.schema != source.schema):
        statements.append(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(texts.schema), name))
    if texts is not None and not tables.triggers:
        statements.append(sql.SQL("GRANT SELECT ON {} TO {}").format(relation(texts), name))
    owners = conn.execute(
        "SELECT DISTINCT pg_catalog.pg_get_userbyid(owner) FROM"
        " (SELECT relowner AS owner FROM pg_catalog.pg_class WHERE oid = ANY (%(tables)s)"
        "  UNION SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname = 'embedtui') o"
        " WHERE NOT pg_catalog.pg_has_role(%(role)s, owner, 'MEMBER') ORDER BY 1",
        {"tables": [tables.source, tables.texts if tables.triggers else None], "role": role},
    ).fetchall()
    statements += [sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), name) for (owner,) in owners]
    return tuple(statements)


def state_sql(conn: Connection, role: Role, name: str) -> tuple[sql.Composed, ...]:
    """Take away what ``name`` has in schema ``embedtui`` and grant what ``role`` needs; a rerun changes nothing."""
    who = sql.Identifier(name)
    schema = sql.Identifier("embedtui")
    statements = [
        sql.SQL("REVOKE ALL ON ALL {} IN SCHEMA {} FROM {}").format(sql.SQL(kind), schema, who)
        for kind in ("TABLES", "SEQUENCES", "FUNCTIONS")
    ]
    statements.append(sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(schema, who))
    statements.append(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, who))
    statements += [right.statement(name) for right in _granted(conn, role)]
    if role is Role.APPLICATION:
        functions = conn.execute(
            "SELECT oid::regprocedure::text FROM pg_catalog.pg_proc WHERE pronamespace = 'embedtui'::regnamespace"
            " AND proname = ANY (%s) ORDER BY 1",
            [list(FUNCTIONS)],
        ).fetchall()
        statements += [
            sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(text), who) for (text,) in functions
        ]
    return tuple(statements)


def _granted(conn: Connection, role: Role) -> Iterator[Right]:
    """The rights of a role; nobody's is the phase where no trigger guards it."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger"
        " WHERE tgrelid = 'embedtui.migration'::regclass AND tgname = 'guard_phase' AND tgenabled <> 'D')"
    ).fetchone()
    for right in RIGHTS[role]:
        if right.relation == "migration" and "phase" in right.columns and not (row and row[0]):
            yield replace(right, columns=tuple(name for name in right.columns if name not in ("phase", "phase_at")))
        else:
            yield right


def table_sql(conn: Connection, migration: Migration, role: Role, name: str) -> tuple[sql.Composed, ...]:
    """What ``role`` needs on the migrated table, its partitions and the side table; never more than it has to have.

    An application gets on the new side what it has on the old column.
    """
    if role is Role.WORKER:
        return tuple(_worker_table_sql(conn, migration, name))
    if role is Role.APPLICATION:
        return tuple(_application_table_sql(conn, migration, name))
    return ()


def _worker_table_sql(conn: Connection, migration: Migration, name: str) -> Iterator[sql.Composed]:
    who = sql.Identifier(name)
    side = new_side(migration)
    new = (side.embedding, side.model, side.source) if migration.placement is PlacementKind.COLUMN else ()
    old = migration.old_column
    # the system columns are how a row's place, version and locker are told
    scope = () if migration.scope is None else migration.scope.names
    named = dict.fromkeys((*migration.key_columns, *migration.content_columns, *scope, old, *new))
    read = ("ctid", "tableoid", "xmin", "xmax", *named)
    tables, other = _tree(conn, migration), migration.text_table
    used = [*tables, side.table, *(() if other is None else (other.table,))]
    for schema in dict.fromkeys((*(table.schema for table in used), migration.vector_schema)):
        if not _may(conn, "SELECT has_schema_privilege(%s, %s, 'USAGE')", name, schema):
            yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), who)
    for table in tables:
        yield sql.SQL("GRANT SELECT ({}), UPDATE ({}) ON {} TO {}").format(
            _list(read), _list((old, *new)), relation(table), who
        )
    if other is not None:
        yield sql.SQL("GRANT SELECT ({}) ON {} TO {}").format(
            _list(tuple(dict.fromkeys((*other.key, *other.text.names)))), relation(other.table), who
        )
    if migration.placement is PlacementKind.TABLE:
        rights = "SELECT, INSERT, UPDATE" + ("" if follows_by_foreign_key(migration) else ", DELETE")
        yield sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(rights), relation(side.table), who)


def _application_table_sql(conn: Connection, migration: Migration, name: str) -> Iterator[sql.Composed]:
    who = sql.Identifier(name)
    side = new_side(migration)
    table = relation(migration.table).as_string(conn)
    rights = [
        right
        for right in ("SELECT", "UPDATE")
        if _may(conn, "SELECT has_column_privilege(%s, %s, %s, %s)", name, table, migration.old_column, right)
    ]
    if migration.placement is PlacementKind.COLUMN:
        columns = sql.SQL(" ({})").format(_list((side.embedding, side.model, side.source)))
    else:
        columns, rights = sql.SQL("").format(), ["INSERT, UPDATE" if right == "UPDATE" else right for right in rights]
    if rights:
        each = sql.SQL(", ").join(sql.SQL(right) + columns for right in rights)
        yield sql.SQL("GRANT {} ON {} TO {}").format(each, relation(side.table), who)


def wide_rights(conn: Connection, migration: Migration, name: str) -> tuple[str, ...]:
    """Privileges on the whole table that a worker has and does not need."""
    table = relation(migration.table).as_string(conn)
    wide = ("UPDATE", "INSERT", "DELETE", "TRUNCATE", "TRIGGER")
    return tuple(each for each in wide if _may(conn, "SELECT has_table_privilege(%s, %s, %s)", name, table, each))


def _tree(conn: Connection, migration: Migration) -> list[TableName]:
    """The table and, where it is partitioned, its leaves: rows are read and written leaf by leaf."""
    rows = conn.execute(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_partition_tree(%s::oid::regclass) t"
        " JOIN pg_catalog.pg_class c ON c.oid = t.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE t.isleaf ORDER BY 1, 2",
        [migration.table_oid],
    ).fetchall()
    return list(dict.fromkeys([migration.table, *(TableName(*row) for row in rows)]))


def _may(conn: Connection, query: str, *parameters: str) -> bool:
    row = conn.execute(query, parameters).fetchone()
    return bool(row and row[0])


def _list(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
