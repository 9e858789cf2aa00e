"""A bridge: whether it serves, how far one is that is being made, and what was found of it."""

from __future__ import annotations

from collections.abc import Iterator

from textual.content import Content

from embedtui.model import Interval, Side, Snapshot
from embedtui.model.bridge import BridgeFigures, BridgeFit, BridgeQueries, BridgeStatus
from embedtui.model.evaluation import SERVED
from embedtui.tui import draw, figures, safe
from embedtui.tui.view import View

NAME = 11
"""Cells of a line's name."""
CONTROLS = ("identity", "shuffled")
"""What a map has to beat; the others are maps that were not chosen."""
COLUMN = 15
"""Cells of a figure with its interval."""


def bridge_lines(view: View, width: int) -> list[Content]:
    """The state, and what was found of the newest map."""
    snapshot = view.snapshot
    if snapshot is None:
        return []
    rows = [_field("searches", *_served(snapshot)), _field("old model", *_old_model(snapshot))]
    if view.bridge_work:
        rows.append(_field("now", (f"● {view.bridge_work} …", "bold $primary")))
    fit = snapshot.bridge
    if fit is None:
        rows += [Content(""), *draw.wrapped(_ABOUT, width, "$muted", 6)]
        return [draw.cut(each, width) for each in rows]
    rows += [Content(""), *_found(fit, width)]
    return [draw.cut(each, width) for each in rows]


_ABOUT = (
    "A sample of the rows is embedded with the new model: the backfill's first rows, paid once. A map is fitted on"
    " them, measured on rows held out, and refused where it finds too little. Then searches embed with the new model,"
    " and find the old vectors through it. Cutover, canary and rollback stay as they are."
)


def _field(name: str, *parts: draw.Part) -> Content:
    return draw.field(name, *parts, width=NAME)


def _served(snapshot: Snapshot) -> list[draw.Part]:
    route = snapshot.route
    if route.active is Side.NEW:
        back = f"  a rollback goes over version {route.bridge}" if route.bridging else ""
        return [("◆ the new side serves", "bold $new"), (back, "$muted")]
    if not route.bridged:
        return [("not bridged", "bold"), ("  the old side takes the old model's vectors", "$muted")]
    return [(f"◇ through the bridge, version {route.bridge}", "bold $old"), (f"  epoch {route.epoch}", "$muted")]


def _old_model(snapshot: Snapshot) -> list[draw.Part]:
    if snapshot.old_gone:
        return [(f"! {safe.line(snapshot.old_gone)}", "$warning")]
    return [("not known to be dead", "$muted")]


def _found(fit: BridgeFit, width: int) -> Iterator[Content]:
    status = fit.status
    parameter = f" {status.parameter:g}" if status.parameter is not None else ""
    made = f"  on {figures.number(status.rows)} rows at {draw.clock(fit.at)}, version {fit.version}"
    yield _field("map", (f"{status.kind}{parameter}", "bold"), (made, "$muted"))
    yield draw.line(
        (draw.fit("held out", NAME), "$muted"),
        (draw.fit("itself first", COLUMN), "$muted"),
        (draw.fit("in ten", COLUMN), "$muted"),
        ("old neighbours", "$muted"),
    )
    roomy = width >= NAME + 3 * COLUMN + 3
    yield _figures(f"{figures.number(status.rows)} rows", status.figures, "bold", interval=roomy)
    for point in reversed(status.curve[:-1]):
        yield _figures(f"{figures.number(point.rows)} rows", point.figures, "", interval=roomy)
    for name, found in sorted(status.others.items(), key=lambda each: (each[0] in CONTROLS, each[0])):
        yield _figures(name, found, "$muted", interval=False)
    yield _field("", (_among(status), "$muted"))
    if status.queries is not None:
        yield from _queries(status.queries)
    if status.refused:
        yield from draw.wrapped(f"✗ {safe.line(status.refused)}", width, "$warning", 4)


def _among(status: BridgeStatus) -> str:
    return f"{figures.number(status.figures.rows)} held out, each among {figures.number(status.figures.pool)} rows"


def _figures(name: str, found: BridgeFigures, style: str, *, interval: bool) -> Content:
    parts: list[draw.Part] = []
    for figure in (found.recall_1, found.recall_10, found.overlap_10):
        text = figures.percent(figure.mean)
        span = f" {_points(figure.low)}–{_points(figure.high)}" if interval else ""
        parts += [(text, style), (draw.fit(span, COLUMN - len(text)), "$muted")]
    return draw.line((draw.fit(name, NAME), "$muted"), *parts).rstrip()


def _points(share: float) -> str:
    return figures.percent(share).removesuffix(" %")


def _queries(asked: BridgeQueries) -> Iterator[Content]:
    if asked.overlap is not None:
        of = f"  of what the old model found, {figures.number(asked.logged)} logged, {SERVED}"
        yield _field("queries", (figures.percent(asked.overlap.mean), "bold"), (of, "$muted"))
    elif asked.ndcg is None:
        yield _field("queries", (f"{figures.number(asked.queries)} kept, none judged or logged", "$muted"))
    if asked.ndcg is not None:
        beside = asked.ndcg_beside is not None and asked.ndcg_old is not None
        bridged = asked.ndcg_beside if beside else asked.ndcg
        parts: list[draw.Part] = [(f"bridged {_mean(bridged)}", "bold")]
        parts += [(f"  ◇ {_mean(asked.ndcg_old)}", "$old")] if beside else []
        parts += [(f"  ◆ {_mean(asked.ndcg_new)}", "$new")] if asked.ndcg_new is not None else []
        judged = asked.judged_old if beside else asked.judged
        yield _field("nDCG@10", *parts, (f"  {figures.number(judged)} judged", "$muted"))


def _mean(figure: Interval | None) -> str:
    return figures.UNKNOWN if figure is None else f"{figure.mean:.2f}"
