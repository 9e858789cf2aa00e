"""The end of a migration: cleanup drops the old side, abort takes the new one back; both rerunnable at any point."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.engine.cleanup import traces
from embedtui.engine.cutover.strategies import cutover_settings
from embedtui.engine.overrides import Overrides, audited, pass_blockers
from embedtui.errors import DatabaseError, Interrupted, LockTimeout, NotClean, Refused, SettingsError
from embedtui.formatting import counted, duration
from embedtui.model import Blocker, Migration, Phase, PlacementKind, Remedy, Side, TableName
from embedtui.postgres.catalog.facts import Dependent, TableFacts
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import Connection, host_name, operator_name
from embedtui.postgres.ddl import Statement, cancelled_by, run_ddl
from embedtui.postgres.indexes import partition_indexes
from embedtui.postgres.locks import ALIVE
from embedtui.postgres.names import key_sql, parse_name, relation
from embedtui.postgres.sides import capture
from embedtui.postgres.sides.layout import follows_by_foreign_key, new_side
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.route import end_in_ddl, held, hold_route, read_listeners, read_route
from embedtui.postgres.values import same_key_sql
from embedtui.redaction import redact

DRAIN_PATIENCE = 60.0
"""Seconds in which the workers may bring the queue to zero, before the cleanup is refused."""

_LOCK_CLASS = 0x656D636C  # advisory lock: one process cleans up or aborts at a time
_DAY = 86400.0
_ALIVE = ALIVE.format("w.id")
_FILE_SUFFIXES = (".copy", ".gz", ".tsv", ".txt")
_SHORT_WAIT = "SET LOCAL lock_timeout = '500ms'"
_FAULTY = "SELECT count(*) FROM embedtui.fault WHERE migration = %s AND side = 'new' AND state <> 'skipped'"
_QUEUE_FULL = "55006"  # object_in_use, raised by our own check inside the contract


@dataclass(frozen=True, slots=True)
class CleanupChoice:
    """What the operator wants to be left."""

    rename: bool = True
    """Placement ``column``: the new column and its index take the old one's names. A side table keeps its own."""
    keep_old: bool = False
    """Leave the old column and its index where they are; only embedtui's own traces go."""
    keep_provenance: bool = False
    """Placement ``column``: keep (and rename) the columns with model and fingerprint. A side table keeps them."""
    archive: TableName | Path | None = None
    """Where the old vectors go first: a table, or a file in COPY's text form (compressed where it ends in ``.gz``)."""


@dataclass(frozen=True, slots=True)
class CleanupStep:
    """One step and the exact SQL it runs."""

    name: str
    """``begin``, ``archive``, ``contract``, ``not null``, ``finish``; of an abort ``begin``, ``remove``, ``finish``."""
    detail: str
    statements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _State:
    """What is stored of a cleanup that has begun."""

    phase: Phase
    record: dict[str, Any]

    @property
    def begun(self) -> bool:
        return bool(self.record)

    @property
    def left(self) -> dict[str, int]:
        """Rows that the drop may leave without a new vector: those queued that were overridden, those faulty then."""
        return {name: int(self.record.get(name, 0)) for name in ("queued", "faulty")}

    def has(self, what: str) -> bool:
        return self.record.get(what) is not None and self.record.get(what) is not False


# ----------------------------------------------------------------------------------------------------- what blocks


def cleanup_blockers(
    conn: Connection, migration: Migration, choice: CleanupChoice, *, thorough: bool = False
) -> tuple[Blocker, ...]:
    """What stands against a cleanup now, from the catalog and the state; empty once one has begun.

    ``thorough`` also reads the table (once) for rows that would lose their only vector.
    """
    state = _state(conn, migration)
    if state.begun:
        return ()
    found = list(_state_blockers(conn, migration))
    facts = inspect_oid(conn, migration.table_oid)
    if not choice.keep_old:
        found += _dependent_blockers(conn, facts, migration.old_column)
    found += _choice_blockers(conn, migration, choice, facts)
    if thorough and not choice.keep_old:
        found += _row_blockers(conn, migration, choice, facts)
    return tuple(found)


