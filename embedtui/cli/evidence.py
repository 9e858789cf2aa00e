"""`compare`, `decide` and `verify`: what changed, whether it is better, and whether every row is right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from embedtui.cli.common import ExampleCommand, engine_for, json_option, stop_signals, target_options
from embedtui.cli.output import ProgressLine, emit_json, note, plain, say, to_data
from embedtui.cli.switch import tell
from embedtui.config import Settings
from embedtui.engine.validate import report
from embedtui.engine.validate.catching_up import CATCH_UP_SECONDS
from embedtui.engine.validate.queries import VERDICTS, from_file, from_sql
from embedtui.errors import ExitCode, Remedy, SettingsError
from embedtui.formatting import counted, number
from embedtui.model import Comparison, Interval, QueryComparison, QueryInput, Side, VerifyReport
from embedtui.model.evaluation import EXACT, SERVED
from embedtui.model.lifecycle import mended, possible
from embedtui.postgres.connect import connect

_NONE = "none"
"""Takes a verdict back."""
_FILE = click.Path(path_type=Path, dir_okay=False)

queries_option = click.option(
    "--queries",
    type=_FILE,
    metavar="FILE",
    help='Lines, CSV (text,relevant) or JSONL: {"text": "…", "relevant": [keys]}; else those kept.',
)
query_sql_option = click.option(
    "--query-sql", metavar="SQL", help="A SELECT of texts (and the old model's vectors). Schemas written out."
)


@click.command(
    cls=ExampleCommand, example="embedtui compare --queries questions.jsonl --html report.html\nembedtui compare --json"
)
@target_options
@queries_option
@query_sql_option
@click.option(
    "--where",
    metavar="SQL",
    help="The application's own filter, part of both searches; else gate.where. Schemas written out.",
)
@click.option("--again", is_flag=True, help="Measure anew even where nothing has changed.")
@click.option("--replica", metavar="VARIABLE", help="Environment variable with a replica's connection string.")
@click.option("--k", type=click.IntRange(1, 1000), default=10, show_default=True, help="Results per query.")
@click.option("--show", type=click.IntRange(0), default=3, show_default=True, help="Queries to print in full.")
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Also write a line per result.")
@click.option("--html", "html_file", type=_FILE, metavar="FILE", help="Also write a self-contained page.")
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    settings: Settings,
    queries: Path | None,
    query_sql: str | None,
    k: int,
    where: str | None,
    again: bool,
    replica: str | None,
    show: int,
    csv_file: Path | None,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Search every query on both sides, and record an evaluation.

    The cutover asks for one. Without queries that are kept or given, rows of the table are the queries. Leaves with 5
    unless the gate passes.
    """
    replica_dsn = _from_environment(settings, replica) if replica is not None else None
    wanted = given_queries(queries, query_sql, replica_dsn or settings.dsn)
    for path in (csv_file, html_file):
        if path is not None and not path.parent.is_dir():
            raise SettingsError(f"There is no folder {plain(path.parent)} for {plain(path.name)}.")
    line = ProgressLine()
    with engine_for(settings, tell) as engine, stop_signals() as stop:
        comparison = engine.compare(
            wanted,
            k=k,
            where=where,
            source=queries.name if queries is not None else "sql" if query_sql is not None else "",
            again=again,
            replica_dsn=replica_dsn,
            progress=lambda what, done, total: line.show(f"{what} {number(done)}/{number(total)}"),
            stop=stop,
        )
        line.clear()
        migration, now = engine.require(), engine.snapshot()
    comparison = replace(comparison, checks=tuple(mended(check, now) for check in comparison.checks))
    if csv_file is not None:
        _write(csv_file, report.to_csv(comparison))
    if html_file is not None:
        _write(html_file, report.to_html(comparison, migration))
    if as_json:
        emit_json(json.loads(report.to_json(comparison, migration)))
    else:
        _print_comparison(comparison, show)
        for path in (csv_file, html_file):
            if path is not None:
                say(f"Written      {path}")
    ctx.exit(ExitCode.OK if comparison.verdict == "PASS" else ExitCode.NOT_CLEAN)


def given_queries(file: Path | None, query: str | None, dsn: str) -> tuple[QueryInput, ...] | None:
    """The queries of a file or of a statement; None where neither is given.

    Raises SettingsError: both are, or they cannot be read.
    """
    if file is not None and query is not None:
        raise SettingsError("Queries come from a file or from SQL, not both.", hint="Leave out one of the two.")
    if query is not None:
        with connect(dsn, name="queries", read_only=True) as conn:
            return from_sql(conn, query)
    return from_file(file) if file is not None else None


