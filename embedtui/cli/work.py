"""The work itself and what came of it: run, status, index, faults, log."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import click

from embedtui.cli.common import ExampleCommand, engine_for, json_option, settings_options, stop_signals, target_options
from embedtui.cli.output import Picture, ProgressLine, emit_json, note, plain, progress_text, say, table, to_data
from embedtui.config import Settings
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode, Interrupted, SettingsError
from embedtui.formatting import counted, duration, money, number
from embedtui.model import (
    BatchStatus,
    EvaluationStatus,
    Event,
    Failed,
    FaultState,
    Held,
    Noted,
    Phase,
    PhaseChanged,
    Progressed,
    RouteFlipped,
    RouteStatus,
    Snapshot,
    Spent,
    hold_word,
)
from embedtui.model.bridge import in_words
from embedtui.model.evaluation import EXACT, SERVED
from embedtui.model.lifecycle import mended
from embedtui.postgres.names import shown

if TYPE_CHECKING:
    from embedtui.engine import Engine

T = TypeVar("T")

POLL_SECONDS = 0.5


@click.command(cls=ExampleCommand, example="embedtui run\nembedtui run --until 5")
@settings_options
@click.option("--until", type=click.FloatRange(0, 100), metavar="PERCENT", help="Stop at this share of the rows.")
@click.option("--follow", is_flag=True, help="Go on keeping both sides current until stopped.")
@json_option
@click.pass_context
def run(ctx: click.Context, settings: Settings, until: float | None, follow: bool, as_json: bool) -> None:
    """Do the work that is due: prepare, backfill, index. Goes on where it was left, also beside other processes.

    Ctrl-C stops cleanly: what is paid for is stored. Progress goes to stderr. Leaves with 5 where rows are faulty.
    An operator's pause is not lifted by it (exit code 6; with --follow it waits): `embedtui resume` does that.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with engine_for(settings, events.put) as engine, stop_signals() as stop:
        snapshot = watched(engine, lambda: engine.run(stop, until=until, follow=follow), stop, events, again="run")
    if as_json:
        emit_json(_status_data(snapshot))
    else:
        for line in _status_lines(snapshot):
            say(line)
    ctx.exit(ExitCode.NOT_CLEAN if snapshot.faulty else ExitCode.OK)


def watched(
    engine: Engine,
    act: Callable[[], T],
    stop: threading.Event,
    events: queue.SimpleQueue[Event] | None = None,
    *,
    again: str = "",
) -> T:
    """Do something long on a thread, while this one shows how far it is and stays free for signals.

    ``again``: the command that goes on where it was stopped.
    """
    progress = ProgressLine()
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(act())
        except BaseException as error:  # noqa: BLE001 (raised again below)
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name="act", daemon=True)
    thread.start()
    stopping = False
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if stop.is_set() and not stopping and thread.is_alive():
            stopping = True
            progress.line("Stopping: requests in flight are finished and stored. Ctrl-C again leaves at once.")
        _tell(events, progress)
        # the database may be away for a while; the act itself says so
        with contextlib.suppress(EmbedtuiError):
            progress.show(progress_text(engine.snapshot()))
    _tell(events, progress)
    progress.clear()
    try:
        return outcome.result()
    except EmbedtuiError:
        if again and stop.is_set():
            hint = f"Go on with `embedtui {again}`."
            raise Interrupted("Stopped. What is paid for is stored.", hint=hint) from None
        raise


def _tell(events: queue.SimpleQueue[Event] | None, progress: ProgressLine) -> None:
    """Print what happened; progress itself comes from the snapshots."""
    while events is not None:
        try:
            event = events.get_nowait()
        except queue.Empty:
            return
        if isinstance(event, Progressed):
            continue
        text = plain(event.text)
        if isinstance(event, Failed) and event.hint:
            text = f"{text} {plain(event.hint)}"
        if isinstance(event, PhaseChanged | Held | Failed | RouteFlipped | Noted):
            progress.line(text)


