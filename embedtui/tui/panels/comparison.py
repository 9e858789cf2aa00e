"""A comparison query by query: lines of the list, headline, the document with the query's words marked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from textual.content import Content, Span

from embedtui import formatting
from embedtui.model import Comparison, QueryComparison, RankedRow
from embedtui.tui import draw, figures, safe
from embedtui.tui.blind import Blind
from embedtui.tui.messages import TaskAdvanced
from embedtui.tui.panels.measures import judgment
from embedtui.tui.view import View
from embedtui.tui.widgets.rankings import BRIDGED, GLYPHS, MISSED, STYLES, missed, score

VERDICTS = {
    "new": ("◆", "new better", "$new"),
    "old": ("◇", "old better", "$old"),
    "same": ("=", "same", "$muted"),
    "bad": ("✗", "both bad", "$error"),
}

ROOMY = 120
"""Cells from which a summary has room for the bridge."""
LOW_SHARE = 0.3
"""An overlap below this is marked: worth a look, not bad."""
PARTIAL_SHARE = 0.01
"""A live table always has a row or two with one vector only; more of them are worth a word."""
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


ORDERS = ("lowest overlap first", "biggest loss first", "by text")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which queries of a comparison are listed, and in which order."""

    words: tuple[str, ...] = ()
    """Only queries with these casefolded words …"""
    undecided: bool = False
    """… and without a verdict."""
    order: int = 0
    """Index in ORDERS."""

    def title(self, blind: Blind) -> str:
        """What is listed."""
        what = "Queries without a verdict" if self.undecided else "Queries"
        return f"{what}, {'by chance' if blind.on else ORDERS[self.order]}"

    def of(self, queries: tuple[QueryComparison, ...], blind: Blind) -> list[QueryComparison]:
        """The queries to list."""
        chosen = (each for each in queries if all(word in each.text.casefold() for word in self.words))
        left = (each for each in chosen if not (self.undecided and each.verdict))
        return sorted(left, key=blind.place) if blind.on else sorted(left, key=self._place)

    def _place(self, query: QueryComparison) -> tuple[float, str]:
        if ORDERS[self.order] == "by text":
            return 0.0, query.text.casefold()
        return (query.overlap if self.order == 0 else gain(query) or 0.0), ""


def heading(width: int, blind: Blind) -> Content:
    """What the columns of the list are."""
    if blind.on:
        return draw.line(("  query", "$muted"))
    right = draw.line(("gain in nDCG, verdict" if width >= 76 else "gain, verdict", "$muted"))
    return draw.row(draw.line((f"{'shared':<12}query", "$muted")), right, width)


def query_line(query: QueryComparison, k: int, width: int, blind: Blind) -> Content:
    """A query in the list: what both sides share, its text, what judgments and the operator say."""
    if blind.on:
        done = query.query_id in blind.given
        mark = ("● ", "$success") if done else ("· ", "$faint")
        return draw.cut(draw.line(mark, safe.line(query.text, 2 * width)), width)
    # Little in common is a difference and no failure: only judgments may be green or red.
    style = "$warning" if query.overlap < LOW_SHARE else "$primary"
    glyph, word, verdict_style = VERDICTS.get(query.verdict, ("·", "", "$faint"))
    change = gain(query)
    told = figures.UNKNOWN if change is None else f"{change:+.2f}" if round(change, 2) else "0.00"
    right = draw.line(
        (f" {told}", "$muted" if told in ("0.00", figures.UNKNOWN) else "$success" if (change or 0) > 0 else "$error"),
        (f" {glyph}", verdict_style),
        (f" {word}" if width >= 76 else "", verdict_style),
    )
    shared = (f"{round(query.overlap * k):>2}/{k} ", f"bold {style}")
    alone = (f" {GLYPHS[BRIDGED]}", STYLES[BRIDGED]) if query.only_bridged else ""
    left = draw.line(shared, draw.bar(query.overlap, 5, style), alone, " ", safe.line(query.text, 2 * width))
    return draw.row(left, right, width)


def progress_line(advance: TaskAdvanced | None, width: int) -> Content:
    """How far a comparison is that is being made."""
    share = advance.done / advance.total if advance and advance.total else None
    text = f" {safe.line(advance.step)} {advance.done} of {advance.total}" if advance else " …"
    head = draw.line(("● comparing", "bold $primary"), (text, "$muted"), "  ")
    return draw.line(head, draw.bar(share, min(30, width - head.cell_length), "$primary"))


def asked_line(query: QueryComparison) -> Content:
    """The summary of a query of the operator's own."""
    shared = figures.UNKNOWN if query.old_unknown and not query.only_bridged else figures.percent(query.overlap)
    of = f" of the bridge {GLYPHS[BRIDGED]} and new" if query.only_bridged else ""
    return draw.line(
        ("own query", "bold $primary"),
        ("  overlap ", "$muted"),
        shared,
        (of, "$muted"),
        ("   Esc shows all again", "$muted"),
    )