def _state_blockers(conn: Connection, migration: Migration) -> Iterator[Blocker]:
    route = read_route(conn, migration.name)
    if route.active is not Side.NEW or migration.phase.ended:
        yield Blocker("route", "The new side does not serve yet.", "Cut over first, and let it soak.")
        return
    served = _one(conn, "SELECT extract(epoch FROM clock_timestamp() - %s)::int8", (route.changed_at,))
    wanted = soak_days(migration) * _DAY
    if served < wanted:
        yield Blocker(
            "soak",
            f"The new side has served for {duration(served, exact=True)} of {duration(wanted, exact=True)}.",
            f"Wait {duration(wanted - served, exact=True)} more.",
            overridable=True,
        )
    queued = _one(conn, "SELECT count(*) FROM embedtui.queue WHERE migration = %s", (migration.id,))
    if queued and not _drained_by_a_worker(conn, migration):
        yield Blocker(
            "queue",
            f"{counted(queued, 'change still waits for its new vector', 'changes still wait for their new vectors')}.",
            "Let a worker catch up.",
            overridable=True,
            remedies=(Remedy.FOLLOW,),
            rows=queued,
        )
    behind = sum(listener.epoch < route.epoch for listener in read_listeners(conn, migration.name))
    if behind:
        yield Blocker(
            "listeners",
            f"{counted(behind, 'Router has', 'Routers have')} not heard of the switch yet, and may still search the old"
            " side.",
            "Wait for them, or end them.",
            overridable=True,
        )


def _drained_by_a_worker(conn: Connection, migration: Migration) -> bool:
    """Whether what is queued will be embedded before the old side goes: the contract waits for that."""
    alive = f"SELECT EXISTS (SELECT FROM embedtui.worker w WHERE migration = %s AND stopped_at IS NULL AND {_ALIVE})"
    return migration.desired == "run" and bool(_one(conn, alive, (migration.id,)))


def soak_days(migration: Migration) -> float:
    """Days that the new side has to serve before the old one may go."""
    return cutover_settings(migration).soak_days


def _dependent_blockers(conn: Connection, facts: TableFacts, *columns: str) -> Iterator[Blocker]:
    """One blocker for each object that depends on the columns, in the table or a partition."""
    oids = {facts.oid, *(leaf.oid for leaf in facts.leaves)}
    seen: dict[tuple[str, str], Dependent] = {}
    for oid in oids:
        for dependent in (facts if oid == facts.oid else inspect_oid(conn, oid)).dependents:
            if dependent.column in columns:
                seen.setdefault((dependent.kind, dependent.name), dependent)
    for dependent in seen.values():
        yield Blocker(
            "dependents",
            f"{dependent.kind} {redact(dependent.name)} depends on column {dependent.column}.",
            "Drop it, or make it depend on the new column.",
        )


def _choice_blockers(
    conn: Connection, migration: Migration, choice: CleanupChoice, facts: TableFacts
) -> Iterator[Blocker]:
    if _renames(migration, choice):
        for publication in facts.publications:
            yield Blocker(
                "publications",
                f"Publication {redact(publication.name)} carries the table: subscribers would get the new vectors under"
                " the old name.",
                "Keep the new name, or bring the subscribers along and override this.",
                overridable=True,
            )
        granted = _one(
            conn,
            "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attname = %s AND attacl IS NOT NULL",
            (migration.table_oid, migration.old_column),
        )
        if granted:
            yield Blocker(
                "privileges",
                f"Column {migration.old_column} has privileges of its own, which go with it.",
                f"Grant the same on {migration.new_column} first, or override this.",
                overridable=True,
            )
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        yield Blocker(
            "no_foreign_key",
            f"Without embedtui's triggers, deletes and key changes no longer reach {migration.new_table}.",
            "Let the application see to it (or add a foreign key), and override this.",
            overridable=True,
        )
    archive = choice.archive
    if isinstance(archive, TableName):
        if _one(conn, "SELECT to_regclass(%s) IS NOT NULL", (relation(archive).as_string(conn),)):
            yield Blocker("archive", f"{archive} exists.", "Name another table for the old vectors.")
    elif archive is not None and (archive.exists() or not archive.parent.is_dir()):
        problem = "exists" if archive.exists() else "is in a folder that does not exist"
        yield Blocker("archive", f"{archive} {problem}.", "Name another file for the old vectors.")


def _row_blockers(
    conn: Connection, migration: Migration, choice: CleanupChoice, facts: TableFacts
) -> Iterator[Blocker]:
    side = new_side(migration)
    present = (
        sql.SQL("t.{} IS NOT NULL").format(sql.Identifier(side.embedding))
        if migration.placement is PlacementKind.COLUMN
        else sql.SQL("EXISTS (SELECT FROM {} s WHERE {})").format(
            relation(side.table), same_key_sql(migration, "s", "t")
        )
    )
    if _drained_by_a_worker(conn, migration):  # a busy table always has some rows on their way
        present += sql.SQL(" OR {} IN (SELECT key FROM embedtui.queue WHERE migration = {})").format(
            key_sql(migration, "t"), sql.Literal(migration.id)
        )
    query = sql.SQL(
        "SELECT count(*) FILTER (WHERE t.{old} IS NOT NULL AND NOT ({present})),"
        " count(*) FILTER (WHERE NOT ({present})) FROM {table} t"
    ).format(old=sql.Identifier(migration.old_column), present=present, table=relation(migration.table))
    with _unbounded(conn):
        uncovered, missing = conn.execute(query).fetchall()[0]
    if uncovered:
        yield Blocker(
            "coverage",
            f"{counted(uncovered, 'row has', 'rows have')} an old vector and no new one, and would be found no more.",
            "Look at them.",
            overridable=True,
            remedies=(Remedy.VERIFY,),
            rows=uncovered,
        )
    if missing and _restores_not_null(migration, choice, facts):
        yield Blocker(
            "not_null",
            f"{migration.old_column} is NOT NULL, and {counted(missing, 'row has', 'rows have')} no new vector.",
            "Fill them, or override this: the column then stays nullable.",
            overridable=True,
            rows=missing,
        )


