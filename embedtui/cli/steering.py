"""What steers the workers, wherever they run: pause, resume, stop, reload, pace."""

from __future__ import annotations

import click

from embedtui.cli.common import ExampleCommand, engine_for, json_option, target_options
from embedtui.cli.output import emit_json, plain, say
from embedtui.config import Settings
from embedtui.config.specs import MOST_CONCURRENCY
from embedtui.errors import Refused
from embedtui.formatting import counted, limit, money


@click.command(cls=ExampleCommand, example='embedtui pause --reason "sale starts at noon"')
@target_options
@click.option("--reason", default="", help="Said to everybody who looks, and kept in the log.")
def pause(settings: Settings, reason: str) -> None:
    """Hold the work of all workers.

    Requests in flight are finished and stored.
    """
    with engine_for(settings) as engine:
        engine.pause(reason)
    say("Paused. Go on with `embedtui resume`.")


@click.command(cls=ExampleCommand, example="embedtui stop\nembedtui stop --worker web1:4711")
@target_options
@click.option("--worker", metavar="HOST:PID", help="Only this one, as `embedtui status` names it.")
@json_option
def stop(settings: Settings, worker: str | None, as_json: bool) -> None:
    """End the processes that do the work, wherever they run: also one that outlived its terminal.

    Requests in flight are finished and stored; `embedtui run` goes on.
    """
    with engine_for(settings) as engine:
        at_work = {f"{each.host}:{each.pid}": each.id for each in engine.snapshot().workers if each.alive}
        if worker is not None and worker not in at_work:
            raise Refused(
                f"No worker {plain(worker)} is at work.",
                hint=f"There are: {plain(', '.join(at_work))}" if at_work else "There are none.",
            )
        asked = engine.stop_workers(None if worker is None else [at_work[worker]])
    if as_json:
        emit_json({"stopping": asked})
    else:
        names = plain(", ".join(at_work if worker is None else [worker]))
        say(f"Stopping: {names}. Go on with `embedtui run`." if asked else "No worker is at work.")


@click.command(cls=ExampleCommand, example="embedtui resume")
@target_options
def resume(settings: Settings) -> None:
    """Let held work go on."""
    with engine_for(settings) as engine:
        engine.resume()
    say("Resumed; running workers go on. Without one: `embedtui run`.")


@click.command(cls=ExampleCommand, example="embedtui reload")
@target_options
@json_option
def reload(settings: Settings, as_json: bool) -> None:
    """Have all workers read their settings again: endpoint, key, limits, prices, throttle, index options.

    Each reads those of its own machine, .env included, within seconds; replies that come within 5 s are stored. One
    that is building an index does so after that. A wait for the provider ends, and limits that were found of its
    requests are found anew. `embedtui log` tells what differs, and what was refused: table, key,
    content, models and dimensions stay.
    """
    with engine_for(settings) as engine:
        asked = engine.reload()
    if as_json:
        emit_json({"reloading": asked})
    else:
        workers = counted(asked, "worker reads its", "workers read their")
        done = f"{workers} settings again: see `embedtui log`."
        say(done if asked else "No worker is at work; every run reads them.")


@click.command(cls=ExampleCommand, example="embedtui pace --tokens-per-minute 500000 --spend-cap 20")
@target_options
@click.option("--requests-per-minute", type=click.FloatRange(0), help="0 takes the limit away.")
@click.option("--tokens-per-minute", type=click.FloatRange(0), help="0 takes the limit away.")
@click.option("--max-concurrency", type=click.IntRange(1, MOST_CONCURRENCY), help="Requests in flight at most.")
@click.option("--spend-cap", "cap", type=click.FloatRange(0), metavar="MONEY", help="0 takes the cap away.")
@json_option
def pace(
    settings: Settings,
    requests_per_minute: float | None,
    tokens_per_minute: float | None,
    max_concurrency: int | None,
    cap: float | None,
    as_json: bool,
) -> None:
    """Show the pace of all workers, or change it while they run."""
    with engine_for(settings) as engine:
        engine.require()
        if any(each is not None for each in (requests_per_minute, tokens_per_minute, max_concurrency, cap)):
            engine.set_pace(
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                max_concurrency=max_concurrency,
                spend_cap=cap,
            )
        backfill = engine.snapshot().backfill
    if as_json:
        names = ("requests_per_minute", "tokens_per_minute", "max_concurrency", "concurrency", "spent", "cap")
        emit_json({name: getattr(backfill, name) for name in names})
        return
    say(f"Requests per minute  {limit(backfill.requests_per_minute)}")
    say(f"Tokens per minute    {limit(backfill.tokens_per_minute)}")
    say(f"Requests in flight   {limit(backfill.max_concurrency)} at most")
    cap_text = "none" if backfill.cap is None else money(backfill.cap)
    say(f"Spent                {money(backfill.spent)} by the new model, cap {cap_text}: it counts no other model's")
    if len(backfill.parts) > 1:
        spent = money(backfill.spent_in_all)
        say(f"                     {spent} with the old model, questions and checks: `embedtui status`")
