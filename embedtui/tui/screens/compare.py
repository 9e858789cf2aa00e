"""Compare: queries of lowest overlap first, the two rankings side by side, and the operator's verdicts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content, Span
from textual.widgets import Input

from embedtui.formatting import counted
from embedtui.model import Comparison, QueryComparison, RankedRow, Side
from embedtui.tui import acts, draw, safe, theme
from embedtui.tui.bridge import ActAdvanced
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.screens.dialogs import PromptDialog
from embedtui.tui.view import View
from embedtui.tui.widgets.document import Document
from embedtui.tui.widgets.listing import Listing
from embedtui.tui.widgets.panel import Panel
from embedtui.tui.widgets.rankings import Rankings, score

VERDICTS = {
    "new": ("◆", "new better", "$new"),
    "old": ("◇", "old better", "$old"),
    "same": ("=", "same", "$muted"),
    "bad": ("✗", "both bad", "$error"),
}

LOW_SHARE = 0.3
"""An overlap below this is marked: worth a look, not bad."""
PARTIAL_SHARE = 0.01
"""A live table always has a row or two with one vector only; more of them are worth a word."""
FIGURES = 46
"""Cells that a line of figures takes."""
MARKED = 3
"""Words of the query with fewer letters are not marked in a document: most of them are in every text, …"""
_COMMON = """
and are can does for from has have how into not that the this use was what when where which who why with you your
"""
COMMON = frozenset(_COMMON.split())
"""… as are these."""


def gain(query: QueryComparison) -> float | None:
    """nDCG@10 of the new side less that of the old one; None without judgments."""
    if query.ndcg_old is None or query.ndcg_new is None:
        return None
    return query.ndcg_new - query.ndcg_old


ORDERS: tuple[tuple[str, Callable[[QueryComparison], tuple[float, str]]], ...] = (
    ("lowest overlap first", lambda query: (query.overlap, "")),
    ("biggest loss first", lambda query: (gain(query) or 0.0, "")),
    ("by text", lambda query: (0.0, query.text.casefold())),
)


class CompareScreen(DashboardScreen):
    """Evidence: what the new model changes, query by query."""

    NAME = "compare"
    AUTO_FOCUS = "#queries"
    KEYS = ("verdict('new')", "verdict('old')", "verdict('same')", "filter", "ask")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "verdict('new')", "New better", tooltip="This query is served better by the new side."),
        Binding("o", "verdict('old')", "Old better", tooltip="This query is served better by the old side."),
        Binding("s", "verdict('same')", "Same", tooltip="Neither is better."),
        Binding("b", "verdict('bad')", "Both bad", show=False, tooltip="Neither side finds what was asked for."),
        Binding("e", "note", "Note", show=False, tooltip="A note to the verdict just given, or on this query."),
        Binding(
            "slash", "filter", "Filter", show=False, key_display="/", tooltip="Only queries that contain the words."
        ),
        Binding("a", "ask", "Ask", show=False, tooltip="Compare a query of your own."),
        Binding("u", "undecided", "Undecided", show=False, tooltip="Only queries without a verdict, or all."),
        Binding("w", "order", "Order", show=False, tooltip="By overlap, by what got worse, or by text."),
        Binding("m", "figures", "Measures", show=False, tooltip="All measures, or the rankings again."),
        Binding("y", "copy", "Copy", show=False, tooltip="Copy both rankings, and save them as a file."),
        Binding("escape", "leave_filter", "Leave", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._comparison: Comparison | None = None
        self._shown: list[QueryComparison] = []
        self._filter = ""
        self._undecided = False
        self._order = 0
        self._asked: QueryComparison | None = None
        self._decided: int | None = None

    def body(self) -> ComposeResult:
        yield Panel(self._summary, id="measures-line")
        with Container(id="compare"):
            with Vertical(id="queries-side", classes="box") as side:
                side.border_title = f"Queries, {ORDERS[0][0]}"
                yield Input(placeholder="filter", id="filter", compact=True)
                yield Listing(
                    self._paint_query,
                    empty="Press c to compare both sides, a to ask a query of your own.",
                    id="queries",
                )
            with Vertical(id="rankings-side"):
                yield Rankings(id="rankings", classes="box")
                with Horizontal(id="evidence"):
                    yield Document(title="Document", id="document", classes="box")
                    yield Panel(self._measures, title="Measures", id="measures", classes="box")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#rankings").border_title = "Top 10"
        # A watcher is called at once where a message would take several rounds: a move is one picture.
        self.watch(self.query_one("#queries"), "cursor", self._moved, init=False)
        if self.dashboard.comparison is not None:
            self._take(self.dashboard.comparison)

    def opened(self) -> None:
        comparison = self.dashboard.comparison
        if comparison is not None and comparison is not self._comparison:
            self._take(comparison)
        elif (
            comparison is None
            and self.dashboard.snapshot is not None
            and self.dashboard.snapshot.evaluation is not None
        ):
            self.dashboard.bridge.fetch("last comparison", lambda engine: engine.last_comparison())
        if self.focused is None:
            self.query_one("#queries").focus()

    def receive(self, topic: str, payload: object) -> None:
        if topic == "compare" and isinstance(payload, Comparison):
            self._asked = None
            self._take(payload)
        elif topic == "ask" and isinstance(payload, QueryComparison):
            self._asked = payload
            self._select(keep=False)
            self._repaint()
        elif topic == "last comparison" and isinstance(payload, Comparison) and self._comparison is None:
            self.dashboard.comparison = payload
            self._take(payload)
        elif topic == "decide" and self._comparison is not None:
            comparison = self._comparison
            self.dashboard.bridge.fetch("verdicts", lambda engine: engine.with_verdicts(comparison))
        elif topic == "verdicts" and isinstance(payload, Comparison):
            self._sum_up(payload)
        elif topic == "advance" and isinstance(payload, ActAdvanced):
            self.query_one("#measures-line", Panel).show(self.dashboard.view)

    def refusal(self, action: str) -> str:
        if not action.startswith(("verdict", "note")):
            return ""
        if self.dashboard.readonly:
            return acts.READONLY
        if self.has_class("-figures"):
            return "The queries are hidden: m or Esc shows them again."
        if self._asked is not None:
            return "An own query is not kept; verdicts are for the kept ones."
        if not self._shown:
            return "No query is compared yet: press c."
        if action == "note" and self._to_note is None:
            return "Give a verdict first, then its note: n, o, s or b."
        return ""

    # -------------------------------------------------------------------------------------------------- data

    def _take(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._select(keep=False)
        self._repaint()

    def _repaint(self) -> None:
        for panel in self.query(Panel):
            panel.show(self.dashboard.view)

    def _select(self, *, keep: bool) -> None:
        words = self._filter.casefold().split()
        every = self._comparison.queries if self._comparison else ()
        if self._asked is not None:
            every = (self._asked,)
        chosen = self._chosen
        self._shown = [
            query
            for query in every
            if all(word in query.text.casefold() for word in words) and not (self._undecided and query.verdict)
        ]
        self._shown.sort(key=ORDERS[self._order][1])
        cursor = 0
        if keep and chosen is not None:
            cursor = next((i for i, query in enumerate(self._shown) if query.query_id == chosen.query_id), 0)
        listing = self.query_one("#queries", Listing)
        if every:
            listing.empty = "No query matches; Esc clears the filter."
        listing.reset(len(self._shown), cursor)
        self._point()

    @property
    def _chosen(self) -> QueryComparison | None:
        cursor = self.query_one("#queries", Listing).cursor
        return self._shown[cursor] if cursor < len(self._shown) else None

    def _moved(self) -> None:
        self._decided = None
        self._point()

    def _point(self) -> None:
        migration = self.dashboard.snapshot.migration if self.dashboard.snapshot else None
        models = (migration.old_model.name, migration.new_model.name) if migration else ("", "")
        chosen = self._chosen
        rankings = self.query_one("#rankings", Rankings)
        rankings.show_query(chosen, models)
        rankings.border_title = headline(chosen) if chosen is not None else "Top 10"
        self._show_document(rankings.pointed[0])

    @on(Listing.Chosen, "#queries")
    def chosen(self) -> None:
        """Enter goes on to the rankings."""
        self.query_one("#rankings").focus()

    @on(Rankings.Pointed)
    def pointed(self, message: Rankings.Pointed) -> None:
        """The cursor is on another document."""
        self._show_document(message.row)

    def _show_document(self, row: RankedRow | None) -> None:
        document, chosen = self.query_one(Document), self._chosen
        if row is None or chosen is None:
            hint = Content.styled("The text of the chosen document appears here.", "$muted")
            document.show(hint, Content("Document"))
        else:
            document.show(marked(safe.block(row.text), chosen.text), whereabouts(row, chosen))

    # -------------------------------------------------------------------------------------------------- acts

    def action_verdict(self, verdict: str) -> None:
        """Records the operator's verdict; the same again takes nothing back, another one replaces it."""
        reason = self.refusal("verdict")
        chosen = self._chosen
        if reason or chosen is None:
            self.dashboard.say(reason or "Choose a query first.", severity="warning")
            return
        self._decide(chosen, verdict, chosen.note if verdict == chosen.verdict else "")
        listing = self.query_one("#queries", Listing)
        listing.cursor += 1
        self._decided = chosen.query_id

    def action_note(self) -> None:
        """Asks for a note to a verdict: the one just given, whose query the cursor has left, or the chosen query's."""
        query = self._to_note
        reason = self.refusal("note")
        if reason or query is None:
            self.dashboard.say(reason or "Choose a query first.", severity="warning")
            return
        glyph, word, _ = VERDICTS[query.verdict]

        def answered(note: str | None) -> None:
            if note is not None:
                self._decide(query, query.verdict, note)

        about = f"{glyph} {word}: “{safe.line(query.text, 40)}”"
        self.dashboard.push_screen(PromptDialog("Note", about, safe.line(query.note)), answered)

    @property
    def _to_note(self) -> QueryComparison | None:
        queries = self._comparison.queries if self._comparison else ()
        just = next((query for query in queries if query.query_id == self._decided), self._chosen)
        return just if just is not None and just.verdict else None

    def _decide(self, query: QueryComparison, verdict: str, note: str) -> None:
        query_id = query.query_id
        self.dashboard.bridge.act("decide", lambda engine, _: engine.decide(query_id, verdict, note))
        if self._comparison is None:
            return
        decided = replace(query, verdict=verdict, note=note)
        queries = tuple(decided if each.query_id == query_id else each for each in self._comparison.queries)
        self._comparison = self.dashboard.comparison = replace(self._comparison, queries=queries)
        index = next((i for i, each in enumerate(self._shown) if each.query_id == query_id), None)
        if index is not None:
            self._shown[index] = decided
            self.query_one("#queries", Listing).repaint(index)
            self._point()

    def _sum_up(self, counted_up: Comparison) -> None:
        """The sums of all operators' verdicts; what is decided here meanwhile stays as it is on the screen."""
        if self._comparison is not None and self._comparison.evaluation_id == counted_up.evaluation_id:
            self._comparison = replace(self._comparison, measures=counted_up.measures)
            self.dashboard.comparison = self._comparison
            self._repaint()

    def action_figures(self) -> None:
        """All measures instead of the rankings, for screens too small for both; or the rankings again."""
        self.toggle_class("-figures")

    def action_filter(self) -> None:
        """Opens the filter."""
        self.remove_class("-figures")
        field = self.query_one("#filter", Input)
        field.add_class("-open")
        field.focus()

    def action_leave_filter(self) -> None:
        """Closes and clears the filter; shows the whole comparison again after an own query."""
        self.remove_class("-figures")
        field = self.query_one("#filter", Input)
        field.value = ""
        field.remove_class("-open")
        if self._asked is not None and self.dashboard.comparison is not None:
            self._asked = None
            self._take(self.dashboard.comparison)
        self.query_one("#queries").focus()

    @on(Input.Changed, "#filter")
    def filtered(self, event: Input.Changed) -> None:
        """The list follows what is typed."""
        self._filter = event.value
        self._select(keep=True)

    @on(Input.Submitted, "#filter")
    def filter_done(self) -> None:
        """Enter goes to the list."""
        self.query_one("#queries").focus()

    def action_undecided(self) -> None:
        """Shows only queries without a verdict, or all again."""
        self._undecided = not self._undecided
        self._entitle()
        self._select(keep=True)

    def action_order(self) -> None:
        """The next order of the list; the chosen query stays chosen."""
        self._order = (self._order + 1) % len(ORDERS)
        self._entitle()
        self._select(keep=True)

    def _entitle(self) -> None:
        what = "Queries without a verdict" if self._undecided else "Queries"
        self.query_one("#queries-side").border_title = f"{what}, {ORDERS[self._order][0]}"

    def action_ask(self) -> None:
        """Asks for a query and compares it alone."""

        def answered(text: str | None) -> None:
            if text is not None:
                self.dashboard.remembered = self.dashboard.remembered.with_query(text)
                self.dashboard.bridge.act("ask", lambda engine, _: engine.search_both(text))

        queries = self.dashboard.remembered.queries
        self.dashboard.push_screen(
            PromptDialog("Ask", "Query to compare on both sides:", queries[0] if queries else ""), answered
        )

    def action_copy(self) -> None:
        """Both rankings as text."""
        chosen = self._chosen
        if chosen is not None:
            self.dashboard.hand_out(as_text(chosen), f"query-{chosen.query_id}.txt")

    # ------------------------------------------------------------------------------------------------ pictures

    def _paint_query(self, index: int, width: int) -> Content | None:
        query = self._shown[index]
        k = self._comparison.k if self._comparison else 10
        shared = round(query.overlap * k)
        # Little in common is a difference and no failure: only judgments may be green or red.
        style = "$warning" if query.overlap < LOW_SHARE else "$primary"
        glyph, word, verdict_style = VERDICTS.get(query.verdict, ("·", "", "$faint"))
        change = gain(query)
        right = draw.line(
            (f" {change:+.2f}" if change else "", "$success" if (change or 0) > 0 else "$error"),
            (f" {glyph}", verdict_style),
            (f" {word}" if width >= 76 else "", verdict_style),
        )
        left = draw.line(
            (f"{shared:>2}/{k} ", f"bold {style}"),
            draw.bar(query.overlap, 5, style),
            " ",
            safe.line(query.text, 2 * width),
        )
        return draw.row(left, right, width)

    def _summary(self, view: View, width: int, _height: int) -> Content:
        advance = self.dashboard.advances.get("compare")
        if "compare" in view.busy or "ask" in view.busy:
            share = advance[1] / advance[2] if advance and advance[2] else None
            text = f" {safe.line(advance[0])} {advance[1]} of {advance[2]}" if advance else " …"
            head = draw.line(("● comparing", "bold $primary"), (text, "$muted"), "  ")
            return draw.line(head, draw.bar(share, min(30, width - head.cell_length), "$primary"))
        comparison = self._comparison
        if self._asked is not None:
            shared = draw.UNKNOWN if self._asked.old_unknown else draw.percent(self._asked.overlap)
            return draw.line(
                ("own query", "bold $primary"), ("  overlap ", "$muted"), shared, ("   Esc shows all again", "$muted")
            )
        if comparison is None:
            return draw.line(("○ not compared in this session", "$muted"), "   ", *self._recorded(view))
        m = comparison.measures
        parts: list[draw.Part] = []
        if comparison.verdict:
            glyph, style = {"PASS": ("✓", "$success"), "FAIL": ("✗", "$error")}.get(
                comparison.verdict, ("?", "$warning")
            )
            parts += [(f"{glyph} {comparison.verdict}", f"bold {style}"), "  "]
        if m.ndcg_old is not None and m.ndcg_new is not None:
            parts += [
                (f"{judgment(comparison)}  ", "bold"),
                ("nDCG ", "$muted"),
                (f"◇ {m.ndcg_old.mean:.2f}", "$old"),
                (" → ", "$muted"),
                (f"◆ {m.ndcg_new.mean:.2f}", "bold $new"),
                "  ",
            ]
        else:
            parts.append(("Different; not judged  ", "bold"))
        parts += [
            ("overlap ", "$muted"),
            (draw.percent(m.overlap.mean), "bold"),
            (f"  {m.low_overlap:,}", "bold $warning" if m.low_overlap else "bold"),
            (" low", "$muted"),
            (f"  {counted(m.queries, 'query', 'queries')}  ", "$muted"),
        ]
        seen = comparison.seen
        if comparison.partial and (seen is None or seen.one_sided > seen.rows * PARTIAL_SHARE):
            parts.append(("! partial", "$warning"))
        return draw.cut(draw.line(*parts), width)

    @staticmethod
    def _recorded(view: View) -> list[draw.Part]:
        status = view.snapshot.evaluation if view.snapshot else None
        if status is None:
            return []
        return [("recorded: ", "$muted"), (status.verdict, "bold"), (f" at {draw.clock(status.at)}", "$muted")]

    def _measures(self, view: View, width: int, height: int) -> Content:
        if self._comparison is None:
            return draw.line(("Figures over all queries appear here.", "$muted"))
        return draw.lines((draw.cut(each, width) for each in measure_lines(self._comparison, width)), height)


