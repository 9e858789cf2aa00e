"""A comparison written down: JSON and CSV for programs, and a self-contained page to attach to a change request."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from string import Template

from embedtui.engine.validate.figures import LOW_OVERLAP
from embedtui.formatting import counted
from embedtui.model import Check, Comparison, Interval, Measures, Migration, QueryComparison, RankedRow, Side
from embedtui.model.evaluation import EXACT, SERVED

FORMAT = 3
"""Version of the JSON's shape; grows when a name changes its meaning."""

EXCERPT = 280
"""Characters of a result's text in the page."""

# What could drive a terminal, or turn a line of text around: C0 and C1 controls but line breaks, bidi and zero width.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")

_NUMBER = re.compile(r"-?\d+(\.\d+)?")

_RESULTS = {
    "pass": ("good", "✓ pass"),
    "warn": ("unsure", "! warn"),
    "fail": ("bad", "✗ fail"),
    "inconclusive": ("unsure", "? inconclusive"),
    "unknown": ("unsure", "? unknown"),
}

_VERDICTS = {"PASS": ("good", "✓ PASS"), "FAIL": ("bad", "✗ FAIL"), "INCONCLUSIVE": ("unsure", "? INCONCLUSIVE")}

_PARTS = ("html", "js")

_COLUMNS = (
    *("query_id", "query", "overlap", "rbo", "ndcg_old", "ndcg_new", "verdict", "note"),
    *("side", "rank", "key", "distance", "other_rank", "relevant", "missed_by_index", "text"),
    *("title", "since"),
)

_OPERATORS = {"new": "new better", "old": "old better", "same": "same", "bad": "both bad"}