def abort_blockers(conn: Connection, migration: Migration) -> tuple[Blocker, ...]:
    """What stands against an abort now."""
    state = _state(conn, migration)
    if state.phase is Phase.DONE or (state.begun and not state.has("aborting")):
        remedies = (Remedy.CLEANUP,) if state.has("contracted") else (Remedy.ROLLBACK, Remedy.CLEANUP)
        way = "Complete it." if state.has("contracted") else "Take it back, or complete it."
        return (Blocker("phase", "The cleanup has begun.", way, remedies=remedies),)
    if state.begun:
        return ()
    found: list[Blocker] = []
    row = conn.execute(
        "SELECT active, canary FROM embedtui.route WHERE name = %s AND migration = %s", (migration.name, migration.id)
    ).fetchone()
    if row is not None and (row[0] != Side.OLD.value or row[1]):
        found.append(
            Blocker("route", "Production reads the new side.", "Roll back first.", remedies=(Remedy.ROLLBACK,))
        )
    side = new_side(migration)
    for each in traces.find(conn, migration):
        columns = [side.embedding, side.model, side.source, *migration.key_columns] if each.side_table else each.columns
        if columns:
            found += _dependent_blockers(conn, inspect_oid(conn, each.oid), *columns)
    return tuple(found)


# ------------------------------------------------------------------------------------------------------ statements


def archive_target(text: str) -> TableName | Path:
    """What an operator's word for the archive means: a file where it looks like a path, else a table.

    Raises SettingsError where it is neither.
    """
    path = Path(text)
    if path.name != text or path.suffix in _FILE_SUFFIXES:
        return path.expanduser()
    parts = [name if was_quoted else name.lower() for name, was_quoted in parse_name(text)]
    if len(parts) not in (1, 2):
        raise SettingsError(f"{text!r} is neither a table nor a file.", hint="Example: old_vectors, or ./old.copy.gz")
    return TableName(*parts) if len(parts) == 2 else TableName("public", parts[0])


def cleanup_statements(conn: Connection, migration: Migration, choice: CleanupChoice) -> tuple[CleanupStep, ...]:
    """The steps that a cleanup would still take, with the exact SQL of each, in order."""
    state = _state(conn, migration)
    if state.begun:
        choice = _stored_choice(state.record)
        not_null = state.has("not_null")
    else:
        not_null = _restores_not_null(migration, choice, inspect_oid(conn, migration.table_oid))
    steps = [] if state.begun else [CleanupStep("begin", "phase cleanup; workers bring the queue to zero")]
    if choice.archive is not None and not state.has("archived"):
        if isinstance(choice.archive, TableName):
            text = _archive_table_sql(migration, choice.archive)
        else:
            text = _archive_file_sql(migration)
        steps.append(CleanupStep("archive", f"old vectors to {choice.archive}, counted", _shown(conn, [text])))
    if not state.has("contracted"):
        contract = _contract_sql(conn, migration, choice, not_null, state.left)
        detail = "one short transaction; the old vectors' disk space comes back as rows are rewritten"
        steps.append(CleanupStep("contract", detail, _shown(conn, contract)))
    if not_null and (not state.has("contracted") or _constraint_exists(conn, migration)):
        texts = [_validate_sql(migration), *_set_not_null_sql(migration)]
        steps.append(CleanupStep("not null", f"{_final_column(migration)} NOT NULL again", _shown(conn, texts)))
    if not state.has("finished"):
        steps.append(
            CleanupStep("finish", "embedtui's working rows go, the log stays", _shown(conn, _rows_sql(migration)))
        )
    return tuple(steps)


