"""`cleanup`, `abort` and `adopt`: ending a migration, or going on with a table that was made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from embedtui.cli.common import (
    ExampleCommand,
    confirm_table,
    engine_for,
    interactive,
    json_option,
    name_option,
    stop_signals,
)
from embedtui.cli.output import emit_json, note, plain, say
from embedtui.cli.switch import override_option, tell
from embedtui.config import Settings
from embedtui.engine.overrides import Overrides
from embedtui.postgres.names import shown

if TYPE_CHECKING:
    from embedtui.engine import Engine
    from embedtui.engine.cleanup.choice import Kept


typed_option = click.option(
    *("--table-name", "--table", "typed"), metavar="NAME", help="The table's name, typed to confirm."
)


def _print_sql(statements: Sequence[str], as_json: bool) -> None:
    if as_json:
        emit_json({"statements": statements})
    for statement in () if as_json else statements:
        say(f"{statement};")


def _say_before(engine: Engine, choice: Kept) -> Kept:
    """Who was heard from, what breaks, and what stands against it, beside the output; the choice as decided by that."""
    for notice in engine.cleanup_notices(**choice):
        note(f"{plain(notice.name)}: {plain(notice.detail, 2_000)} {plain(notice.advice)}".rstrip())
    choice = engine.cleanup_choice(**choice)
    for blocker in engine.blockers("cleanup", thorough=True, **choice):
        note(f"blocked by {plain(blocker.name)}: {plain(blocker.message)} {plain(blocker.advice)}".rstrip())
    return choice


@click.command(cls=ExampleCommand, example="embedtui cleanup --sql\nembedtui cleanup --table documents")
@name_option
@typed_option
@click.option(
    "--sql", "only_sql", is_flag=True, help="Print the exact SQL (and, as notes, who was heard from) and do nothing."
)
@click.option(
    "--rename/--keep-name",
    "rename",
    default=None,
    help="The new column takes the old one's name, or keeps its own. Default: the old one's, unless somebody follows"
    " the new one's.",
)
@click.option(
    "--fold/--no-fold",
    "fold",
    default=None,
    help="Make a side table's vectors a column of the table, or keep the side table. Default: fold, unless a Router"
    " was heard from or somebody names the side table.",
)
@click.option("--keep-old", is_flag=True, help="Leave the old column too; only embedtui's own traces go.")
@click.option("--keep-provenance", is_flag=True, help="Leave the columns with each vector's model and fingerprint.")
@click.option("--archive", metavar="TABLE|FILE", help="First keep the old vectors there, counted before the drop.")
@override_option
@json_option
def cleanup(
    settings: Settings,
    typed: str | None,
    only_sql: bool,
    rename: bool | None,
    fold: bool | None,
    keep_old: bool,
    keep_provenance: bool,
    archive: str | None,
    override: Overrides,
    as_json: bool,
) -> None:
    """Drop the old side and finish. Asks for the table's name; run again, it completes what was interrupted.

    Before it asks it says who was heard from, what it does, and what breaks. What is queued is embedded first; from
    then on embedtui makes no vectors for the table any more.
    """
    with engine_for(settings, tell) as engine, stop_signals() as stop:
        migration = engine.require()

        choice: Kept = {
            "rename": rename,
            "fold": fold,
            "archive": archive,
            "keep_old": keep_old,
            "keep_provenance": keep_provenance,
        }
        if only_sql:
            _say_before(engine, choice)
            _print_sql(engine.cleanup_sql(**choice), as_json)
            return
        seen = engine.snapshot().route.epoch if typed is None else None
        if typed is None and interactive():
            choice = _say_before(engine, choice)
            note("This SQL is run:")
            for statement in engine.cleanup_sql(**choice):
                note(f"  {plain(statement, 10_000)}")
        name = confirm_table(migration, typed, act="Cleanup")
        found = engine.snapshot().rollback.counts
        engine.cleanup(name, override=override, seen=seen, stop=stop, **choice)
        snapshot = engine.snapshot()
    if as_json:
        emit_json({"table": migration.table, "phase": snapshot.phase})
    else:
        if found:
            say(f"The old side had {found}.")
        say(f"{plain(shown(migration.table))}: done. The audit log stays: embedtui log")
        note(
            "A row written from now on gets no vector from embedtui: the application embeds it, and writes its vector."
        )


@click.command(cls=ExampleCommand, example="embedtui abort --table documents")
@name_option
@typed_option
@json_option
def abort(settings: Settings, typed: str | None, as_json: bool) -> None:
    """Give the migration up and take everything back.

    Drops the new side and all that embedtui put on the table; the log stays.
    """
    with engine_for(settings, tell) as engine, stop_signals() as stop:
        migration = engine.require()
        seen = engine.snapshot().route.epoch if typed is None else None
        done = engine.abort(confirm_table(migration, typed, act="Abort"), seen=seen, stop=stop)
        snapshot = engine.snapshot()
    if as_json:
        emit_json({"table": migration.table, "phase": snapshot.phase, "done": done})
    else:
        say(f"{plain(shown(migration.table))}: aborted. {plain(done)}")


@click.command(cls=ExampleCommand, example="embedtui adopt --sql\nembedtui adopt --table documents")
@name_option
@typed_option
@click.option("--sql", "only_sql", is_flag=True, help="Print the exact SQL and do nothing.")
@json_option
def adopt(settings: Settings, typed: str | None, only_sql: bool, as_json: bool) -> None:
    """Go on with a table that was made again, restored or swapped.

    It is recognised by name, key and columns. Vectors are found again by key and fingerprint: what is right is not paid
    for twice. The other way is `embedtui abort`.
    """
    with engine_for(settings, tell) as engine, stop_signals() as stop:
        migration = engine.require()
        if only_sql:
            _print_sql(engine.adopt_sql(), as_json)
            return
        confirm_table(migration, typed, act="Adopt")
        done = engine.adopt(stop=stop)
        snapshot = engine.snapshot()
    if as_json:
        emit_json({"table": migration.table, "phase": snapshot.phase, "done": done})
    else:
        say(f"{plain(shown(migration.table))}: adopted. {plain(done)}")