@click.command(cls=ExampleCommand, example="embedtui status --watch")
@target_options
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C; with --json an object a line.")
@click.option("--every", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds between two.")
@json_option
def status(settings: Settings, watch: bool, every: float, as_json: bool) -> None:
    """Show where a migration stands, wherever its workers run."""
    picture, lost = Picture(again=watch), ""
    with engine_for(settings) as engine, stop_signals() as stop:
        while True:
            try:
                snapshot = engine.snapshot()
                if snapshot.migration is None and settings.name is not None:
                    engine.require()  # says that there is none of this name
            except DatabaseError as error:
                if not watch:
                    raise
                said, lost = lost, error.title
                if said != lost:  # its message names the time-out or the port tried last, which differ
                    note(f"embedtui: {lost}: {plain(error.message)}")
            else:
                if lost:
                    note("embedtui: The database is back.")
                lost = ""
                if as_json:
                    emit_json(_status_data(snapshot))
                else:
                    picture.show(_status_lines(snapshot))
            if not watch or stop.wait(every):
                return


def _status_data(snapshot: Snapshot) -> dict[str, object]:
    data: dict[str, object] = to_data(snapshot)
    data["faulty"] = snapshot.faulty
    jobs = [{**to_data(job), "eta_seconds": job.eta_seconds} for job in snapshot.batch.jobs]
    waiting = {"jobs": jobs, "waiting": snapshot.batch.waiting, "eta_seconds": snapshot.batch.eta_seconds}
    data["batch"] = {**to_data(snapshot.batch), **waiting}
    return data


def _rollback(snapshot: Snapshot) -> str:
    status, why = snapshot.rollback, plain(snapshot.rollback.why)
    if snapshot.phase is Phase.DONE:
        return why
    if snapshot.fresh_but_for:
        return f"fresh but for {number(snapshot.fresh_but_for)} on the way"
    if not snapshot.new_reads and not snapshot.served_behind:
        return ", ".join(filter(None, ("nothing to roll back", status.found, why)))
    said = status.found
    if status.fresh is not False:
        said = "unknown" if status.fresh is None else "fresh"
    said = f"{said}: {why}" if why else said
    return f"{said}; it lands {plain(lands)}" if (lands := snapshot.lands) else said


def _followers(route: RouteStatus) -> str:
    """Who follows the pointer, and how well."""
    if not route.listeners:
        return "no Router heard from: searches are not counted"
    said = counted(len(route.listeners), "Router", "Routers")
    behind = sum(each.epoch < route.epoch for each in route.listeners)
    flips = [each.flip_ms for each in route.listeners if each.flip_ms is not None]
    if behind:
        said += f" ({behind} still on an older epoch)"
    elif flips:
        said += f" (the last flip reached all in {max(flips):,.0f} ms)"
    old, new = (sum(getattr(each, name) for each in route.listeners) for name in ("searches_old", "searches_new"))
    return f"{said}, searches {number(old)} old, {number(new)} new"


def _batch_lines(batch: BatchStatus) -> Iterator[str]:
    if not batch.count:
        return
    yield (
        f"Batch      {number(batch.rows)} rows by {counted(batch.count, 'job', 'jobs')}, {money(batch.spent)}"
        f" ({money(batch.live)} at the live price)"
    )
    for job in batch.jobs:
        eta = "" if job.eta_seconds is None else f", ready in about {duration(job.eta_seconds)}"
        missing = ", not known to the provider at present" if job.missing else ""
        yield (
            f"           {plain(job.batch) or f'job {job.id}'}: {plain(job.status)}, {number(job.inputs)} rows,"
            f" {duration(job.age_seconds)} old{eta}{missing}"
        )


def _evaluation_lines(evaluation: EvaluationStatus, snapshot: Snapshot) -> Iterator[str]:
    """Its verdict, what speaks against a cutover, and what mends that."""
    void = "" if evaluation.valid else f", void: {plain(evaluation.why_void)}"
    yield (
        f"Evaluation {evaluation.verdict}, {number(evaluation.queries)} queries, "
        f"mean overlap {evaluation.mean_overlap:.2f} {evaluation.searched}{void}"
    )
    if evaluation.near_void:
        yield f"           {plain(evaluation.near_void)}"
    if evaluation.judged_old is not None and evaluation.judged_new is not None:
        how, served = evaluation.searched, evaluation.judged_served
        also = f", {served:.2f} {SERVED}" if served is not None and how == EXACT else ""
        yield f"           nDCG {evaluation.judged_old:.2f} old, {evaluation.judged_new:.2f} new {how}{also}"
    if evaluation.judged_moved:
        yield f"           {plain(evaluation.judged_moved)}"
    for check in (mended(each, snapshot) for each in evaluation.checks):
        yield f"           {check.result} {plain(check.name)}: {plain(f'{check.detail} {check.advice}'.rstrip())}"
    if evaluation.verdicts_since is not None:
        since = evaluation.verdicts_since
        said = f"{counted(since, 'verdict', 'verdicts')} given" if since else "verdicts taken back"
        yield f"           {said} since: `embedtui compare` has the gate count that"


def _part(part: Spent) -> str:
    unpriced = f" ({number(part.unpriced)} unpriced)" if part.unpriced and part.money is not None else ""
    cost = money(part.money, unknown="price unknown")
    return f"{part.what} {cost}{unpriced}, {counted(part.tokens, 'token', 'tokens')}"


def _fault_lines(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.faulty_in_all:
        yield f"Faults     {snapshot.faulty_in_all}, by reason:"
    for group in snapshot.faults:
        yield f"Faults     {number(group.rows)} {group.state.value}: {plain(group.reason)}"


def _demo(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.demo:
        yield f"Database   that of a demo at {plain(snapshot.demo)}, not your own"


def _route_lines(snapshot: Snapshot) -> Iterator[str]:
    """Who serves, and how well; what a rollback would find."""
    route = snapshot.route
    canary = f", {route.canary} % of the keys read the new side" if route.canary else ""
    yield f"Route      {route.active.value} serves{canary}, {_followers(route)}"
    if snapshot.unanswered:
        work = f"; bridging, {plain(snapshot.bridge_work)}" if snapshot.bridge_work else ""
        yield f"Old model  SEARCHES FAIL: {plain(snapshot.old_gone)}{work}"
    if route.bridged and route.bridge_found is not None:
        yield f"Bridged    version {route.bridge}: {in_words(route.bridge_found)}"
    yield f"{'Serves' if snapshot.served_behind else 'Rollback':<11}{_rollback(snapshot)}"


def _status_lines(snapshot: Snapshot) -> Iterator[str]:
    migration = snapshot.migration
    yield from _demo(snapshot)
    if migration is None:
        yield "No migration has begun in this database."
        yield "Next: embedtui plan, then embedtui run"
        return
    backfill = snapshot.backfill
    yield f"Migration  {plain(migration.name)}: {plain(shown(migration.table))}, {migration.placement.value} placement"
    yield (
        f"Models     {plain(migration.old_model.name)} ({migration.old_model.dimensions}) to "
        f"{plain(migration.new_model.name)} ({migration.new_model.dimensions})"
    )
    for notice in snapshot.notices:
        yield f"           ! {plain(notice)}"
    yield f"Phase      {snapshot.phase.value}, {snapshot.condition.value}"
    for hold in snapshot.reasons:
        yield f"           {plain(hold_word(hold.name))}: {plain(hold.detail)}"
    # nobody counts the rows of one that has ended
    rows = f"{number(backfill.rows)} of {snapshot.about}{number(backfill.total)} {snapshot.counts}, "
    rows = "" if snapshot.phase.ended else rows
    cap = f" of {money(backfill.cap)}" if backfill.cap is not None and not snapshot.phase.ended else ""
    yield f"Backfill   {rows}{number(backfill.tokens)} tokens, spent {money(backfill.spent)}{cap} by the new model"
    if len(backfill.parts) > 1:
        parts = "; ".join(map(_part, backfill.parts))
        yield f"Spent      {money(backfill.spent_in_all)} in all, a cap counts the new model alone: {parts}"
    if backfill.rate is not None:
        yield f"           {number(backfill.rate)} rows/s, ETA {duration(backfill.eta_seconds)}"
    yield from _batch_lines(snapshot.batch)
    index = snapshot.index
    if index.exists or index.phase:
        state = "valid" if index.valid else plain(index.phase) or "not valid"
        yield f"Index      {plain(index.name)} ({index.method.value}), {state}"
    if snapshot.old_index_lost:
        what = "searches read" if snapshot.old_serves else "after a rollback searches would read"
        yield f"Old index  LOST: {plain(snapshot.old_index_lost)}; {what} the whole table. Make it again"
    if snapshot.new_index_lost:
        yield f"New index  LOST: {plain(snapshot.new_index_lost)}; searches read the whole table: embedtui index"
    sync = snapshot.sync
    yield (
        f"Sync       {number(sync.queued)} queued"
        + (f", oldest {duration(sync.oldest_seconds)}" if sync.queued else "")
        + (f"; old side {counted(aged, 'row', 'rows')} behind" if (aged := snapshot.rollback_behind) else "")
    )
    yield from _fault_lines(snapshot)
    yield from _route_lines(snapshot)
    if snapshot.evaluation is not None:
        yield from _evaluation_lines(snapshot.evaluation, snapshot)
    for worker in snapshot.workers:
        if worker.alive:
            yield f"Worker     {plain(worker.host)}:{worker.pid} {plain(worker.doing)}"
    if (dead := snapshot.died) is not None:
        heard = duration(dead.heartbeat_seconds)
        yield f"Worker     {plain(dead.host)}:{dead.pid} DIED, last heard of {heard} ago: was {plain(dead.doing)}"
    if snapshot.next_act:
        yield f"Next       {plain(snapshot.next_act)}" + (f": {plain(snapshot.next_why)}" if snapshot.next_why else "")


@click.command(cls=ExampleCommand, example="embedtui index\nembedtui index --hold")
@target_options
@click.option("--hold", "held", flag_value=True, default=None, help="Keep the workers from building it.")
@click.option("--release", "held", flag_value=False, help="Let the workers build it.")
@json_option
def index(settings: Settings, held: bool | None, as_json: bool) -> None:
    """Build the new side's index now, without waiting for the run; or hold it back.

    Reads and writes go on meanwhile; Ctrl-C takes the half-built index away.
    """
    if held is not None:
        with engine_for(settings) as engine:
            engine.hold_index(held)
        if as_json:
            emit_json({"index_held": held})
        else:
            say("The index is held back." if held else "The workers may build the index.")
        return
    with engine_for(settings) as engine, stop_signals() as stop:
        built = watched(engine, lambda: engine.build_index(stop), stop)
    if as_json:
        emit_json(built)
    else:
        say(f"{plain(built.name) or 'No index is wanted'}: {'valid' if built.valid else 'not valid'}.")


@click.command(
    cls=ExampleCommand,
    example="embedtui faults\nembedtui faults retry --all\nembedtui faults skip 17 18",
    # the word that scripts know, and that the state is stored by
    context_settings={"token_normalize_func": lambda token: "shorten" if token == "truncate" else token},
)
@click.argument("act", type=click.Choice(["list", "retry", "skip", "shorten"]), default="list")
@click.argument("ids", nargs=-1, type=int)
@target_options
@click.option("--all", "everything", is_flag=True, help="All that are open.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Listed at most.")
@json_option
def faults(settings: Settings, act: str, ids: tuple[int, ...], everything: bool, limit: int, as_json: bool) -> None:
    """List rows that could not be embedded, and decide.

    retry embeds them again, skip leaves them without that side's vector, shorten cuts their text to what its model
    takes.
    """
    if act != "list" and bool(ids) == everything:
        raise SettingsError(f"Which faults to {act} is not said.", hint="Name their numbers, or --all.")
    with engine_for(settings) as engine:
        if act == "list":
            rows = engine.faults(limit)
            if as_json:
                emit_json({"faults": rows, "groups": engine.snapshot().faults})
            elif not rows:
                say("No faults.")
            else:
                heads = ["id", "key", "side", "class", "state", "attempts", "reason"]
                for line in table(
                    [
                        [
                            str(row.id), plain(", ".join(row.key), 40), row.side.value, row.fault_class.value,
                            "shorten" if row.state is FaultState.TRUNCATE else row.state.value, str(row.attempts),
                            plain(row.reason, 120),
                        ]
                        for row in rows
                    ],
                    heads,
                ):  # fmt: skip
                    say(line)
            return
        chosen: Sequence[int] | None = None if everything else ids
        count = {"retry": engine.retry_faults, "skip": engine.skip_faults, "shorten": engine.truncate_faults}[act](
            chosen
        )
    if as_json:
        emit_json({"act": act, "rows": count})
    else:
        say(f"{counted(count, 'row', 'rows')}: {_DECIDED[act]}")


_DECIDED = {
    "retry": "embedded again by the next run.",
    "skip": "left without a vector of their text on the side they are listed for.",
    "shorten": "embedded again, cut to what the side's model takes.",
}


@click.command(cls=ExampleCommand, example="embedtui log --limit 20")
@target_options
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="So many of the newest.")
@json_option
def log(settings: Settings, limit: int, as_json: bool) -> None:
    """Show the audit log: when, who, where, which act, why.

    The newest line is the last, as in a log file and on the dashboard.
    """
    with engine_for(settings) as engine:
        entries = engine.audit(limit)[::-1]
    if as_json:
        emit_json({"entries": entries})
        return
    for entry in entries:
        when = entry.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        say(f"{when}  {plain(entry.who)}@{plain(entry.host)}  {plain(entry.act)}  {plain(entry.detail)}".rstrip())