def abort_statements(conn: Connection, migration: Migration) -> tuple[CleanupStep, ...]:
    """The steps that an abort would still take, with the exact SQL of each, in order."""
    state = _state(conn, migration)
    steps = [] if state.begun else [CleanupStep("begin", "workers stop")]
    if not state.has("contracted"):
        steps.append(CleanupStep("remove", "one short transaction", _shown(conn, _remove_sql(conn, migration))))
    if not state.has("finished"):
        steps.append(
            CleanupStep("finish", "embedtui's working rows go, the log stays", _shown(conn, _rows_sql(migration)))
        )
    return tuple(steps)


def _shown(conn: Connection, statements: Sequence[Statement]) -> tuple[str, ...]:
    return tuple(statement.as_string(conn) for statement in statements)


def _exchanged(migration: Migration) -> bool:
    """The cutover by strategy ``rename`` gave the new column the old one's name already."""
    return cutover_settings(migration).strategy == "rename"


def _named_as_before(migration: Migration, choice: CleanupChoice) -> bool:
    """The column that is left has the name that the application has always known."""
    return choice.rename and not choice.keep_old and migration.placement is PlacementKind.COLUMN


def _renames(migration: Migration, choice: CleanupChoice) -> bool:
    return _named_as_before(migration, choice) and not _exchanged(migration)


def _final_column(migration: Migration) -> str:
    """Name of the column that is left, where it is named as before."""
    return migration.new_column if _exchanged(migration) else migration.old_column


def _restores_not_null(migration: Migration, choice: CleanupChoice, facts: TableFacts) -> bool:
    old = facts.column(migration.old_column)
    return _named_as_before(migration, choice) and old is not None and old.not_null


def _contract_sql(
    conn: Connection, migration: Migration, choice: CleanupChoice, not_null: bool, left: Mapping[str, int]
) -> list[Statement]:
    """All that production could notice, in one transaction with the record of it: all of it is done, or nothing."""
    table, side = relation(migration.table), new_side(migration)
    statements: list[Statement] = [sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table)]
    statements.append(_left_check_sql(migration, left))
    statements += capture.remove_sql(migration)
    renames = _index_renames(conn, migration) if _renames(migration, choice) else []
    if not choice.keep_old:
        statements.append(sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, sql.Identifier(migration.old_column)))
    pairs = [(side.embedding, migration.old_column)] if _renames(migration, choice) else []
    if migration.placement is PlacementKind.COLUMN:
        provenance = [(side.model, f"{migration.old_column}_model"), (side.source, f"{migration.old_column}_source")]
        if not choice.keep_provenance:
            statements.append(
                sql.SQL("ALTER TABLE {} {}").format(
                    table,
                    sql.SQL(", ").join(
                        sql.SQL("DROP COLUMN {}").format(sql.Identifier(column)) for column, _ in provenance
                    ),
                )
            )
        elif pairs:
            pairs += provenance
    statements += [
        sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(table, sql.Identifier(source), sql.Identifier(target))
        for source, target in pairs
    ]
    statements += [
        sql.SQL("ALTER INDEX {} RENAME TO {}").format(relation(index), sql.Identifier(name)) for index, name in renames
    ]
    if not_null:
        # checked for new rows at once and for the present ones later, without a long lock
        statements.append(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID").format(
                table, _constraint(migration), sql.Identifier(_final_column(migration))
            )
        )
    gone = "" if choice.keep_old else Side.OLD.value
    # ended at once: Routers then write without the provenance columns
    statements += _record_sql(migration, Phase.DONE, gone, migration.old_column if pairs else migration.new_column)
    return statements


def _left_check_sql(migration: Migration, left: Mapping[str, int]) -> sql.Composed:
    """Inside the lock no change can be under way: what is queued, or was rejected since, has no new vector for good."""
    body = sql.SQL(
        "BEGIN IF (SELECT count(*) FROM embedtui.queue WHERE migration = {migration}) > {queued}"
        " OR (SELECT count(*) FROM embedtui.fault WHERE migration = {migration} AND side = 'new'"
        " AND state <> 'skipped') > {faulty} THEN"
        " RAISE EXCEPTION 'changes still wait for their new vectors' USING ERRCODE = {state}; END IF; END"
    ).format(
        migration=sql.Literal(migration.id),
        state=sql.Literal(_QUEUE_FULL),
        queued=sql.Literal(left["queued"]),
        faulty=sql.Literal(left["faulty"]),
    )
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))


def _index_renames(conn: Connection, migration: Migration) -> list[tuple[TableName, str]]:
    """(new index, old index's name) of the table and, where it is partitioned, of each leaf."""
    old = partition_indexes(conn, migration.table, migration.old_column)
    new = partition_indexes(conn, migration.table, migration.new_column)
    return [(new[oid], old[oid].name) for oid in new if oid in old]