def blind_line(blind: Blind, queries: int, width: int) -> Content:
    """The summary while sides are hidden."""
    done = f"{len(blind.given):,} of {queries:,} decided"
    keys = ("   < left  > right  s same  b both bad   V shows the sides", "   V shows the sides", "")
    line = draw.line(("● blind  ", "bold $primary"), done)
    return draw.fitting(width, *(draw.line(line, (each, "$muted")) for each in keys))


def recorded_line(view: View) -> Content:
    """The summary where the comparison itself has not been read."""
    status = view.snapshot.evaluation if view.snapshot else None
    parts: list[draw.Part] = [("○ not compared in this session", "$muted"), "   "]
    if status is not None:
        parts += [("recorded: ", "$muted"), (status.verdict, "bold"), (f" at {draw.clock(status.at)}", "$muted")]
    return draw.line(*parts)


def age(comparison: Comparison, view: View) -> str:
    """What keeps a comparison from being about the present state: void, or older; empty where nothing does."""
    status = view.snapshot.evaluation if view.snapshot else None
    if status is None or comparison.evaluation_id is None:
        return ""
    at = draw.when(comparison.at, view.snapshot.as_of if view.snapshot else None)
    if status.id > comparison.evaluation_id:
        return f"older, of {at}; a newer one is being read"
    return f"void, of {at}: {status.why_void}" if not status.valid and status.id == comparison.evaluation_id else ""


def nearly_void(comparison: Comparison, view: View) -> str:
    """How near a comparison is to be void by changes; empty where it is far from that."""
    status = view.snapshot.evaluation if view.snapshot else None
    return status.near_void if status is not None and status.id == comparison.evaluation_id else ""


def uncounted(comparison: Comparison, view: View) -> str:
    """What was judged by eye since the gate was decided; empty where nothing was."""
    status = view.snapshot.evaluation if view.snapshot else None
    if status is None or status.id != comparison.evaluation_id or status.verdicts_since is None:
        return ""
    since = status.verdicts_since
    said = formatting.counted(since, "verdict", "verdicts") if since else "verdicts changed"
    return f"{said} since: c has the gate count {'it' if since == 1 else 'them'}"


def made_at(comparison: Comparison, view: View) -> str:
    """Of which time the figures are, and how old; empty where they are not recorded."""
    if comparison.at is None:
        return ""
    now = view.snapshot.as_of if view.snapshot else None
    old = "" if now is None else f", {figures.duration(max(0.0, (now - comparison.at).total_seconds()))} ago"
    return f"figures of {draw.when(comparison.at, now)}{old}"


def summary_line(comparison: Comparison, view: View, width: int) -> Content:
    """A comparison in one line: verdict, quality, overlap; or that it is void or older, and why."""
    m = comparison.measures
    parts: list[draw.Part] = []
    if older := age(comparison, view):
        word, _, why = older.partition(", ")
        verdict = f"! {comparison.verdict}, {word}" if comparison.verdict else f"! {word}"
        parts += [(f"{verdict} ", "bold $warning"), (f"{safe.line(why)}  ", "$warning")]
    elif comparison.verdict:
        glyph, style = {"PASS": ("✓", "$success"), "FAIL": ("✗", "$error")}.get(comparison.verdict, ("?", "$warning"))
        parts.append((f"{glyph} {comparison.verdict}", f"bold {style}"))
        why = ", ".join(safe.line(each.name) for each in comparison.checks if each.result not in ("pass", "warn"))
        parts.append((f": {why}  " if why and comparison.verdict != "PASS" else "  ", style))
    head, gone = tuple(parts), (f"! {comparison.forgotten:,} forgotten since  ", "$warning")
    if since := uncounted(comparison, view):
        parts.append((f"! {since}  ", "$warning"))
        head = tuple(parts)
    if comparison.forgotten:
        parts.append(gone)
    if m.ndcg_old is not None and m.ndcg_new is not None:
        parts += [
            (f"{judgment(comparison)}  ", "bold"),
            ("nDCG ", "$muted"),
            (f"◇ {m.ndcg_old.mean:.2f}", "$old"),
            (" → ", "$muted"),
            (f"◆ {m.ndcg_new.mean:.2f}", "bold $new"),
            (f" {m.searched}  ", "$muted"),
        ]
    elif m.wins_old or m.wins_new:
        parts += [
            ("verdicts ", "$muted"),
            (f"◇ {m.wins_old:,}", "$old"),
            "  ",
            (f"◆ {m.wins_new:,}", "bold $new"),
            "  ",
        ]
    else:
        parts.append(("Different; not judged  ", "bold"))
    shared: tuple[draw.Part, ...] = (("overlap ", "$muted"), (figures.percent(m.overlap.mean), "bold"))
    short = draw.line(*parts, *shared)
    parts += shared
    parts += [
        (f"  {m.low_overlap:,}", "bold $warning" if m.low_overlap else "bold"),
        (f" of {m.queries:,} differ much", "$muted"),
    ]
    if m.bridged is not None and m.bridged.overlap_old is not None and width >= ROOMY:
        found = figures.percent(m.bridged.overlap_old.mean)
        parts += [
            (f"  {GLYPHS[BRIDGED]} bridged ", STYLES[BRIDGED]),
            (f"finds {found} of old {m.bridged.searched}", ""),
        ]
    seen = comparison.seen
    if comparison.partial and (seen is None or seen.one_sided > seen.rows * PARTIAL_SHARE):
        parts.append(("  ! partial", "$warning"))
    made = (f"  {made_at(comparison, view)}", "$muted")
    less = (draw.line(*head, *([gone] if comparison.forgotten else []), *shared), draw.line(*head))
    return draw.fitting(width, draw.line(*parts, made), draw.line(*parts), short, *less)


