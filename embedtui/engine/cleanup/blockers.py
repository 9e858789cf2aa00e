"""What stands against the end of a migration: its state, what depends on a side, rows that would lose their vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psycopg import sql

from embedtui.engine.cleanup import traces
from embedtui.engine.cleanup.choice import CleanupChoice, renames, restores_not_null
from embedtui.engine.cleanup.notices import decided, routers_behind
from embedtui.engine.cleanup.settle import count_for_old_only
from embedtui.engine.cleanup.steps import unbounded
from embedtui.engine.cutover.strategies import cutover_settings
from embedtui.errors import Remedy
from embedtui.formatting import counted, duration
from embedtui.model import Blocker, Command, Migration, PlacementKind, TableName
from embedtui.model.lifecycle import as_stored, refusal
from embedtui.postgres.catalog.column_attributes import default_of, fits
from embedtui.postgres.catalog.facts import Dependent, TableFacts
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_sql, relation, shown, shown_column
from embedtui.postgres.sides import rights, routed_view
from embedtui.postgres.sides.fold import column_for, folded
from embedtui.postgres.sides.layout import follows_by_foreign_key, new_side
from embedtui.postgres.sides.own_writes import look
from embedtui.postgres.state.ending import read_ending
from embedtui.postgres.state.listeners import going_by_view
from embedtui.postgres.state.pointer import read_status, seconds_on_side
from embedtui.postgres.state.queue import count_entries
from embedtui.postgres.state.workers import count_live_workers
from embedtui.postgres.values import same_key_sql
from embedtui.redaction import redact

_DAY = 86400.0


def cleanup_blockers(
    conn: Connection, migration: Migration, choice: CleanupChoice, *, thorough: bool = False
) -> tuple[Blocker, ...]:
    """What stands against a cleanup now, from the catalog and the state; empty once one has begun.

    ``thorough`` also reads the table (once) for rows that would lose their only vector.
    """
    state = read_ending(conn, migration)
    if state.begun:
        return ()
    found = list(_state_blockers(conn, migration, keeps=choice.keep_old or choice.archive is not None))
    facts = inspect_oid(conn, migration.table_oid)
    choice = decided(conn, migration, choice)
    if facts.columns_of and (choice.fold or not choice.keep_old):
        found.append(
            Blocker(
                "columns",
                f"{shown(facts.table)} is {facts.columns_of}: no column can be added to it or dropped alone.",
                "Keep both: --keep-old --no-fold",
            )
        )
    if not choice.keep_old:
        found += dependent_blockers(conn, facts, migration.old_column)
    if choice.fold:
        found += _fold_blockers(conn, migration, facts)
    found += _choice_blockers(conn, migration, choice, facts)
    if thorough and not choice.keep_old:
        found += _row_blockers(conn, migration, choice, facts)
    return tuple(found)


def _state_blockers(conn: Connection, migration: Migration, *, keeps: bool) -> Iterator[Blocker]:
    """``keeps``: the old vectors, in their column or an archive."""
    route = read_status(conn, migration)
    if blocker := refusal(Command.CLEANUP, as_stored(migration, route)):
        yield blocker
        return
    served = seconds_on_side(conn, migration)
    wanted = soak_days(migration) * _DAY
    if served < wanted:
        yield Blocker(
            "soak",
            f"The new side has served for {duration(served, exact=True)} of {duration(wanted, exact=True)}.",
            f"Wait {duration(wanted - served, exact=True)} more.",
            overridable=True,
        )
    queued = count_entries(conn, migration.id)
    if queued and not _drained_by_a_worker(conn, migration):
        current = count_for_old_only(conn, migration)
        if current < queued or keeps:  # else they go with the old side, and nothing is lost
            yield Blocker(
                "queue",
                _what_waits(queued, current),
                "Let a worker catch up.",
                overridable=True,
                remedies=(Remedy.FOLLOW,),
                rows=queued - current or None,
            )
    behind = routers_behind(conn, migration)
    if behind:
        yield Blocker(
            "listeners",
            f"{counted(behind, 'Router has', 'Routers have')} not heard of the switch yet, and may still search the old"
            " side.",
            "Wait for them, or end them.",
            overridable=True,
        )


def _what_waits(queued: int, current: int) -> str:
    """``current``: so much of the queue is known to be about old vectors alone."""
    if not current:
        return (
            f"{counted(queued, 'change still waits for its new vector', 'changes still wait for their new vectors')}."
        )
    waits = counted(queued, "change still waits", "changes still wait")
    if current == queued:
        return f"{waits} to be synced, for old vectors only: the new ones are current."
    rest = counted(queued - current, "still waits for its new vector", "still wait for their new vectors")
    return f"{waits} to be synced: {rest}, {current:,} for old ones only."


def _drained_by_a_worker(conn: Connection, migration: Migration) -> bool:
    """Whether what is queued will be embedded before the old side goes: the contract waits for that."""
    return migration.desired == "run" and count_live_workers(conn, migration.id) > 0


def soak_days(migration: Migration) -> float:
    """Days that the new side has to serve before the old one may go."""
    return cutover_settings(migration).soak_days


def dependent_blockers(conn: Connection, facts: TableFacts, *columns: str) -> Iterator[Blocker]:
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


def _fold_blockers(conn: Connection, migration: Migration, facts: TableFacts) -> Iterator[Blocker]:
    """What stands against writing every row of the table, and against the side table's end."""
    oid = _one(conn, "SELECT to_regclass(%s)::oid::int8", (relation(migration.new_table).as_string(conn),))
    side = inspect_oid(conn, oid) if oid is not None else None
    fired = look(conn, folded(migration, migration.old_column)).names
    if not facts.is_owner:
        yield Blocker(
            "fold", f"A column of {shown(migration.table)} takes its owner, {facts.owner}.", "Or keep both: --no-fold."
        )
    wrong = routed_view.obstacle(conn, folded(migration, migration.old_column)) if migration.stored.view else None
    if wrong is not None:
        yield Blocker("fold", *wrong)
    going = "" if migration.stored.view else going_by_view(conn, migration.name)
    if going:
        yield Blocker(
            "routed_view",
            f"{going} finds the new side by the routed view, which is not asked for: every search would fail.",
            "Ask for it: embedtui view",
            overridable=True,
        )
    if fired:
        yield Blocker(
            "fold",
            f"The fold updates every row and fires {fired}.",
            "Keep the side table (--no-fold), or override this where that does no harm.",
            overridable=True,
        )
    if facts.unchecked:
        yield Blocker(
            "fold",
            f"{', '.join(map(shown_column, facts.unchecked))} is NOT VALID: no row that breaks it takes its vector.",
            "VALIDATE CONSTRAINT first, keep the side table (--no-fold), or override this where none does.",
            overridable=True,
        )
    if facts.subscribed:
        yield Blocker(
            "fold",
            f"{shown(migration.table)} is the target of a subscription: what comes from there knows no new column.",
            "Keep the side table (--no-fold), or override this.",
            overridable=True,
        )
    if side is not None:
        yield from dependent_blockers(conn, side, *(column.name for column in side.columns))