def to_json(comparison: Comparison, migration: Migration) -> str:
    """Everything that was measured, as one JSON object; keys of rows are lists of text."""
    document: dict[str, object] = {
        "format": FORMAT,
        "table": str(migration.table),
        "old_model": migration.old_model.name,
        "new_model": migration.new_model.name,
        "old_dimensions": migration.old_model.dimensions,
        "new_dimensions": migration.new_model.dimensions,
        **asdict(comparison),
        "at": comparison.at.isoformat() if comparison.at is not None else None,
    }
    del document["judged_rows"]  # for the next comparison to be told from
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def to_csv(comparison: Comparison) -> str:
    """A line per query, side and rank. Cells that a spreadsheet would take for a formula begin with an apostrophe."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for query in comparison.queries:
        about = [query.query_id, _cell(query.text), f"{query.overlap:.4f}", f"{query.rbo:.4f}"]
        about += ["" if figure is None else f"{figure:.4f}" for figure in (query.ndcg_old, query.ndcg_new)]
        about += [query.verdict, _cell(query.note)]
        for side, rows in (("old", query.old), ("bridged", query.bridged), ("new", query.new)):
            for row in rows:
                relevant = int(row.key in query.relevant) if query.relevant else ""
                place = [side, row.rank, _cell(_key(row)), repr(row.distance), row.other_rank or "", relevant]
                writer.writerow([*about, *place, int(row.missed), _cell(row.text), _cell(row.title), _since(row)])
    return out.getvalue()


def _since(row: RankedRow) -> str:
    """What became of the row after the comparison."""
    return "deleted" if row.deleted else "edited" if row.edited else ""


def _cell(text: str) -> str:
    text = _plain(text)
    formula = text.lstrip().startswith(("=", "+", "-", "@")) and not _NUMBER.fullmatch(text)
    return "'" + text if formula else text


def _key(row: RankedRow) -> str:
    return row.key[0] if len(row.key) == 1 else json.dumps(row.key, ensure_ascii=False)


def _plain(text: str) -> str:
    return _CONTROL.sub("", text)


def _html(text: str) -> str:
    return escape(_plain(text), quote=True)


# --------------------------------------------------------------------------------------------------------- the page


def to_html(comparison: Comparison, migration: Migration) -> str:
    """A page that needs no network: summary, charts, every query's two rankings.

    Its one script, which the page's policy names by its digest, finds, filters and orders the queries.
    """
    title = f"{migration.table}: {migration.old_model.name} → {migration.new_model.name}"
    body = [
        f"<h1>{_html(str(migration.table))}: <span class=old>{_html(migration.old_model.name)}</span> → "
        f"<span class=new>{_html(migration.new_model.name)}</span></h1>",
        f"<p class=soft>{_html(_made(comparison))}</p>",
        _verdict(comparison),
        "<h2>Figures</h2>",
        _figures(comparison),
        "<h2>Charts</h2>",
        _charts(comparison),
    ]
    if comparison.checks:
        body += ["<h2>Checks of the gate</h2>", _checks(comparison.checks)]
    if comparison.measures.sweep:
        body += ["<h2>The index: recall against latency</h2>", _sweep(comparison.measures)]
    if comparison.measures.unknown:
        lines = "".join(f"<p>{_html(line)}</p>" for line in comparison.measures.unknown)
        body += ["<h2>What is not known</h2>", f"<div class=card>{lines}</div>"]
    body.append(f"<h2>Queries, most contrasting first ({len(comparison.queries):,})</h2>")
    body += [
        "<p class=soft>= same rank · ▲ ▼ moved · + entered the results · − left them ·"
        " <span class=tag>judged relevant</span></p>"
    ]
    template, script = (files("embedtui.engine.validate").joinpath(f"report.{kind}").read_text() for kind in _PARTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(template).substitute(
        title=_html(title),
        body="\n".join(body),
        queries="\n".join(_query(query, comparison.measures.searched) for query in comparison.queries),
        script=script,
        script_source=f"'sha256-{digest}'",
    )


def _made(comparison: Comparison) -> str:
    parts = [f"{counted(comparison.measures.queries, 'query', 'queries')}, top {comparison.k}"]
    if comparison.measures.judged:
        parts.append(f"{comparison.measures.judged:,} judged")
    if comparison.seen is not None:
        parts.append(f"{counted(comparison.seen.both, 'row', 'rows')} compared")
    if comparison.partial:
        parts.append("partial: not every row has both vectors")
    if comparison.where:
        parts.append(f"where {comparison.where}")
    if comparison.at is not None:
        parts.append(comparison.at.strftime("%Y-%m-%d %H:%M %Z").strip())
    if comparison.evaluation_id is not None:
        parts.append(f"evaluation {comparison.evaluation_id}")
    return " · ".join(parts)


def _verdict(comparison: Comparison) -> str:
    style, word = _VERDICTS.get(comparison.verdict, ("unsure", "? not judged by the gate"))
    said = next((check.detail for check in comparison.checks if check.name == "quality"), "")
    failed = [check for check in comparison.checks if check.result == "fail" and check.name != "quality"]
    rest = " ".join([said, *(check.detail for check in failed)])
    return f'<div class="card verdict {style}"><b>{word}</b><span>{_html(rest)}</span></div>'


def _checks(checks: Sequence[Check]) -> str:
    rows = []
    for check in checks:
        style, word = _RESULTS.get(check.result, ("unsure", check.result))
        hint = f"<br><span class=soft>{_html(check.advice)}</span>" if check.advice and check.result != "pass" else ""
        rows.append(
            f'<tr><td class="state {style}">{_html(word)}<td class=name>{_html(check.name)}'
            f"<td>{_html(check.detail)}{hint}</tr>"
        )
    return f"<div class=card><table>{''.join(rows)}</table></div>"


def _figures(comparison: Comparison) -> str:
    figures = comparison.measures
    cards = [
        ("mean overlap", f"{figures.overlap.mean:.3f}", _range(figures.overlap)),
        ("rank-biased overlap", f"{figures.rbo.mean:.3f}", _range(figures.rbo)),
        (
            "first result kept",
            f"{100 * figures.top1_kept:.0f} %",
            f"{counted(figures.low_overlap, 'query', 'queries')} of low overlap",
        ),
    ]
    old, new = comparison.distances(Side.OLD), comparison.distances(Side.NEW)
    if old is not None and new is not None:
        last = f"of result {comparison.k}: {old[1]:.3f} → {new[1]:.3f}; medians. A limit in the application's SQL moves"
        cards.append(("distance of the first result", f"{old[0]:.3f} → {new[0]:.3f}", last))
    if figures.ndcg_old is not None and figures.ndcg_new is not None:
        told, how = "" if figures.p_value is None else f"p = {figures.p_value:.4f}", figures.searched
        if figures.ndcg_served is not None and how == EXACT:
            served = _pair(figures.ndcg_served_old, figures.ndcg_served)
            told = f"{served} {SERVED}; {told}".rstrip("; ")
        cards += [
            (f"nDCG@10, {how}", _pair(figures.ndcg_old, figures.ndcg_new), told),
            (
                f"recall@10, {how}",
                _pair(figures.recall_old, figures.recall_new),
                _ranges(figures.recall_old, figures.recall_new),
            ),
            (f"MRR@10, {how}", _pair(figures.mrr_old, figures.mrr_new), _ranges(figures.mrr_old, figures.mrr_new)),
        ]
    if (bridged := figures.bridged) is not None:
        through = f"version {bridged.version}, {counted(bridged.queries, 'query', 'queries')}, {bridged.searched}"
        if bridged.overlap_old is not None:
            cards.append(("the bridge finds of old", f"{bridged.overlap_old.mean:.3f}", through))
        if bridged.ndcg is not None:
            cards.append(("nDCG@10, bridge → new", _pair(bridged.ndcg, bridged.ndcg_new), through))
    if figures.model_overlap is not None:
        cards.append(("the model changed", f"{100 * (1 - figures.model_overlap):.0f} %", "exact old against exact new"))
    if figures.index_recall is not None:
        cards.append(("the index lost", f"{100 * (1 - figures.index_recall):.1f} %", "exact new against index new"))
    if figures.latency_old_ms is not None and figures.latency_new_ms is not None:
        (old50, old95), (new50, new95) = figures.latency_old_ms, figures.latency_new_ms
        cards.append(("latency p95", f"{old95:.1f} → {new95:.1f}", f"ms; p50 {old50:.1f} → {new50:.1f}"))
    if figures.wins_new or figures.wins_old:
        told = "" if figures.verdict_p is None else f"sign test p = {figures.verdict_p:.3f}"
        cards.append(("operators' verdicts", f"{figures.wins_new} : {figures.wins_old}", f"new : old; {told}"))
    made = "".join(
        f"<div class=card><h3>{_html(name)}</h3><b>{_html(value)}</b><span class=soft>{_html(note)}</span></div>"
        for name, value, note in cards
    )
    return f"<div class=grid>{made}</div>"


def _range(interval: Interval) -> str:
    return f"95 %: {interval.low:.3f} to {interval.high:.3f}"


def _pair(old: Interval | None, new: Interval | None) -> str:
    return " → ".join("?" if figure is None else f"{figure.mean:.4f}" for figure in (old, new))


def _ranges(*figures: Interval | None) -> str:
    return " → ".join("?" if figure is None else f"{figure.low:.3f} to {figure.high:.3f}" for figure in figures)


def _sweep(figures: Measures) -> str:
    rows = "".join(
        f"<tr><td>{point.value:,}<td>{100 * point.recall:.1f} %<td>{point.p50_ms:.1f} ms<td>{point.p95_ms:.1f} ms</tr>"
        for point in figures.sweep
    )
    head = f"<tr><th>{_html(figures.sweep[0].setting)}<th>recall<th>p50<th>p95</tr>"
    return f"<div class=card><table>{head}{rows}</table></div>"


# ------------------------------------------------------------------------------------------------------------ charts


def _charts(comparison: Comparison) -> str:
    figures = comparison.measures
    charts = [("Queries by overlap", _histogram(figures.histogram))]
    if figures.ndcg_old is not None and figures.ndcg_new is not None and figures.ndcg_difference is not None:
        how = figures.searched
        rows = [(f"old, {how}", figures.ndcg_old, "old"), (f"new, {how}", figures.ndcg_new, "new")]
        if figures.ndcg_served is not None:
            both = (("old", figures.ndcg_served_old), ("new", figures.ndcg_served))
            rows += [(f"{side}, {SERVED}", figure, side) for side, figure in both if figure is not None]
        charts.append(("nDCG@10 with 95 % intervals", _intervals(rows)))
        changes = sorted(
            query.ndcg_new - query.ndcg_old
            for query in comparison.queries
            if query.ndcg_old is not None and query.ndcg_new is not None
        )
        gained, lost = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
        charts.append((f"nDCG@10 per query, {how}: gained {gained:,}, lost {lost:,}, the rest kept", _changes(changes)))
    made = "".join(f"<div class=card><h3>{_html(name)}</h3>{chart}</div>" for name, chart in charts)
    return f"<div class=charts>{made}</div>"


def _histogram(counts: Sequence[int]) -> str:
    width, height, most = 320 / len(counts), 110, max(1, *counts)
    parts = []
    for number, count in enumerate(counts):
        tall = height * count / most
        left, top = number * width, 20 + height - tall
        parts.append(
            f'<rect x="{left + 2:.1f}" y="{top:.1f}" width="{width - 4:.1f}" height="{tall:.1f}" rx="2"'
            f' fill="var(--new)"><title>{number / len(counts):.1f} to {(number + 1) / len(counts):.1f}: {count}</title>'
            "</rect>"
        )
        if count:
            parts.append(f'<text x="{left + width / 2:.1f}" y="{top - 4:.1f}" text-anchor="middle">{count}</text>')
    parts.append('<path d="M0 130.5H320" stroke="var(--line)"/>')
    for label, x, anchor in (("0: nothing kept", 0, "start"), ("1: all kept", 320, "end")):
        parts.append(f'<text x="{x}" y="146" text-anchor="{anchor}">{label}</text>')
    return _svg(320, 152, "Histogram of overlap", parts)


def _intervals(rows: Sequence[tuple[str, Interval, str]]) -> str:
    low = min(interval.low for _, interval, _ in rows)
    high = max(interval.high for _, interval, _ in rows)
    room = max(0.02, (high - low) * 0.15)
    low, high = max(0.0, low - room), min(1.0, high + room)

    def x(value: float) -> float:
        return 10 + 300 * (value - low) / (high - low)

    parts = []
    for number, (name, interval, style) in enumerate(rows):
        y = 24 + 40 * number
        parts += [
            f'<text x="10" y="{y - 9}">{_html(name)}</text>',
            f'<path d="M{x(interval.low):.1f} {y}H{x(interval.high):.1f}" stroke="var(--{style})" stroke-width="2"/>',
            f'<circle cx="{x(interval.mean):.1f}" cy="{y}" r="4.5" fill="var(--{style})"/>',
            f'<text x="{x(interval.mean):.1f}" y="{y + 16}" text-anchor="middle">{interval.mean:.4f}</text>',
        ]
    bottom = 24 + 40 * len(rows)
    parts.append(f'<path d="M10 {bottom - 8.5}H310" stroke="var(--line)"/>')
    parts.append(f'<text x="10" y="{bottom + 6}">{low:.2f}</text>')
    parts.append(f'<text x="310" y="{bottom + 6}" text-anchor="end">{high:.2f}</text>')
    return _svg(320, bottom + 12, "Intervals of nDCG at 10", parts)


def _changes(changes: Sequence[float]) -> str:
    width = 320 / max(1, len(changes))
    parts = ['<path d="M0 75.5H320" stroke="var(--line)"/>']
    for number, change in enumerate(changes):
        if change:
            top = 75 - 70 * max(change, 0)
            style = "good" if change > 0 else "bad"
            parts.append(
                f'<rect x="{number * width:.2f}" y="{top:.1f}" width="{max(0.6, width * 0.85):.2f}"'
                f' height="{70 * abs(change):.1f}" fill="var(--{style})"/>'
            )
    parts.append('<text x="0" y="14">+1 better</text><text x="320" y="142" text-anchor="end">−1 worse</text>')
    return _svg(320, 152, "Change of nDCG at 10 per query, sorted", parts)


def _svg(width: int, height: int, name: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{_html(name)}">{"".join(parts)}</svg>'


# ----------------------------------------------------------------------------------------------------------- queries


def _query(query: QueryComparison, how: str) -> str:
    told = [f"overlap {query.overlap:.2f}"]
    if query.ndcg_old is not None and query.ndcg_new is not None:
        told.append(f"nDCG {query.ndcg_old:.2f} → {query.ndcg_new:.2f} {how}")
    if query.index_recall is not None and query.index_recall < 1:
        told.append(f"index finds {100 * query.index_recall:.0f} %")
    if query.verdict:
        told.append(_OPERATORS.get(query.verdict, query.verdict))
    note = f"<p class=soft style='padding:0 14px'>{_html(query.note)}</p>" if query.note else ""
    kind = "<span class=tag>row</span> " if query.row is not None else ""
    whole = " ".join(query.text.split())
    note += f"<p style='padding:0 14px'>{_html(whole)}</p>" if len(whole) > EXCERPT else ""
    about = f"data-overlap={query.overlap:.4f}" + " data-low" * (query.overlap < LOW_OVERLAP)
    if query.ndcg_old is not None and query.ndcg_new is not None:
        about += f" data-change={query.ndcg_new - query.ndcg_old:.4f}"
    about += " data-missed" * any(row.missed for row in query.new)
    about += f' data-verdict="{_html(query.verdict)}"' * bool(query.verdict)
    return (
        f"<details {about}><summary><span class=text>{kind}{_html(_excerpt(query.text))}</span>"
        f"<span class=figure>{_html(' · '.join(told))}</span></summary>{note}<div class=sides>"
        f"{''.join(_ranking(query, side) for side in _sides(query))}</div></details>"
    )


def _sides(query: QueryComparison) -> tuple[str, ...]:
    """The rankings there are; where the bridge stands in for the old model, it is called so."""
    if not query.bridged:
        return "old", "new"
    return ("bridged", "new") if query.only_bridged else ("old", "bridged", "new")


def _ranking(query: QueryComparison, name: str) -> str:
    rows, side = [], Side.NEW if name == "new" else Side.OLD
    for row in {"old": query.old, "bridged": query.bridged, "new": query.new}[name]:
        judged = row.key in query.relevant
        glyph, word, style = _move(row, side)
        tags = "<span class=tag>judged relevant</span> " if judged else ""
        tags += '<span class="tag bad">missed by the index</span> ' if row.missed else ""
        tags += f'<span class="tag bad">{_since(row)} since</span> ' if _since(row) else ""
        tags += f"<b>{_html(_excerpt(row.title))}</b> " if row.title else ""
        rows.append(
            f"<li{' class=judged' if judged else ''}><span class=rank>{row.rank}</span>"
            f'<span class="move {style}" title="{word}">{glyph}</span><span class=body>'
            f"{tags}{_html(_excerpt(row.text))}"
            f" <span class=key>{_html(_key(row))} · {row.distance:.4f}</span></span></li>"
        )
    title = {"old": "Old", "bridged": "Through the bridge", "new": "New"}[name]
    listed = "".join(rows) or "<li><span></span><span></span><span class=soft>no results</span></li>"
    return f"<div><h3 class={side.value}>{title}</h3><ol>{listed}</ol></div>"


def _move(row: RankedRow, side: Side) -> tuple[str, str, str]:
    """Glyph with words for it, and style: what became of the row between old and new."""
    if row.other_rank is None:
        return ("− left", "left the results", "bad") if side is Side.OLD else ("+ new", "entered the results", "good")
    gained = (row.rank - row.other_rank) if side is Side.OLD else (row.other_rank - row.rank)
    if gained == 0:
        return "=", "same rank", "soft"
    return (f"▲ {gained}", f"up by {gained}", "good") if gained > 0 else (f"▼ {-gained}", f"down by {-gained}", "bad")


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= EXCERPT else flat[: EXCERPT - 1].rstrip() + "…"