def headline(query: QueryComparison, blind: Blind, width: int = 0) -> Content:
    """The query, as much of it as there is room for, the operator's verdict and note, and what the mark means."""
    verdict = Content("")
    if query.verdict and not blind.on:
        glyph, word, style = VERDICTS[query.verdict]
        verdict = draw.line((f"  {glyph} {word}", style), (said_to(query), "$muted"))
    if missed(query) and not blind.on:
        verdict = draw.line(verdict, (f"  {MISSED} missed by the index", "$error"))
    room = max(30, width - verdict.cell_length - 6) if width else 60
    return draw.line(f"“{safe.line(query.text, room)}”", verdict)


def said_to(query: QueryComparison) -> str:
    """Whose the verdict is, where it is another operator's, and the note to it."""
    by = f", by {safe.line(query.verdict_by, 40)}" if query.verdict_by else ""
    return by + (f": {safe.line(query.note)}" if query.note else "")


def changed(row: RankedRow) -> str:
    """What became of a row since the comparison; empty where nothing did."""
    return "deleted" if row.deleted else "edited since" if row.edited else ""


def text_of(row: RankedRow) -> str:
    """A document to read: its title, where the table has one, over its text; or that it is no more."""
    if row.deleted:
        return "This row was deleted after the comparison."
    return "\n".join(each for each in (safe.line(row.title), safe.block(row.text)) if each)


def whereabouts(row: RankedRow, query: QueryComparison) -> Content:
    """A document's key, with rank and distance on each side."""
    parts: list[draw.Part] = [f"Document {safe.line(', '.join(row.key), 40)}"]
    if row.deleted or row.edited:
        parts.append((f"  {changed(row)}", "bold $warning"))
    sides = {"old": query.old, **({BRIDGED: query.bridged} if query.bridged else {}), "new": query.new}
    for side, rows in sides.items():
        found = next((each for each in rows if each.key == row.key), None)
        where = f"{found.rank} at {score(found.distance, 5)}" if found is not None else "not there"
        if query.bridged:  # three of them have no room for more
            where = str(found.rank) if found is not None else figures.UNKNOWN
        parts.append((f"  {GLYPHS[side]} ", STYLES[side]))
        parts.append((f"{MISSED} " if found is not None and found.missed else "", "bold $error"))
        parts.append((where, STYLES[side]))
    return draw.line(*parts)


def words_of(text: str) -> set[str]:
    """The words of ``text`` that are worth marking elsewhere, casefolded."""
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) >= MARKED} - COMMON


def marked(text: str, query: str) -> Content:
    """``text`` with the query's words marked: whole words, whatever their case."""
    words = words_of(query)
    found = (each for each in re.finditer(r"\w+", text) if each[0].casefold() in words)
    return Content(text, [Span(each.start(), each.end(), "bold underline") for each in found])


def as_text(query: QueryComparison) -> str:
    """Both rankings of a query as plain text."""
    out = [f"Query: {safe.line(query.text)}", f"Overlap: {figures.percent(query.overlap)}", ""]
    for side, rows in (("old", query.old), (BRIDGED, query.bridged), ("new", query.new)):
        if not rows and (side == BRIDGED or query.bridged):
            continue
        out.append(side)
        for row in rows:
            said = "  ".join(safe.line(each, 160) for each in (changed(row), row.title, row.text) if each)
            out.append(f"{row.rank:>3}  {row.distance:.4f}  {', '.join(row.key)}  {said}")
        out.append("")
    return "\n".join(out)