def _choice_blockers(
    conn: Connection, migration: Migration, choice: CleanupChoice, facts: TableFacts
) -> Iterator[Blocker]:
    strategy = cutover_settings(migration).strategy
    changed = choice.fold or (renames(migration, choice) and not choice.keep_old)
    if changed and strategy in ("env_file", "hook"):
        told = shown(migration.new_table) if choice.fold else migration.new_column
        becomes = f"{migration.table}.{migration.old_column}" if choice.fold else migration.old_column
        yield Blocker(
            "names",
            f"Services that {strategy} told of {told} fail once it is called {becomes}.",
            f"Keep its name ({'--no-fold' if choice.fold else '--keep-name'}), or override this where none goes by what"
            " it was told.",
            overridable=True,
        )
    if choice.fold or renames(migration, choice):
        for publication in facts.publications:
            yield Blocker(
                "publications",
                f"Publication {redact(publication.name)} carries the table: subscribers would get the new vectors under"
                " the old name.",
                "Keep the new name, or bring the subscribers along and override this.",
                overridable=True,
            )
        new = folded(migration, column_for(conn, migration)) if choice.fold else migration
        granted = not rights.mirrored(conn, new) and _one(
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
    if not fits(migration) and renames(migration, choice) and default_of(conn, migration) is not None:
        yield Blocker(
            "default",
            f"The default of {migration.old_column} is a vector of {migration.old_model.dimensions} dimensions.",
            "Override this: the column then has no default.",
            overridable=True,
        )
    if migration.placement is PlacementKind.TABLE and not choice.fold and not follows_by_foreign_key(migration):
        yield Blocker(
            "no_foreign_key",
            f"Without embedtui's triggers, deletes and key changes no longer reach {migration.new_table}.",
            "Let the application see to it (or add a foreign key), and override this.",
            overridable=True,
        )
    yield from archive_blockers(conn, choice.archive)


def archive_blockers(conn: Connection, archive: TableName | Path | None) -> Iterator[Blocker]:
    """Why the old vectors cannot be kept there."""
    if isinstance(archive, TableName):
        query = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s"
        may = conn.execute(query, [archive.schema]).fetchone()
        if may is None:
            hint = 'Names are in lower case unless they are quoted: --archive \'"My Schema"."Old Vectors"\''
            yield Blocker("archive", f"There is no schema {shown_column(archive.schema)} for the old vectors.", hint)
        elif not may[0]:
            hint = "Name another schema, or have CREATE on it granted."
            yield Blocker("archive", f"This role may make no table in schema {shown_column(archive.schema)}.", hint)
        elif _one(conn, "SELECT to_regclass(%s) IS NOT NULL", (relation(archive).as_string(conn),)):
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
        present += sql.SQL(
            " OR {} IN (SELECT key FROM embedtui.queue WHERE migration = {} AND text_key IS NULL)"
        ).format(key_sql(migration, "t"), sql.Literal(migration.id))
    query = sql.SQL(
        "SELECT count(*) FILTER (WHERE t.{old} IS NOT NULL AND NOT ({present})),"
        " count(*) FILTER (WHERE NOT ({present})) FROM {table} t"
    ).format(old=sql.Identifier(migration.old_column), present=present, table=relation(migration.table))
    with unbounded(conn):
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
    if missing and restores_not_null(migration, choice, facts):
        yield Blocker(
            "not_null",
            f"{migration.old_column} is NOT NULL, and {counted(missing, 'row has', 'rows have')} no new vector.",
            "Fill them, or override this: the column then stays nullable.",
            overridable=True,
            rows=missing,
        )


def abort_blockers(conn: Connection, migration: Migration) -> tuple[Blocker, ...]:
    """What stands against an abort now."""
    state = read_ending(conn, migration)
    stored = replace(migration, phase=state.phase)
    blocker = refusal(Command.ABORT, as_stored(stored, read_status(conn, migration)))
    if blocker is not None and blocker.name == "phase":
        return (blocker,)
    if state.begun:
        return ()
    found = [blocker] if blocker is not None else []
    side = new_side(migration)
    view = routed_view.find(conn, migration)
    if view is not None:
        found += [
            Blocker("dependents", f"{what} depends on the routed view {view}.", "Drop it first.")
            for what in routed_view.dependents(conn, view)
        ]
    for each in traces.find(conn, migration):
        columns = [side.embedding, side.model, side.source, *migration.key_columns] if each.side_table else each.columns
        if columns:
            facts = inspect_oid(conn, each.oid)
            rest = tuple(d for d in facts.dependents if view is None or d.name != view.regclass)
            found += dependent_blockers(conn, replace(facts, dependents=rest), *columns)
    return tuple(found)


def _one(conn: Connection, query: Any, params: Sequence[object] = ()) -> Any:
    row = conn.execute(query, params or None).fetchone()
    assert row is not None
    return row[0]
