"""The figures of a comparison, and their distribution."""

from __future__ import annotations

import functools
import itertools
import re

from textual.content import Content

from embedtui.model import BridgedMeasures, Comparison
from embedtui.model.evaluation import EXACT, SERVED
from embedtui.tui import draw, figures, safe
from embedtui.tui.widgets.rankings import BRIDGED, GLYPHS, STYLES

FIGURES = 46
"""Cells that most lines of figures take …"""
LABEL = 10
"""… of which these are the label's."""
BARS = 32
"""Cells that the distribution takes at least, with its distance."""


def judgment(comparison: Comparison) -> str:
    """What the gate makes of the judgments, in a few words."""
    said = next((check.detail for check in comparison.checks if check.name == "quality"), "Judged")
    return re.split("[:;(]", safe.line(said))[0].strip()


def measure_lines(comparison: Comparison, width: int) -> list[Content]:
    """The figures of a comparison, and the distribution below them or, where there is room, beside them."""
    histogram = comparison.measures.histogram
    if width < FIGURES + BARS:
        return [*figure_lines(comparison, width), Content(""), *distribution(histogram, width)]
    lefts = figure_lines(comparison, width - BARS)
    column = max(FIGURES, *(each.cell_length for each in lefts)) + 2
    rights = distribution(histogram, width - column)
    pairs = itertools.zip_longest(lefts, rights, fillvalue=Content(""))
    return [draw.line(left.pad_right(column - left.cell_length), right) for left, right in pairs]


def figure_lines(comparison: Comparison, width: int) -> list[Content]:
    """The figures of a comparison, the telling ones first; one that has no room on its line goes on below."""
    return [part for row in _figures(comparison, width) for part in _broken(row, width)]


def _broken(row: Content, width: int) -> list[Content]:
    """``row`` on as many lines as it takes, under its value and not under its label."""
    if row.cell_length <= width or width <= 2 * LABEL:
        return [draw.cut(row, width)]
    label, value = row.divide([LABEL])
    first, *more = value.wrap(width - LABEL)
    return [draw.line(label, first.rstrip()), *(draw.line(" " * LABEL, each.rstrip()) for each in more)]


def _figures(comparison: Comparison, width: int) -> list[Content]:
    field = functools.partial(draw.field, width=LABEL)

    m = comparison.measures
    rows = [
        field(
            "overlap",
            (figures.percent(m.overlap.mean), "bold"),
            (f"  {figures.percent(m.overlap.low)} to {figures.percent(m.overlap.high)}", "$muted"),
        ),
        field("top 1", figures.percent(m.top1_kept), (" keep their first result", "$muted")),
        field("RBO", f"{m.rbo.mean:.2f}", (f"  {m.rbo.low:.2f} to {m.rbo.high:.2f}", "$muted")),
    ]
    rows += _judged(comparison, width)
    if m.bridged is not None:
        rows += _bridged_lines(m.bridged)
    if m.recall_old is not None and m.recall_new is not None:
        both = (figures.percent(each.mean) for each in (m.recall_old, m.recall_new))
        rows.append(field("recall", *_sides(*both, (f"  {m.searched}", "$muted"))))
    if m.mrr_old is not None and m.mrr_new is not None:
        both = (f"{each.mean:.3f}" for each in (m.mrr_old, m.mrr_new))
        rows.append(field("MRR", *_sides(*both, (f"  {m.searched}", "$muted"))))
    if m.model_overlap is not None:
        changed = figures.percent(1 - m.model_overlap)
        rows.append(field("model", (changed, "bold"), (" changed, by exact search", "$muted")))
    if m.index_recall is not None:
        lost = figures.percent(1 - m.index_recall, 1)
        rows.append(field("index", (lost, "bold"), (" of the exact results lost", "$muted")))
    for point in m.sweep:
        at = f" at {point.p95_ms:.1f} ms"
        rows.append(
            field("", (f"{point.setting} {point.value:,}: {figures.percent(point.recall)} found{at}", "$muted"))
        )
    if m.latency_old_ms is not None and m.latency_new_ms is not None:
        old, new = ("{:.1f}, {:.1f} ms".format(*taken) for taken in (m.latency_old_ms, m.latency_new_ms))
        rows.append(field("p50, p95", *_sides(old, new)))
    if m.wins_new or m.wins_old:
        p = f"  p {m.verdict_p:.2f}, sign test" if m.verdict_p is not None else ""
        rows.append(field("verdicts", *_sides(f"{m.wins_old}", f"{m.wins_new}", (p, "$muted"))))
    for each in m.unknown:
        rows.append(Content(""))
        rows += [
            draw.line(("? " if not i else "  ", "$warning"), part)
            for i, part in enumerate(draw.wrapped(safe.line(each), width - 2, "$muted"))
        ]
    return rows