def headline(query: QueryComparison) -> Content:
    """The query, the operator's verdict and the note to it."""
    parts: list[draw.Part] = [f"“{safe.line(query.text, 60)}”"]
    if query.verdict:
        glyph, word, style = VERDICTS[query.verdict]
        parts.append((f"  {glyph} {word}", style))
        parts.append((f": {safe.line(query.note)}" if query.note else "", "$muted"))
    return draw.line(*parts)


def whereabouts(row: RankedRow, query: QueryComparison) -> Content:
    """A document's key, with rank and distance on each side."""
    parts: list[draw.Part] = [f"Document {safe.line(', '.join(row.key), 40)}"]
    for side, rows in ((Side.OLD, query.old), (Side.NEW, query.new)):
        found = next((each for each in rows if each.key == row.key), None)
        where = f"{found.rank} at {score(found.distance, 5)}" if found is not None else "not there"
        missed = ", missed by the index" if found is not None and found.missed else ""
        parts.append((f"  {theme.SIDE_GLYPH[side]} {where}{missed}", theme.SIDE_STYLE[side]))
    return draw.line(*parts)


def marked(text: str, query: str) -> Content:
    """``text`` with the query's words marked: whole words, whatever their case."""
    words = {word for word in re.findall(r"\w+", query.casefold()) if len(word) >= MARKED} - COMMON
    found = (each for each in re.finditer(r"\w+", text) if each[0].casefold() in words)
    return Content(text, [Span(each.start(), each.end(), "bold underline") for each in found])