def _record_sql(migration: Migration, phase: Phase, gone: str, new_column: str) -> list[Statement]:
    """The end of the transaction: it fails if the pointer has moved, tells all Routers, and records what it did."""
    return [
        *end_in_ddl(migration, "abort" if phase is Phase.ABORTED else "cleanup"),
        sql.SQL(
            "UPDATE embedtui.migration SET phase = {phase}, phase_at = now(), condition = 'idle', reason = '',"
            " desired = 'run',"
            " new_column = {column}, settings = jsonb_set(settings, '{{cleanup,contracted}}', 'true')"
            " || jsonb_build_object('gone', {gone}::text) WHERE id = {id}"
        ).format(
            phase=sql.Literal(phase.value),
            column=sql.Literal(new_column),
            gone=sql.Literal(gone),
            id=sql.Literal(migration.id),
        ),
        sql.SQL(
            "INSERT INTO embedtui.audit (migration, who, host, act, detail) VALUES ({}, {}, {}, 'phase', {})"
        ).format(*(sql.Literal(value) for value in (migration.id, operator_name(), host_name(), phase.value))),
    ]


def _remove_sql(conn: Connection, migration: Migration) -> list[Statement]:
    """Takes everything back to before ``prepare``."""
    statements = traces.removal_sql(traces.find(conn, migration))
    statements += capture.remove_functions_sql(migration)
    return [*statements, *_record_sql(migration, Phase.ABORTED, Side.NEW.value, migration.new_column)]


def _constraint(migration: Migration) -> sql.Identifier:
    return sql.Identifier(f"embedtui_{migration.id}_not_null")


def _validate_sql(migration: Migration) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(relation(migration.table), _constraint(migration))


def _set_not_null_sql(migration: Migration) -> list[Statement]:
    """Short: a valid CHECK spares SET NOT NULL its scan (PostgreSQL 12 or later)."""
    table = relation(migration.table)
    return [
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL").format(table, sql.Identifier(_final_column(migration))),
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table, _constraint(migration)),
    ]


def _rows_sql(migration: Migration) -> list[Statement]:
    return [
        sql.SQL("DELETE FROM {} WHERE migration = {}").format(
            sql.Identifier("embedtui", table), sql.Literal(migration.id)
        )
        for table in ("queue", "shard", "stale", "capture_fault", "partition")
    ]


def _old_vectors_sql(migration: Migration) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} WHERE {} IS NOT NULL").format(
        sql.SQL(", ").join(map(sql.Identifier, (*migration.key_columns, migration.old_column))),
        relation(migration.table),
        sql.Identifier(migration.old_column),
    )


def _archive_table_sql(migration: Migration, archive: TableName) -> sql.Composed:
    return sql.SQL("CREATE TABLE {} AS {}").format(relation(archive), _old_vectors_sql(migration))


def _archive_file_sql(migration: Migration) -> sql.Composed:
    return sql.SQL("COPY ({}) TO STDOUT").format(_old_vectors_sql(migration))


# ------------------------------------------------------------------------------------------------------------- acts


