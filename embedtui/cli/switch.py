"""`cutover` and `rollback`: moving the pointer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from embedtui.cli.common import (
    ExampleCommand,
    confirm_table,
    engine_for,
    interactive,
    json_option,
    stop_signals,
    target_options,
)
from embedtui.cli.output import emit_json, note, plain, say
from embedtui.config import Settings
from embedtui.engine.overrides import Overrides, parse_overrides
from embedtui.errors import Refused
from embedtui.formatting import counted
from embedtui.model import Event, Flip, Migration, Noted
from embedtui.model.lifecycle import so_now
from embedtui.postgres.names import shown
from embedtui.postgres.sides.layout import new_side

if TYPE_CHECKING:
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


def tell(event: Event) -> None:
    """What an act does and waits for, on stderr."""
    if isinstance(event, Noted):
        note(plain(event.text))


@click.command(cls=ExampleCommand, example="embedtui cutover --percent 10 --yes\nembedtui cutover")
@target_options
@click.option(
    "--percent", type=click.IntRange(1, 100), default=100, show_default=True, help="Of keys, not of searches."
)
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
        seen = None
        if not yes:
            here = engine.snapshot()
            seen = here.route.epoch
            if typed is None and not interactive():
                raise Refused(
                    f"The cutover of {plain(shown(migration.table))} is not confirmed.",
                    hint="Add --yes, or type the table's name: --table-name.",
                )
            note(_what_moves(migration, percent))
            for said in so_now(here):
                note(plain(said))
            for blocker in engine.blockers("cutover", percent):
                note(f"blocked by {plain(blocker.name)}: {plain(blocker.message)} {plain(blocker.advice)}".rstrip())
            for notice in engine.notices():
                note(f"{plain(notice.name)}: {plain(notice.detail)} {plain(notice.advice)}".rstrip())
            confirm_table(migration, typed, act="Cutover")
        if postpone:
            engine.postpone(percent, override=override, seen=seen)
            if as_json:
                emit_json({"postponed": percent})
            else:
                say("Postponed until nothing is queued. Take it back: embedtui cutover --cancel")
            return
        flip = engine.cutover(percent, override=override, seen=seen, stop=stop)
        now = None if as_json else engine.snapshot()
        followed, lands = now is None or now.followed, now.lands if now is not None else ""
    _print_flip(flip, as_json, plain(f"Rollback{lands and ', '}{lands}: embedtui rollback"))
    if not followed:
        note("No Router was heard from: whatever does not ask the database for the route stays where it was.")
        note("How this table's application follows: embedtui cutover --how")


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
    each = "" if percent == 100 else "Each key keeps its side: of the searches it may be another share. "
    return plain(
        f"{reads} of {shown(migration.table)} move from {migration.old_model.name} ({migration.old_column}) to "
        f"{migration.new_model.name} ({shown(side.table)}, {side.embedding}). {each}Back: embedtui rollback"
    )


@click.command(cls=ExampleCommand, example="embedtui rollback")
@target_options
@json_option
def rollback(settings: Settings, as_json: bool) -> None:
    """Move all reads back to the old side, at once and unasked."""
    with engine_for(settings, tell) as engine:
        flip = engine.rollback()
        now = None if as_json else engine.snapshot()
    lands = f"It landed {now.lands}." if now is not None and now.lands else ""
    found = now.rollback.sentence if now is not None else ""
    _print_flip(flip, as_json, plain(f"{lands} {found}".strip()))


def _print_flip(flip: Flip, as_json: bool, after: str) -> None:
    if as_json:
        emit_json(flip)
        return
    share = f", {flip.canary} % of the keys read the new side" if flip.canary else ""
    said = f"in {flip.milliseconds:.1f} ms" if flip.changed else "already: nothing to do"
    say(f"The {flip.active.value} side serves{share} (epoch {flip.epoch}), {said}.")
    if after and flip.changed:
        say(after)
