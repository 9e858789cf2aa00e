"""`bridge`: the old model is dead, and the new one's queries search the old vectors."""

from __future__ import annotations

import queue

import click

from embedtui.cli.common import ExampleCommand, engine_for, json_option, settings_options, stop_signals
from embedtui.cli.output import emit_json, plain, say
from embedtui.cli.switch import override_option
from embedtui.cli.work import watched
from embedtui.config import Settings
from embedtui.engine.overrides import Overrides
from embedtui.formatting import counted, percent
from embedtui.model import Event
from embedtui.model.bridge import BridgeFigures, BridgeReport


@click.command(cls=ExampleCommand, example="embedtui bridge --table documents --old-retired\nembedtui bridge --off")
@settings_options
@click.option("--rows", type=click.IntRange(100), metavar="COUNT", help="Of the sample; default by the dimensions.")
@click.option("--measure", is_flag=True, help="Fit and measure; what is searched stays as it is.")
@click.option("--off", is_flag=True, help="Search the old side by the old model's vectors again.")
@override_option
@json_option
def bridge(settings: Settings, rows: int | None, measure: bool, off: bool, override: Overrides, as_json: bool) -> None:
    """The old model is dead: have the new one's queries search the old vectors.

    Prepares the table as `embedtui run` does, and embeds a sample of its rows, which are the backfill's first; then
    fits a map from the new vectors to the old ones, measures it on rows held out, and tells all Routers. Stopped, it
    goes on the next time.
    """
    if off:
        with engine_for(settings) as engine:
            epoch = engine.bridge_off()
        if as_json:
            emit_json({"bridged": False, "epoch": epoch})
        else:
            say(f"The bridge is off (epoch {epoch}): the old side takes the old model's vectors.")
        return
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with engine_for(settings, events.put) as engine, stop_signals() as stop:
        report = watched(
            engine,
            lambda: engine.bridge(rows=rows, serve=not measure, override=override, stop=stop),
            stop,
            events,
            again="bridge",
        )
    if as_json:
        emit_json(report)
    else:
        _print(report)


def _print(report: BridgeReport) -> None:
    status = report.status
    kind = status.kind + (f", parameter {status.parameter:g}" if status.parameter is not None else "")
    say(f"Map        {kind}, fitted on {counted(status.rows, 'row', 'rows')}, {report.embedded:,} embedded for it")
    _say_figures("Held out", status.figures)
    for point in status.curve[:-1]:
        _say_figures(f"{point.rows:,}", point.figures)
    for name, figures in status.others.items():
        _say_figures(name, figures)
    if status.refused:
        say(f"Bound      {plain(status.refused)}")
    if report.served:
        say(f"Searches of the old side go through it (version {report.version}, epoch {report.epoch}).")
        say("Next: embedtui run. Back: embedtui bridge --off")
    else:
        say("Measured only: what is searched is as it was.")


def _say_figures(name: str, figures: BridgeFigures) -> None:
    first, ten, overlap = figures.recall_1, figures.recall_10, figures.overlap_10
    say(
        f"{name:<10} {percent(first.mean)} find themselves first,"
        f" {percent(ten.mean)} ({percent(ten.low)} to {percent(ten.high)}) in the first ten of"
        f" {figures.pool:,}; {percent(overlap.mean)} of the old neighbours"
        f" ({counted(figures.rows, 'row', 'rows')})"
    )