def _from_environment(settings: Settings, variable: str) -> str:
    value = settings.environ.get(variable, "")
    if not value:
        raise SettingsError(f"{plain(variable)} is not set.", hint="--replica names the variable, not the replica.")
    return value


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from None


def _interval(value: Interval | None) -> str:
    return "unknown" if value is None else f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _print_comparison(comparison: Comparison, show: int) -> None:
    figures, k = comparison.measures, comparison.k
    say(f"Queries      {number(figures.queries)}" + (", partial: not every row has both" if comparison.partial else ""))
    say(f"Overlap@{k:<4} {_interval(figures.overlap)}, low in {number(figures.low_overlap)}")
    say(f"Top 1 kept   {figures.top1_kept:.3f}")
    old, new = comparison.distances(Side.OLD), comparison.distances(Side.NEW)
    if old is not None and new is not None:
        say(f"Distance     first old {old[0]:.3f}, new {new[0]:.3f}; number {k} old {old[1]:.3f}, new {new[1]:.3f}")
        say("             (medians): a limit on it in the application's SQL is right for one model only")
    if figures.judged:
        how = figures.searched
        say(f"nDCG@10      old {_interval(figures.ndcg_old)}, new {_interval(figures.ndcg_new)}, {how}")
        if figures.ndcg_served is not None and how == EXACT:
            say(
                f"             old {_interval(figures.ndcg_served_old)}, new {_interval(figures.ndcg_served)}, {SERVED}"
            )
        say(f"Recall@10    old {_interval(figures.recall_old)}, new {_interval(figures.recall_new)}, {how}")
        say(f"MRR@10       old {_interval(figures.mrr_old)}, new {_interval(figures.mrr_new)}, {how}")
    say(f"Model        exact old against exact new: {_share(figures.model_overlap)}")
    say(f"Index        exact new against index new: {_share(figures.index_recall)}")
    if (bridged := figures.bridged) is not None:
        without = f", {number(bridged.only)} without a vector of the old model" if bridged.only else ""
        queries = counted(bridged.queries, "query", "queries")
        say(f"Bridged      version {bridged.version}: {queries} {bridged.searched}{without}")
        say(f"  overlap    with old {_interval(bridged.overlap_old)}, with new {_interval(bridged.overlap_new)}")
        if bridged.judged:
            say(f"  nDCG@10    bridged {_interval(bridged.ndcg)}, new {_interval(bridged.ndcg_new)}")
    for why in figures.unknown:
        say(f"Unknown      {plain(why)}")
    for query in comparison.queries[:show]:
        say()
        _print_rankings(query)
    say()
    for check in comparison.checks:
        say(
            f"{check.result:<12} {check.name}: {plain(check.detail)}"
            + (f" {plain(check.advice)}" if check.advice else "")
        )
    say(f"Gate         {comparison.verdict or 'not judged'}")


def _print_rankings(query: QueryComparison) -> None:
    number_of = f" (query {query.query_id})" if query.query_id else ""
    overlap = "unknown" if query.old_unknown and not query.bridged else f"{query.overlap:.2f}"
    if query.only_bridged:
        overlap += " of the bridge and new"
    say(f"overlap {overlap}  {plain(query.text, 200)}{number_of}")
    if query.old_unknown:
        note(f"the old side was not searched: {plain(query.old_unknown)}")
    shown = {"old": query.old, "bridged": query.bridged, "new": query.new}
    if not query.bridged:
        del shown["bridged"]
    width = 48 if len(shown) == 2 else 36
    say(f"       {'  '.join(f'{name:<{width}}' for name in shown)}".rstrip())
    for rank in range(max(map(len, shown.values()))):
        sides = []
        for found in shown.values():
            row = found[rank] if rank < len(found) else None
            text = plain(f"{', '.join(row.key)}  {row.text}", width) if row else ""
            sides.append(f"{text:<{width}}")
        say(f"  {rank + 1:>3}  {'  '.join(sides)}".rstrip())


@click.command(cls=ExampleCommand, example='embedtui search "split a path into folder and file"')
@click.argument("text")
@target_options
@click.option("--k", type=click.IntRange(1, 1000), default=10, show_default=True, help="Results per side.")
@click.option(
    "--where",
    metavar="SQL",
    help="The application's own filter, part of both searches; else gate.where. Schemas written out.",
)
@json_option
def search(settings: Settings, text: str, k: int, where: str | None, as_json: bool) -> None:
    """Search both sides for a text of your own, and see the two rankings."""
    with engine_for(settings) as engine:
        found = engine.search_both(text, k=k, where=where)
    if as_json:
        emit_json(found)
    else:
        _print_rankings(found)