def judgment(comparison: Comparison) -> str:
    """What the gate makes of the judgments, in a few words."""
    said = next((check.detail for check in comparison.checks if check.name == "quality"), "Judged")
    return re.split("[:;(]", safe.line(said))[0].strip()


def measure_lines(comparison: Comparison, width: int) -> list[Content]:
    """The figures of a comparison, and the distribution below them or, where there is room, beside them."""
    histogram = comparison.measures.histogram
    if width < FIGURES + 30:
        return [*figure_lines(comparison, width), Content(""), *distribution(histogram, width)]
    lefts = (draw.cut(each, FIGURES) for each in figure_lines(comparison, FIGURES))
    rights = distribution(histogram, width - FIGURES - 2)
    pairs = itertools.zip_longest(lefts, rights, fillvalue=Content(""))
    return [draw.line(left.pad_right(FIGURES + 2 - left.cell_length), right) for left, right in pairs]


def figure_lines(comparison: Comparison, width: int) -> list[Content]:
    """The figures of a comparison, the telling ones first."""

    def field(name: str, *parts: draw.Part) -> Content:
        return draw.field(name, *parts, width=10)

    def sides(old: str, new: str, *parts: draw.Part) -> tuple[draw.Part, ...]:
        return (f"◇ {old}", "$old"), "  ", (f"◆ {new}", "bold $new"), *parts

    m = comparison.measures
    rows = [
        field(
            "overlap",
            (draw.percent(m.overlap.mean), "bold"),
            (f"  {draw.percent(m.overlap.low)} to {draw.percent(m.overlap.high)}", "$muted"),
        ),
        field("top 1", draw.percent(m.top1_kept), (" keep their first result", "$muted")),
        field("RBO", f"{m.rbo.mean:.2f}", (f"  {m.rbo.low:.2f} to {m.rbo.high:.2f}", "$muted")),
    ]
    if m.ndcg_old is not None and m.ndcg_new is not None:
        judged = (f"  {m.judged:,} judged", "$muted")
        rows.append(field("nDCG@10", *sides(f"{m.ndcg_old.mean:.3f}", f"{m.ndcg_new.mean:.3f}", judged)))
        if m.ndcg_difference is not None:
            d = m.ndcg_difference
            sure = d.low > 0 or d.high < 0
            interval = f"  {d.low:+.3f} to {d.high:+.3f}"
            if m.p_value is not None:
                interval += f"  p {m.p_value:.3f}" if m.p_value >= 0.001 else "  p < 0.001"
            rows.append(field("change", (f"{d.mean:+.3f}", "bold" if sure else ""), (interval, "$muted")))
            rows += _indented(judgment(comparison), width, "bold")
    else:
        rows.append(field("quality", ("unknown: no judgments; overlap says different, not worse", "$muted")))
    if m.recall_old is not None and m.recall_new is not None:
        rows.append(field("recall", *sides(draw.percent(m.recall_old.mean), draw.percent(m.recall_new.mean))))
    if m.mrr_old is not None and m.mrr_new is not None:
        rows.append(field("MRR", *sides(f"{m.mrr_old.mean:.3f}", f"{m.mrr_new.mean:.3f}")))
    if m.model_overlap is not None:
        changed = draw.percent(1 - m.model_overlap)
        rows.append(field("model", (changed, "bold"), (" changed, by exact search", "$muted")))
    if m.index_recall is not None:
        lost = draw.percent(1 - m.index_recall, 1)
        rows.append(field("index", (lost, "bold"), (" of the exact results lost", "$muted")))
    for point in m.sweep:
        at = f" at {point.p95_ms:.1f} ms"
        rows.append(field("", (f"{point.setting} {point.value:,}: {draw.percent(point.recall)} found{at}", "$muted")))
    if m.latency_old_ms is not None and m.latency_new_ms is not None:
        old, new = ("{:.1f}, {:.1f} ms".format(*taken) for taken in (m.latency_old_ms, m.latency_new_ms))
        rows.append(field("p50, p95", *sides(old, new)))
    if m.wins_new or m.wins_old:
        p = f"  p {m.verdict_p:.2f}, sign test" if m.verdict_p is not None else ""
        rows.append(field("verdicts", *sides(f"{m.wins_old}", f"{m.wins_new}", (p, "$muted"))))
    for each in m.unknown:
        rows.append(Content(""))
        rows += [
            draw.line(("? " if not i else "  ", "$warning"), part)
            for i, part in enumerate(draw.wrapped(safe.line(each), width - 2, "$muted"))
        ]
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
    return [draw.line(" " * 10, part) for part in draw.wrapped(text, width - 10, style)]


def as_text(query: QueryComparison) -> str:
    """Both rankings of a query as plain text."""
    out = [f"Query: {safe.line(query.text)}", f"Overlap: {query.overlap:.0%}", ""]
    for side, rows in (("old", query.old), ("new", query.new)):
        out.append(side)
        out += [f"{row.rank:>3}  {row.distance:.4f}  {', '.join(row.key)}  {safe.line(row.text, 160)}" for row in rows]
        out.append("")
    return "\n".join(out)
