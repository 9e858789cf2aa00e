"""The phase ``prepare``: schema, new side, change capture, route and shards; repeatable after any interruption."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import psycopg
from psycopg import sql

from embedtui.config import Settings
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.existing import migration_name
from embedtui.engine.plan.scope import require_disjoint
from embedtui.engine.plan.start import require_ready, require_same
from embedtui.engine.table_changes import remember
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.model import Migration, Phase, PlacementKind
from embedtui.postgres.connect import Connection, require_session
from embedtui.postgres.ddl import Statement, run_ddl
from embedtui.postgres.joined import as_called_now, bytes_sql
from embedtui.postgres.locks import lock_functions, release_prepare, try_prepare
from embedtui.postgres.names import relation
from embedtui.postgres.sides import capture, rights, routed_view
from embedtui.postgres.sides.layout import content_sql, scope_sql
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state import schema
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.closing import closed
from embedtui.postgres.state.migrations import (
    create_migration,
    live_migrations,
    load_migration,
    set_phase,
    set_total_rows,
)
from embedtui.postgres.state.pace import begin_pace
from embedtui.postgres.state.pointer import create_route, install_functions
from embedtui.postgres.state.shards import plan_shards
from embedtui.postgres.trust import require_trusted_objects

_SHORT_BYTES = 256
"""A text of so many bytes is in the row itself; PostgreSQL moves longer rows' texts out of it."""
_COUNT_TIMEOUT = "10min"


def begin(conn: Connection, dsn: str, settings: Settings) -> Migration:
    """The live migration that the settings describe, stored in phase ``prepare`` if it is new.

    Raises:
        EmbedtuiError: the settings, the table or the server cannot serve; nothing has been changed.
    """
    require_session(dsn, conn)
    known = load_migration(conn, migration_name(conn, settings))
    if known is not None and not known.phase.ended:
        require_same(conn, known, settings)
        return known
    try:
        draft = resolve(conn, settings)
        placement, _ = require_ready(conn, draft, settings)
        _install(conn)
        with conn.transaction():
            lock_functions(conn)  # of two that begin at once, the second sees the first
            require_disjoint(conn, draft.migration(placement))
            return _create(conn, replace(draft.migration(placement), phase=Phase.PREPARE), settings)
    except EmbedtuiError:
        known = load_migration(conn, migration_name(conn, settings))  # another process may have been first
        if known is None or known.phase.ended:
            raise
        require_same(conn, known, settings)
        return known


def _install(conn: Connection) -> None:
    with conn.transaction():  # CREATE OR REPLACE is not safe against itself
        lock_functions(conn)
        with closed(conn):
            schema.install(conn)
            install_functions(conn)


def upgrade(conn: Connection) -> None:
    """Bring what an older program left up to date: the schema, its functions; a no-op where there is none."""
    version = schema.installed_version(conn)
    if 0 < version < schema.VERSION:
        _install(conn)
    if version:
        close_functions(conn)


def close_functions(conn: Connection) -> None:
    """Close what an older program left open of any live migration; audited.

    Raises:
        DatabaseError: the schema is that of a newer program, or in it is an object of somebody else's.
    """
    require_trusted_objects(conn)
    for name in live_migrations(conn):
        with conn.transaction():  # CREATE OR REPLACE is not safe against itself
            lock_functions(conn)
            migration = load_migration(conn, name)
            if migration is not None and not migration.phase.ended and capture.close_functions(conn, migration):
                add_audit(conn, migration.id, "capture", "its functions were open to other roles or tables: closed")


def _create(conn: Connection, draft: Migration, settings: Settings) -> Migration:
    migration = create_migration(conn, draft)
    begin_pace(conn, migration.id, settings.pacing)
    add_audit(
        conn,
        migration.id,
        "begin",
        f"{migration.table}: {migration.old_model.name} ({migration.old_model.dimensions}) to "
        f"{migration.new_model.name} ({migration.new_model.dimensions}), placement {migration.placement}",
    )
    return migration


