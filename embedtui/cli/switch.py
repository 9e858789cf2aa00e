"""`cutover`, `rollback`, `cleanup`, `abort` and `adopt`: moving the pointer, ending a migration, or going on."""

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
    target_options,
)
from embedtui.cli.output import emit_json, note, plain, say
from embedtui.config import Settings
from embedtui.engine.overrides import Overrides, parse_overrides
from embedtui.errors import Refused
from embedtui.formatting import counted
from embedtui.model import Event, Flip, Migration, Noted
from embedtui.postgres.names import shown
from embedtui.postgres.sides.layout import new_side

if TYPE_CHECKING:
    from embedtui.engine.cleanup.choice import Kept
    from embedtui.engine.cutover.how import HowTo


def _overrides(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> Overrides:
    return parse_overrides(texts)


override_option = click.option(
    "--override",
    multiple=True,
    metavar="CHECK=REASON",
    callback=_overrides,
    help='Pass this check and no other, e.g. gate="known good"; again for more. Where rows would lose their only'
    ' vector, with their number: coverage:73="spam". The refusal says what to type; audited.',
)


def _print_sql(statements: Sequence[str], as_json: bool) -> None:
    if as_json:
        emit_json({"statements": statements})
    for statement in () if as_json else statements:
        say(f"{statement};")


def tell(event: Event) -> None:
    """What an act does and waits for, on stderr."""
    if isinstance(event, Noted):
        note(plain(event.text))


@click.command(cls=ExampleCommand, example="embedtui cutover --percent 10 --yes\nembedtui cutover")
@target_options
@click.option("--percent", type=click.IntRange(1, 100), default=100, show_default=True, help="Share of keys to move.")
@override_option
@click.option("--table-name", "typed", metavar="NAME", help="The table's name, typed to confirm.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--postpone", is_flag=True, help="Flip by itself once nothing is queued; a worker of your role has to be running."
)
@click.option("--cancel", is_flag=True, help="Take a postponed cutover back.")
@click.option("--how", is_flag=True, help="Say how this table's application follows, with lines to copy; do nothing.")
@json_option
def cutover(
    settings: Settings,
    percent: int,
    override: Overrides,
    typed: str | None,
    yes: bool,
    postpone: bool,
    cancel: bool,
    how: bool,
    as_json: bool,
) -> None:
    """Move reads to the new side: a pointer, in milliseconds. Asks for a recorded evaluation that passed."""
    with engine_for(settings, tell) as engine, stop_signals() as stop:
        if how:
            _print_how(engine.how(), as_json)
            return
        migration = engine.require()
        if cancel:
            cancelled = engine.cancel_postponed()
            if as_json:
                emit_json({"cancelled": cancelled})
            else:
                say("The postponed cutover is taken back." if cancelled else "No cutover is postponed.")
            return
        if not yes:
            if typed is None and not interactive():
                raise Refused(
                    f"The cutover of {plain(shown(migration.table))} is not confirmed.",
                    hint="Add --yes, or type the table's name: --table-name.",
                )
            note(_what_moves(migration, percent))
            for blocker in engine.blockers("cutover", percent):
                note(f"blocked by {plain(blocker.name)}: {plain(blocker.message)} {plain(blocker.advice)}".rstrip())
            for notice in engine.notices():
                note(f"{plain(notice.name)}: {plain(notice.detail)} {plain(notice.advice)}".rstrip())
            confirm_table(migration, typed, act="Cutover")
        if postpone:
            engine.postpone(percent, override=override)
            if as_json:
                emit_json({"postponed": percent})
            else:
                say("Postponed until nothing is queued. Take it back: embedtui cutover --cancel")
            return
        flip = engine.cutover(percent, override=override, stop=stop)
    _print_flip(flip, as_json, "Rollback: embedtui rollback")


def _print_how(found: HowTo, as_json: bool) -> None:
    if as_json:
        emit_json(found)
        return
    made = f"Made by {found.framework}. " if found.framework else ""
    say(plain(f"{made}{found}"))
    for each in found.connected:
        say(plain(f"  {each.role}, {each.application or 'unnamed'}: {counted(each.sessions, 'session', 'sessions')}"))
    say(plain(f"Strategy {found.strategy}{': ' + found.limit if found.limit else ''}"))
    for way in found.ways:
        say()
        say(plain(f"{way.title[:1].upper()}{way.title[1:]} (strategy {way.strategy})"))
        for remark in (way.possible, way.caution):
            if remark:
                say(plain(f"  {remark}"))
        for place, text in way.lines:
            say(plain(f"  {place}:"))
            say()
            for line in text.splitlines():  # Python's depth stays
                depth = len(line) - len(line.lstrip())
                say(f"    {' ' * depth}{plain(line, 10_000)}" if line else "")
            say()
    say("The whole of it: docs/applications.md")


def _what_moves(migration: Migration, percent: int) -> str:
    """What a cutover would do, in words."""
    side = new_side(migration)
    reads = "All reads" if percent == 100 else f"The reads of {percent} % of the keys"
    return plain(
        f"{reads} of {shown(migration.table)} move from {migration.old_model.name} ({migration.old_column}) to "
        f"{migration.new_model.name} ({shown(side.table)}, {side.embedding}). Back: embedtui rollback"
    )


@click.command(cls=ExampleCommand, example="embedtui rollback")
@target_options
@json_option
def rollback(settings: Settings, as_json: bool) -> None:
    """Move all reads back to the old side, at once and unasked."""
    with engine_for(settings, tell) as engine:
        flip = engine.rollback()
        found = "" if as_json else engine.snapshot().rollback.found
    _print_flip(flip, as_json, f"The old side is {found}." if found else "")


def _print_flip(flip: Flip, as_json: bool, after: str) -> None:
    if as_json:
        emit_json(flip)
        return
    share = f", {flip.canary} % of keys read the new side" if flip.canary else ""
    said = f"in {flip.milliseconds:.1f} ms" if flip.changed else "already: nothing to do"
    say(f"The {flip.active.value} side serves{share} (epoch {flip.epoch}), {said}.")
    if after and flip.changed:
        say(after)


@click.command(cls=ExampleCommand, example="embedtui cleanup --sql\nembedtui cleanup --table documents")
@name_option
@click.option("--table", "typed", metavar="NAME", help="The table's name, typed to confirm.")
@click.option("--sql", "only_sql", is_flag=True, help="Print the exact SQL and do nothing.")
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
            _print_sql(engine.cleanup_sql(**choice), as_json)
            return
        if typed is None and interactive():
            for notice in engine.cleanup_notices(**choice):
                note(f"{plain(notice.name)}: {plain(notice.detail, 2_000)} {plain(notice.advice)}".rstrip())
            choice = engine.cleanup_choice(**choice)
            for blocker in engine.blockers("cleanup", thorough=True, **choice):
                note(f"blocked by {plain(blocker.name)}: {plain(blocker.message)} {plain(blocker.advice)}".rstrip())
            note("This SQL is run:")
            for statement in engine.cleanup_sql(**choice):
                note(f"  {plain(statement, 10_000)}")
        name = confirm_table(migration, typed, act="Cleanup")
        found = engine.snapshot().rollback.found
        engine.cleanup(name, override=override, stop=stop, **choice)
        snapshot = engine.snapshot()
    if as_json:
        emit_json({"table": migration.table, "phase": snapshot.phase})
    else:
        if found:
            say(f"The old side was {found}.")
        say(f"{plain(shown(migration.table))}: done. The audit log stays: embedtui log")
        note(
            "A row written from now on gets no vector from embedtui: the application embeds it, and writes its vector."
        )


@click.command(cls=ExampleCommand, example="embedtui abort --table documents")
@name_option
@click.option("--table", "typed", metavar="NAME", help="The table's name, typed to confirm.")
@json_option
def abort(settings: Settings, typed: str | None, as_json: bool) -> None:
    """Give the migration up and take everything back.

    Drops the new side and all that embedtui put on the table; the log stays.
    """
    with engine_for(settings, tell) as engine, stop_signals() as stop:
        migration = engine.require()
        done = engine.abort(confirm_table(migration, typed, act="Abort"), stop=stop)
        snapshot = engine.snapshot()
    if as_json:
        emit_json({"table": migration.table, "phase": snapshot.phase, "done": done})
    else:
        say(f"{plain(shown(migration.table))}: aborted. {plain(done)}")


@click.command(cls=ExampleCommand, example="embedtui adopt --sql\nembedtui adopt --table documents")
@name_option
@click.option("--table", "typed", metavar="NAME", help="The table's name, typed to confirm.")
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