def cleanup(
    conn: Connection,
    migration: Migration,
    choice: CleanupChoice,
    *,
    typed_name: str,
    stop: threading.Event,
    override: Overrides = MappingProxyType({}),
    on_step: Callable[[CleanupStep], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> None:
    """Drops the old side as chosen; a rerun after any interruption completes what was begun, as it was chosen then.

    ``conn`` is in autocommit. ``typed_name`` has to be the table's name. ``override`` has a reason for each blocker
    that it passes, and is audited. ``on_step`` is called before each step. A no-op once finished.

    From its first step until the drop a rollback takes it back, at once; the drop fails where the pointer has moved.

    Raises Refused (blocked, taken back, or another process is at it), LockTimeout, Interrupted, NotClean (a row without
    a vector came in under a column that was NOT NULL), DatabaseError (the archive does not hold what was counted).
    """
    _require_name(migration, typed_name)
    on_step = on_step or (lambda step: None)
    with _alone(conn, migration):
        state = _state(conn, migration)
        if state.has("aborting") or state.phase is Phase.ABORTED:
            raise Refused("The migration is being aborted.", hint="Complete that.", remedies=(Remedy.ABORT,))
        if state.phase is Phase.DONE and not state.begun:
            return
        if not state.begun:
            epoch = _epoch(conn, migration)  # before what it is decided on
            migration = _present(conn, migration)
            with cancelled_by(conn, stop):
                blockers = cleanup_blockers(conn, migration, choice, thorough=True)
            passed = pass_blockers(blockers, override)
            on_step(CleanupStep("begin", "phase cleanup; workers bring the queue to zero"))
            _begin(conn, migration, choice, passed, epoch)
            state = _state(conn, migration)
        migration = _present(conn, migration)
        if not state.begun:  # a rollback was here since
            _require_held(conn, migration, "cleanup")
        choice = _confirmed_choice(state, choice)
        for step in cleanup_statements(conn, migration, choice):
            if stop.is_set():
                raise Interrupted(f"Stopped before the step {step.name!r}.", hint="Run it again to complete it.")
            on_step(step)
            if step.name in ("begin", "archive", "contract"):  # begun already, unless a rollback was here since
                _require_held(conn, migration, "cleanup")
            if step.name == "archive":
                _archive(conn, migration, choice, stop)
            elif step.name == "contract":
                _contract(conn, migration, choice, state, stop, on_wait)
            elif step.name == "not null":
                _not_null(conn, migration, stop, on_wait)
            elif step.name == "finish":
                _finish(conn, migration, "cleanup", step)


def abort(
    conn: Connection,
    migration: Migration,
    *,
    typed_name: str,
    stop: threading.Event,
    on_step: Callable[[CleanupStep], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> str:
    """Takes everything back to before ``prepare``: triggers, new columns or side table, index; a rerun completes it.

    Also where the table has another name, was made again or restored since: what it carries of ours is looked up. Gives
    what was done, and what is left, in a sentence or two.

    Raises Refused (production reads the new side, something depends on it, or another process is at it), LockTimeout,
    Interrupted.
    """
    _require_name(migration, typed_name)
    on_step = on_step or (lambda step: None)
    removed = traces.find(conn, migration)
    with _alone(conn, migration):
        epoch = _epoch(conn, migration)  # before what it is decided on
        migration = _present(conn, migration)
        pass_blockers(abort_blockers(conn, migration), {})
        for step in abort_statements(conn, migration):
            if stop.is_set():
                raise Interrupted(f"Stopped before the step {step.name!r}.", hint="Run it again to complete it.")
            on_step(step)
            if step.name == "begin":
                with _holding(conn, migration, "abort", epoch):
                    _begin_record(conn, migration, {"aborting": True})
                    conn.execute("UPDATE embedtui.migration SET desired = 'pause' WHERE id = %s", (migration.id,))
                    add_audit(conn, migration.id, "abort", "begun")
            elif step.name == "remove":
                _cancel_own_build(conn, migration)
                with _taken_back(conn, migration, "abort"):
                    run_ddl(
                        conn,
                        _remove_sql(conn, migration),
                        stop=stop,
                        on_wait=on_wait,
                        relations=[each.table for each in removed],
                    )
            else:
                _finish(conn, migration, "abort", step)
        done = traces.outcome(conn, migration, removed)
        add_audit(conn, migration.id, "abort", done)
    return done


def _begin(conn: Connection, migration: Migration, choice: CleanupChoice, passed: Overrides, epoch: int | None) -> None:
    archive: dict[str, object] | None = None
    if isinstance(choice.archive, TableName):
        archive = {"table": [choice.archive.schema, choice.archive.name]}
    elif choice.archive is not None:
        archive = {"file": str(choice.archive.absolute())}
    facts = inspect_oid(conn, migration.table_oid)
    names = {token.partition(":")[0] for token in passed}
    queued = [int(token.partition(":")[2]) for token in passed if token.startswith("queue:")]
    record = {
        "rename": choice.rename,
        "keep_old": choice.keep_old,
        "keep_provenance": choice.keep_provenance,
        "archive": archive,
        "not_null": _restores_not_null(migration, choice, facts) and "not_null" not in names,
        "queued": sum(queued),
        "faulty": _one(conn, _FAULTY, (migration.id,)),
    }
    what = (
        "keep both sides"
        if choice.keep_old
        else "the old name"
        if _named_as_before(migration, choice)
        else "the new name"
    )
    detail = f"begun: {what}" + (f", archive to {choice.archive}" if choice.archive is not None else "")
    detail += audited(passed)
    with _holding(conn, migration, "cleanup", epoch):
        _begin_record(conn, migration, record)
        conn.execute(
            "UPDATE embedtui.migration SET phase = %s, phase_at = now() WHERE id = %s",
            (Phase.CLEANUP.value, migration.id),
        )
        add_audit(conn, migration.id, "cleanup", detail)


def _contract(
    conn: Connection,
    migration: Migration,
    choice: CleanupChoice,
    state: _State,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None,
) -> None:
    waited = 0.0
    while True:
        statements = _contract_sql(conn, migration, choice, state.has("not_null"), state.left)
        try:
            with _taken_back(conn, migration, "cleanup"):
                run_ddl(
                    conn,
                    statements,
                    stop=stop,
                    on_wait=on_wait,
                    relations=[migration.table],
                    check=lambda: _require_held(conn, migration, "cleanup"),
                )
        except psycopg.errors.ObjectInUse as error:
            if error.sqlstate != _QUEUE_FULL or waited >= DRAIN_PATIENCE:
                raise LockTimeout(
                    "Changes kept waiting for their new vectors; the old side was not dropped.",
                    hint="Let a worker catch up (`embedtui faults` lists what was rejected), and clean up again.",
                    remedies=(Remedy.FOLLOW, Remedy.CLEANUP),
                ) from None
            if on_wait is not None:
                on_wait("waiting for the queue to be empty")
            if stop.wait(1.0):
                raise Interrupted("Stopped before the old side was dropped.", hint="Run it again.") from None
            waited += 1.0
        else:
            return


def _not_null(
    conn: Connection, migration: Migration, stop: threading.Event, on_wait: Callable[[str], None] | None
) -> None:
    """Makes the column NOT NULL again: a scan that blocks neither reads nor writes, then a moment's lock."""
    try:
        with cancelled_by(conn, stop), _unbounded(conn):
            conn.execute(_validate_sql(migration))
    except psycopg.errors.CheckViolation:
        raise NotClean(
            f"{_final_column(migration)} was NOT NULL, and rows without a vector have come in meanwhile.",
            hint="Fill them, then run the cleanup again: all else is done.",
        ) from None
    run_ddl(conn, _set_not_null_sql(migration), stop=stop, on_wait=on_wait, relations=[migration.table])


def _finish(conn: Connection, migration: Migration, act: str, step: CleanupStep) -> None:
    with _unbounded(conn):
        for statement in _rows_sql(migration):
            conn.execute(statement)
        _remember(conn, migration, {"finished": True})
        add_audit(conn, migration.id, act, "finished")


def _cancel_own_build(conn: Connection, migration: Migration) -> None:
    """An index build of ours would hold up the removal of what it builds for as long as it takes."""
    conn.execute(
        "SELECT pg_cancel_backend(p.pid) FROM pg_stat_progress_create_index p JOIN pg_stat_activity a USING (pid)"
        " WHERE a.application_name LIKE 'embedtui/%%' AND p.relid = to_regclass(%s)",
        (relation(new_side(migration).table).as_string(conn),),
    )


# ---------------------------------------------------------------------------------------------------------- archive


def _archive(conn: Connection, migration: Migration, choice: CleanupChoice, stop: threading.Event) -> None:
    """Stores the old vectors and counts them against the table, all in one snapshot, before anything is dropped."""
    with cancelled_by(conn, stop), _unbounded(conn):
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        expected = _one(conn, sql.SQL("SELECT count(*) FROM ({}) v").format(_old_vectors_sql(migration)))
        if isinstance(choice.archive, TableName):
            conn.execute(_archive_table_sql(migration, choice.archive))
            stored = _one(conn, sql.SQL("SELECT count(*) FROM {}").format(relation(choice.archive)))
        else:
            assert choice.archive is not None
            stored = _archive_file(conn, migration, choice.archive)
        if stored != expected:
            raise DatabaseError(
                f"The archive {choice.archive} holds {stored} vectors, the table {expected}; nothing was dropped.",
                hint="Check the disk, then run the cleanup again.",
            )
        _remember(conn, migration, {"archived": stored})
        add_audit(conn, migration.id, "archive", f"{stored} old vectors to {choice.archive}")


def _archive_file(conn: Connection, migration: Migration, path: Path) -> int:
    """Rows that the finished file really holds: COPY's text form has one line for each."""
    part = path.with_name(f"{path.name}.part")
    with _opened(part, "wb") as file, conn.cursor().copy(_archive_file_sql(migration)) as copy:
        for block in copy:
            file.write(block)
    with _opened(part, "rb") as file:
        lines = sum(1 for _ in file)
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(path)
    return lines


def _opened(path: Path, mode: str) -> IO[bytes]:
    if path.name.removesuffix(".part").endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, mode))
    return cast(IO[bytes], path.open(mode))


# ------------------------------------------------------------------------------------------------------------ state


def _state(conn: Connection, migration: Migration) -> _State:
    """What was begun and has not been taken back: until the drop, the pointer's row tells that."""
    row = conn.execute(
        "SELECT m.phase, coalesce(m.settings -> 'cleanup', '{}'), r.ending, r.name IS NOT NULL"
        " FROM embedtui.migration m LEFT JOIN embedtui.route r ON r.name = m.name AND r.migration = m.id"
        " WHERE m.id = %s",
        (migration.id,),
    ).fetchone()
    if row is None:
        raise Refused("There is no such migration.")
    phase, record, ending, routed = row
    begun = "abort" if record.get("aborting") else "cleanup"
    if not record.get("contracted") and ending != begun and (routed or begun == "cleanup"):
        record = {}
    return _State(Phase(phase), record)


def _begin_record(conn: Connection, migration: Migration, record: Mapping[str, object]) -> None:
    conn.execute(
        "UPDATE embedtui.migration SET settings = jsonb_set(settings, '{cleanup}', %s) WHERE id = %s",
        (Jsonb(record), migration.id),
    )


def _remember(conn: Connection, migration: Migration, more: Mapping[str, object]) -> None:
    conn.execute(
        "UPDATE embedtui.migration SET settings = jsonb_set(settings, '{cleanup}',"
        " coalesce(settings -> 'cleanup', '{}') || %s) WHERE id = %s",
        (Jsonb(more), migration.id),
    )


def _stored_choice(record: dict[str, Any]) -> CleanupChoice:
    stored = record["archive"] or {}
    archive: TableName | Path | None = None
    if "table" in stored:
        archive = TableName(*stored["table"])
    elif "file" in stored:
        archive = Path(stored["file"])
    return CleanupChoice(record["rename"], record["keep_old"], record["keep_provenance"], archive)


def _confirmed_choice(state: _State, asked: CleanupChoice) -> CleanupChoice:
    """What was chosen when the cleanup began; a file on this machine is written only where this operator names it."""
    choice = _stored_choice(state.record)
    path = choice.archive
    if isinstance(path, Path) and not state.has("archived"):
        named = asked.archive.absolute() if isinstance(asked.archive, Path) else None
        if named != path:
            raise Refused(
                f"The cleanup that was begun archives the old vectors to the file {path}, says the database.",
                hint=f"If that is right, name it: --archive {path}",
            )
    return choice


def _constraint_exists(conn: Connection, migration: Migration) -> bool:
    return bool(
        _one(
            conn,
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %s AND conname = %s)",
            (migration.table_oid, f"embedtui_{migration.id}_not_null"),
        )
    )


def _require_name(migration: Migration, typed_name: str) -> None:
    if typed_name not in (migration.table.name, str(migration.table)):
        raise Refused(f"The typed name is not the table's: {migration.table}.", hint="Type it exactly.")


@contextmanager
def _alone(conn: Connection, migration: Migration) -> Iterator[None]:
    key = (_LOCK_CLASS, migration.id)
    if not _one(conn, "SELECT pg_try_advisory_lock(%s, %s)", key):
        raise Refused("Another process is cleaning up or aborting this migration.", hint="Let it finish.")
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(%s, %s)", key)


@contextmanager
def _holding(conn: Connection, migration: Migration, ending: str, epoch: int | None) -> Iterator[None]:
    """A transaction that holds the route for cleanup or abort; short, since a rollback may wait for it."""
    with conn.transaction():
        conn.execute(_SHORT_WAIT)
        hold_route(conn, migration, ending, expect_epoch=epoch)
        yield


@contextmanager
def _taken_back(conn: Connection, migration: Migration, ending: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.ObjectNotInPrerequisiteState:
        _require_held(conn, migration, ending)
        raise


def _require_held(conn: Connection, migration: Migration, ending: str) -> None:
    """Raises Refused where a mover of the pointer has taken back what was begun."""
    if not held(conn, migration, ending):
        route = read_route(conn, migration.name)
        what = f"rolled back by {route.changed_by}" if route.active is Side.OLD else f"moved by {route.changed_by}"
        raise Refused(
            f"The pointer was {what} meanwhile: the {ending} is cancelled, and nothing was dropped.",
            hint="Look again; it begins anew if you still want it.",
        )


def _epoch(conn: Connection, migration: Migration) -> int | None:
    """The pointer's epoch; None where there is no route yet."""
    row = conn.execute(
        "SELECT epoch FROM embedtui.route WHERE name = %s AND migration = %s", (migration.name, migration.id)
    ).fetchone()
    return int(row[0]) if row else None


def _present(conn: Connection, migration: Migration) -> Migration:
    """The migration as it is now: a cutover by exchanged names changes what its columns are called."""
    now = load_migration(conn, migration.name)
    return now if now is not None and now.id == migration.id else migration


@contextmanager
def _unbounded(conn: Connection) -> Iterator[None]:
    """A transaction without a statement_timeout, for what reads the whole table."""
    with conn.transaction():
        # SET and not set_config(): a query would fix the isolation level
        conn.execute("SET LOCAL statement_timeout = 0")
        yield


def _one(conn: Connection, query: Any, params: Sequence[object] = ()) -> Any:
    row = conn.execute(query, params or None).fetchone()
    assert row is not None
    return row[0]