def _sides(old: str, new: str, *parts: draw.Part) -> tuple[draw.Part, ...]:
    return (f"◇ {old}", "$old"), "  ", (f"◆ {new}", "bold $new"), *parts


def _judged(comparison: Comparison, width: int) -> list[Content]:
    """What the judgments say of both sides, and of the new one's index."""
    field, m = functools.partial(draw.field, width=LABEL), comparison.measures
    if m.ndcg_old is None or m.ndcg_new is None:
        return [field("quality", ("unknown: no judgments; overlap says different, not worse", "$muted"))]
    judged = (f"  {m.searched}, {m.judged:,} judged", "$muted")
    rows = [field("nDCG@10", *_sides(f"{m.ndcg_old.mean:.3f}", f"{m.ndcg_new.mean:.3f}", judged))]
    if m.ndcg_served is not None and m.searched == EXACT:
        old = figures.UNKNOWN if m.ndcg_served_old is None else f"{m.ndcg_served_old.mean:.3f}"
        rows.append(field("", *_sides(old, f"{m.ndcg_served.mean:.3f}", (f"  {SERVED}", "$muted"))))
    if m.ndcg_difference is not None:
        d = m.ndcg_difference
        sure = d.low > 0 or d.high < 0
        interval = f"  {d.low:+.3f} to {d.high:+.3f}"
        if m.p_value is not None:
            interval += f"  p {m.p_value:.3f}" if m.p_value >= 0.001 else "  p < 0.001"
        rows.append(field("change", (f"{d.mean:+.3f}", "bold" if sure else ""), (interval, "$muted")))
        rows += _indented(judgment(comparison), width, "bold")
    return rows


def _bridged_lines(bridged: BridgedMeasures) -> list[Content]:
    """The bridge's figures, which are none of the old model's."""
    field = functools.partial(draw.field, width=LABEL)
    glyph, style = GLYPHS[BRIDGED], STYLES[BRIDGED]
    rows = []
    if bridged.overlap_old is not None:
        of = f" of old's, {bridged.searched}, version {bridged.version}"
        rows.append(field("bridged", (f"{glyph} {figures.percent(bridged.overlap_old.mean)}", style), (of, "$muted")))
    if bridged.ndcg is not None and bridged.ndcg_new is not None:
        parts: list[draw.Part] = [(f"{glyph} {bridged.ndcg.mean:.3f}", style), "  "]
        parts += [
            (f"◆ {bridged.ndcg_new.mean:.3f}", "bold $new"),
            (f"  {bridged.searched}, {bridged.judged:,} judged", "$muted"),
        ]
        rows.append(field("nDCG@10", *parts))
    if bridged.only:
        rows.append(field("", (f"{glyph} {bridged.only:,} have no vector of the old model", "$muted")))
    return rows


def distribution(histogram: tuple[int, ...], width: int) -> list[Content]:
    """How many queries have which overlap, as bars."""
    rows = [draw.line(("queries by overlap", "$muted"))]
    top = max((*histogram, 1))
    for index, count in enumerate(histogram):
        cells = max(1, round(count / top * max(4, width - 18))) if count else 0
        rows.append(
            draw.line(
                (f"{index * 10:>3}–{index * 10 + 10:<3} % ", "$muted"),
                ("█" * cells, "$warning" if index < 3 else "$primary"),
                (f" {count}" if count else " ·", "$muted"),
            )
        )
    return rows


def _indented(text: str, width: int, style: str) -> list[Content]:
    return [draw.line(" " * LABEL, part) for part in draw.wrapped(text, width - LABEL, style)]