def prepare(conn: Connection, migration: Migration, stop: threading.Event, on_wait: Callable[[str], None]) -> None:
    """Make all that the backfill needs; change capture comes before the shards are planned, so nothing is missed.

    Raises:
        LockTimeout: a lock was not to be had without blocking production.
        Interrupted: ``stop`` was set.
    """
    _one_at_a_time(conn, migration, stop)
    try:
        current = load_migration(conn, migration.name)
        if current is None or current.phase is not Phase.PREPARE:
            return  # another process did it meanwhile
        placement = make_placement(migration)
        statements: list[Statement] = [*placement.prepare_sql(), *rights.first_sql(conn, migration)]
        if migration.stored.by_triggers:
            statements += capture.install_sql(migration, capture.attaching_roles(conn, migration))
        if migration.stored.view and migration.placement is PlacementKind.COLUMN:  # else a fold
            statements += routed_view.make_sql(conn, migration)
        tables = capture.tables(migration) if migration.stored.by_triggers else [migration.table]
        run_ddl(conn, statements, migration=migration.id, stop=stop, on_wait=on_wait, relations=tables)
        # whatever event triggers and default privileges made of it
        late = rights.differences_sql(conn, migration)
        if late:
            run_ddl(conn, late, migration=migration.id, stop=stop, on_wait=on_wait, relations=[migration.table])
        capture.close_functions(conn, migration)
        create_route(conn, migration)
        remember(conn, migration)
        plan_shards(conn, migration.id, migration.table_oid)
        count_total(conn, migration)
        set_phase(conn, migration.id, Phase.BACKFILL, expect=(Phase.PREPARE,))
    finally:
        if not conn.closed:
            release_prepare(conn, migration.id)


def keep_capture(
    conn: Connection, migration: Migration, stop: threading.Event, on_wait: Callable[[str], None] | None = None
) -> None:
    """Take change capture off where changes are scanned for since; where it is missing, ask for a scan, which mends it.

    Raises:
        LockTimeout, Interrupted: as :func:`~embedtui.postgres.ddl.run_ddl`.
    """
    installed = capture.state(conn, migration).installed
    if migration.phase in (Phase.PREPARE, Phase.CLEANUP) or migration.phase.ended:
        return
    if installed == migration.stored.by_triggers:
        return
    if not installed:
        capture.add_fault(conn, migration, "change capture is not on the table")
        return
    try:
        now = as_called_now(conn, migration)
        run_ddl(
            conn,
            capture.remove_sql(now),
            migration=migration.id,
            stop=stop,
            on_wait=on_wait,
            relations=capture.tables(now),
        )
    except psycopg.errors.InsufficientPrivilege:  # a worker's role leaves it to the owner's
        return
    add_audit(conn, migration.id, "capture", "taken off: changes are scanned for")


def count_total(conn: Connection, migration: Migration) -> None:
    """Count rows with something to embed, reading no TOASTed text; the planner's estimate where it takes too long.

    Only short texts are looked at for nothing but white space: a long one of that kind is counted.
    """
    texts: list[sql.Composable] = [
        sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in migration.content_columns
    ]
    if migration.content is not None:
        texts = [content_sql(migration, "t")]
    filled = sql.SQL(" OR ").join(
        sql.SQL(
            "octet_length({text}) > {short} OR {text} COLLATE pg_catalog.\"default\" OPERATOR(pg_catalog.~) '\\S'"
        ).format(text=text, short=sql.Literal(_SHORT_BYTES))
        for text in texts
    )
    if migration.text_table is not None:
        filled = sql.SQL("{} > 0").format(bytes_sql(migration.text_table, "t"))
    query = sql.SQL("SELECT count(*) FROM {} t WHERE {} AND ({})").format(
        relation(migration.table), scope_sql(migration, "t"), filled
    )
    try:
        with conn.transaction():
            conn.execute("SELECT set_config('statement_timeout', %s, true)", [_COUNT_TIMEOUT])
            row = conn.execute(query).fetchone()
    except psycopg.errors.QueryCanceled:
        row = conn.execute(
            "SELECT sum(reltuples)::bigint FROM pg_catalog.pg_class"
            " WHERE oid = %(t)s OR oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%(t)s::oid::regclass))",
            {"t": migration.table_oid},
        ).fetchone()
    set_total_rows(conn, migration.id, max(0, row[0]) if row else None)


def _one_at_a_time(conn: Connection, migration: Migration, stop: threading.Event) -> None:
    while not try_prepare(conn, migration.id):
        if stop.wait(0.2):
            raise Interrupted("Stopped while another process prepares.", hint="Run again to go on.")
