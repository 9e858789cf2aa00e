"""`bridge`: the old model is dead, and the new one's queries search the old vectors."""

from __future__ import annotations

import queue
from pathlib import Path

import click

from embedtui.cli.common import ExampleCommand, engine_for, json_option, settings_options, stop_signals
from embedtui.cli.evidence import given_queries, queries_option, query_sql_option
from embedtui.cli.output import emit_json, plain, say
from embedtui.cli.switch import override_option
from embedtui.cli.work import watched
from embedtui.config import Settings
from embedtui.engine.overrides import Overrides
from embedtui.formatting import counted, percent
from embedtui.model import Event, Interval
from embedtui.model.bridge import BridgeFigures, BridgeQueries, BridgeReport
from embedtui.model.evaluation import SERVED


@click.command(cls=ExampleCommand, example="embedtui bridge --table documents --old-retired\nembedtui bridge --off")
@settings_options
@click.option("--rows", type=click.IntRange(100), metavar="COUNT", help="Of the sample; default by the dimensions.")
@click.option("--measure", is_flag=True, help="Fit and measure; what is searched stays as it is.")
@click.option("--off", is_flag=True, help="Search the old side by the old model's vectors again.")
@queries_option
@query_sql_option
@override_option
@json_option
def bridge(
    settings: Settings,
    rows: int | None,
    measure: bool,
    off: bool,
    queries: Path | None,
    query_sql: str | None,
    override: Overrides,
    as_json: bool,
) -> None:
    """The old model is dead: have the new one's queries search the old vectors.

    Prepares the table as `embedtui run` does, and embeds a sample of its rows, which are the backfill's first; then
    fits a map from the new vectors to the old ones, measures it on rows held out, and tells all Routers. Stopped, it
    goes on the next time. Queries tell how real ones fare: by judgments, and beside the old model's own results where
    its vectors of them were logged.
    """
    if off:
        with engine_for(settings) as engine:
            epoch = engine.bridge_off()
        if as_json:
            emit_json({"bridged": False, "epoch": epoch})
        else:
            say(f"The bridge is off (epoch {epoch}): the old side takes the old model's vectors.")
        return
    given = given_queries(queries, query_sql, settings.dsn) or ()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with engine_for(settings, events.put) as engine, stop_signals() as stop:
        report = watched(
            engine,
            lambda: engine.bridge(rows=rows, serve=not measure, override=override, queries=given, stop=stop),
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
    if status.queries is not None:
        _say_queries(status.queries)
    if status.refused:
        say(f"Bound      {plain(status.refused)}")
    if report.served:
        say(f"Searches of the old side go through it (version {report.version}, epoch {report.epoch}).")
        say("Next: embedtui run. Back: embedtui bridge --off")
    else:
        say("Measured only: what is searched is as it was.")


def _say_queries(asked: BridgeQueries) -> None:
    if asked.overlap is not None:
        low, high = percent(asked.overlap.low), percent(asked.overlap.high)
        say(
            f"Queries    {percent(asked.overlap.mean)} ({low} to {high}) of what the old model found"
            f" ({counted(asked.logged, 'query', 'queries')} with its vector, {SERVED})"
        )
    for count, bridged, other, name in (
        (asked.judged_old, asked.ndcg_beside, asked.ndcg_old, "old"),
        (asked.judged, asked.ndcg, asked.ndcg_new, "new"),
    ):
        if bridged is not None and (other is not None or name == "new"):
            beside = f", {name} {_interval(other)}" if other is not None else ""
            say(f"nDCG@10    bridged {_interval(bridged)}{beside} ({counted(count, 'judged query', 'judged queries')})")
    if asked.overlap is None and asked.ndcg is None:
        say(f"Queries    {counted(asked.queries, 'query', 'queries')} kept, none judged or with the old model's vector")


def _interval(figure: Interval) -> str:
    return f"{figure.mean:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _say_figures(name: str, figures: BridgeFigures) -> None:
    first, ten, overlap = figures.recall_1, figures.recall_10, figures.overlap_10
    say(
        f"{name:<10} {percent(first.mean)} find themselves first,"
        f" {percent(ten.mean)} ({percent(ten.low)} to {percent(ten.high)}) in the first ten of"
        f" {figures.pool:,}; {percent(overlap.mean)} of the old neighbours"
        f" ({counted(figures.rows, 'row', 'rows')})"
    )