@click.command(cls=ExampleCommand, example='embedtui decide 12 new --note "finds the manual, not the blog"')
@click.argument("query_id", type=int)
@click.argument("verdict", type=click.Choice((*VERDICTS, _NONE)))
@target_options
@click.option("--note", help="Why; kept with the operator's name. An empty one takes it away.")
def decide(settings: Settings, query_id: int, verdict: str, note: str | None) -> None:
    """Record your verdict on a query: new, old, same or bad; none takes it back."""
    with engine_for(settings) as engine:
        stands = engine.decide(query_id, "" if verdict == _NONE else verdict, note)
    if verdict != _NONE:
        say(f"Query {query_id}: {verdict}.")
    elif stands is None:
        say(f"Query {query_id}: no verdict any more.")
    else:
        say(f"Query {query_id}: {stands.verdict}, by {plain(stands.who)}.")


@click.command(cls=ExampleCommand, example="embedtui queries\nembedtui queries --forget 12 --forget 13")
@target_options
@click.option("--forget", type=int, multiple=True, metavar="ID", help="Keep it no longer, nor the verdicts on it.")
@json_option
def queries(settings: Settings, forget: tuple[int, ...], as_json: bool) -> None:
    """List the queries that are kept for comparisons, or forget some.

    An evaluation that was recorded with them stands; the next one leaves them out.
    """
    with engine_for(settings) as engine:
        if forget:
            engine.forget_queries(forget)
        kept = engine.kept_queries()
    if as_json:
        emit_json([{"id": each.id, "text": each.query.text, "source": each.source} for each in kept])
        return
    if forget:
        note(f"{counted(len(set(forget)), 'query is', 'queries are')} kept no longer.")
    for each in kept:
        say(f"{each.id:>6}  {plain(each.source, 12):<12}  {plain(each.query.text, 100)}".rstrip())
    note(f"{counted(len(kept), 'query', 'queries')} kept.")


@click.command(cls=ExampleCommand, example="embedtui verify --sample 200\nembedtui verify --repair && embedtui run")
@target_options
@click.option("--sample", type=click.IntRange(0), default=0, help="Also embed this many rows again and compare.")
@click.option("--repair", is_flag=True, help="Queue what is not right; the next run mends it.")
@json_option
@click.pass_context
def verify(ctx: click.Context, settings: Settings, sample: int, repair: bool, as_json: bool) -> None:
    """Scan every row: missing, stale, of the wrong model, faulty. Leaves with 5 unless all is well.

    After the cleanup: rows without a vector, and of a sample those whose vector is of another text.
    """
    with engine_for(settings, tell) as engine, stop_signals() as stop:
        found = engine.verify(sample=sample, repair=repair, stop=stop)
        works = possible((Remedy.RUN,), engine.snapshot())
    if as_json:
        emit_json({**to_data(found), "clean": found.clean})
    else:
        _print_report(found, repair, " and ".join(f"embedtui {each.value}" for each in works))
    ctx.exit(ExitCode.OK if found.clean else ExitCode.NOT_CLEAN)


def _print_report(report: VerifyReport, repair: bool, works: str) -> None:
    """``works``: the commands by which what is queued is embedded now."""
    say(f"Rows         {number(report.rows)}, {number(report.empty)} with no text")
    say(f"Embedded     {number(report.embedded)}")
    for name in ("missing", "stale", "wrong_model", "unverified", "faulty", "skipped", "orphaned"):
        count = getattr(report, name)
        if count:
            say(f"{name.replace('_', ' ').capitalize():<12} {number(count)}")
    if report.sampled:
        say(f"Sampled      {number(report.sampled)}, {number(report.mismatched)} disagree")
    valid = {True: "valid", False: "NOT valid", None: "none"}[report.index_valid]
    say(f"Index        {valid}")
    if report.queued:
        say(f"Queued       {number(report.queued)}")
    if report.awaited:
        say(f"Awaited      {number(report.awaited)} that changed meanwhile; {plain(report.worker)} embeds them")
    if report.unknown:
        say(f"Unknown      {report.unknown}")
    if report.clean:
        say("Clean.")
    elif report.unknown:
        say("Not clean: the application embeds its rows now, and writes their vectors.")
    elif report.undecided:
        say("Not clean: faulty rows wait for a decision. Mend: embedtui faults")
    elif repair:
        say(f"Not clean. Queued for repair: {works}")
    elif report.in_hand and report.worker:
        waits = f"some changes wait longer than {CATCH_UP_SECONDS:.0f} s"
        say(f"Not clean: {waits}. {plain(report.worker)} embeds them: look again in a while.")
    elif report.in_hand:
        say(f"Not clean: the changes that wait are not embedded yet. Mend: {works}")
    else:
        say("Not clean. Mend: embedtui verify --repair")
