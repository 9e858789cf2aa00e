"""The operator's verdicts on the queries of a comparison: with notes, and blind."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

from embedtui.model import QueryComparison
from embedtui.tui import safe
from embedtui.tui.actions import READONLY
from embedtui.tui.blind import Blind
from embedtui.tui.dialogs import ForgetDialog, PromptDialog
from embedtui.tui.engine_threads import Task
from embedtui.tui.messages import QueriesForgotten, VerdictsCounted
from embedtui.tui.panels import comparison as lines
from embedtui.tui.screens.exchange import ExchangeScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.chrome import Key


class VerdictScreen(ExchangeScreen):
    """A screen whose chosen query can be judged."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "verdict('new')", "New better", tooltip="This query is served better by the new side."),
        Binding("o", "verdict('old')", "Old better", tooltip="This query is served better by the old side."),
        Binding("s", "verdict('same')", "Same", tooltip="Neither is better."),
        Binding("b", "verdict('bad')", "Both bad", show=False, tooltip="Neither side finds what was asked for."),
        Binding("e", "note", "Note", show=False, tooltip="A note to this query's verdict, or the last given."),
        Binding("backspace", "take_back", "Take back", show=False, tooltip="This query's verdict, or the last given."),
        Binding("delete", "forget", "Forget", show=False, tooltip="Keep this query no longer, nor its verdicts."),
        Binding("less_than_sign", "verdict('left')", "Left better", show=False, key_display="<", tooltip="When blind."),
        Binding("greater_than_sign", "verdict('right')", "Right", show=False, key_display=">", tooltip="When blind."),
        Binding("V", "blind", "Blind", show=False, tooltip="Hide which side is which until the verdicts are given."),
    ]

    NOTHING = "No query is compared yet: press c."

    def __init__(self) -> None:
        """Nothing is decided here yet."""
        super().__init__()
        self.blind = Blind()
        self._last: tuple[int, int] | None = None
        """The query decided last, and the one that the cursor went on to: by number, for the list may change."""

    def point(self) -> None:
        """Show what speaks for the chosen query."""
        raise NotImplementedError

    def leave_figures(self) -> None:
        """Show the queries again, where figures stand in their place."""

    def list_again(self, *, keep: bool) -> None:
        """List the queries anew; with ``keep`` the chosen one stays chosen."""
        raise NotImplementedError

    def repaint(self) -> None:
        """Paint all panels anew."""
        raise NotImplementedError

    def on_verdicts_counted(self, message: VerdictsCounted) -> None:
        """Show all operators' verdicts and their sums; what is listed stays, though it may be decided now."""
        if self.comparison is None or self.comparison.evaluation_id != message.comparison.evaluation_id:
            return
        self.comparison = message.comparison
        found = {each.query_id: each for each in message.comparison.queries}
        for index, each in enumerate(self.shown):
            if found.get(each.query_id, each) != each:
                self.shown[index] = found[each.query_id]
                self.listing.repaint(index)
                if index == self.listing.cursor:
                    self.point()
        self.repaint()

    def keys(self, view: View) -> tuple[Key, ...]:
        """While sides are hidden, the keys for that."""
        keys = super().keys(view)
        if self.asked is not None:  # it takes no verdict
            keys = tuple(each for each in keys if not each.action.startswith("screen.verdict"))
        if not self.blind.on or isinstance(self.focused, Input):
            return keys
        possible = not self.refusal("verdict")
        hidden = (
            *(
                Key(key, label, f"screen.verdict('{verdict}')", possible)
                for key, label, verdict in (("<", "Left", "left"), (">", "Right", "right"), ("s", "Same", "same"))
            ),
            Key("b", "Both bad", "screen.verdict('bad')", possible),
            Key("V", "Show", "screen.blind"),
        )
        return (*hidden, *keys[-2:])

    def refusal(self, action: str) -> str:
        """Verdicts, notes and forgetting are for the kept queries that are shown."""
        if action == "export":
            return "Sides are hidden: V first shows them again." if self.blind.on else ""
        if action in ("read", "figures", "filter") and self.comparison is None and self.asked is None:
            return self.NOTHING
        if action not in ("verdict", "note", "forget"):
            return super().refusal(action)
        if action == "note" and self.blind.on:
            return "Sides are hidden: V first shows them again."
        if self.dashboard.readonly:
            return READONLY
        if self.has_class("-figures"):
            return "The queries are hidden: m or Esc shows them again."
        if self.asked is not None:
            return "An own query is not kept: this is for the kept ones."
        if not self.shown:
            return self.NOTHING
        chosen = self.chosen_query
        if action == "verdict" and chosen is not None and chosen.only_bridged:
            return "The old model made no vector of it: beside the new side stands the bridge, which is not judged."
        if action == "note" and self._judged is None:
            return "No verdict on this query yet: n, o, s or b gives one, ↑ goes back to the last."
        return ""

    def action_verdict(self, verdict: str) -> None:
        """Record the operator's verdict and go on to the next query without one; that it replaces one is said."""
        chosen = self.chosen_query
        if self.refuse("verdict") or chosen is None:
            return
        reason = self.blind.refusal(verdict)
        if reason:
            self.dashboard.say(reason, severity="warning")
            return
        # blind, a verdict of before would tell the sides
        before = chosen.verdict if not self.blind.on or chosen.query_id in self.blind.given else ""
        meant = self.blind.take(chosen, verdict)
        self._decide(chosen, meant, chosen.note if meant == chosen.verdict else "")
        if before not in ("", meant):
            was = "an earlier one" if self.blind.on else f"“{lines.VERDICTS[before][1]}”"
            self.dashboard.say(f"It replaces {was} on “{safe.line(chosen.text, 40)}”.", title="Verdict")
        # at the end of the list it stays, so that one can go on upwards
        later = range(self.listing.cursor + 1, len(self.shown))
        self.listing.cursor = next((i for i in later if not self._decided(self.shown[i])), self.listing.cursor)
        self._last = (chosen.query_id, self.shown[self.listing.cursor].query_id)

    @property
    def _judged(self) -> QueryComparison | None:
        """The chosen query where it has a verdict; right after a verdict, the one that this was given on."""
        chosen = self.chosen_query
        if chosen is not None and not chosen.verdict and self._last is not None:
            last, went_on_to = self._last
            if chosen.query_id == went_on_to:
                chosen = next((each for each in self.shown if each.query_id == last), None)
        return chosen if chosen is not None and chosen.verdict else None

    def action_take_back(self) -> None:
        """Take back a verdict, and go to its query."""
        query = self._judged
        if self.refuse("note") or query is None:
            return
        self._decide(query, "", "")
        self.listing.cursor = next(i for i, each in enumerate(self.shown) if each.query_id == query.query_id)

    def _decided(self, query: QueryComparison) -> bool:
        return query.query_id in self.blind.given if self.blind.on else bool(query.verdict)

    def action_note(self) -> None:
        """Ask for a note to the verdict on the query that is shown, or to the one just given."""
        query = self._judged
        if self.refuse("note") or query is None:
            return
        glyph, word, _ = lines.VERDICTS[query.verdict]

        def answered(note: str | None) -> None:
            if note is not None:
                self._decide(query, query.verdict, note)

        about = f"{glyph} {word}: “{safe.line(query.text, 40)}”"
        self.dashboard.push_screen(PromptDialog("Note", about, safe.line(query.note), optional=True), answered)

    def _decide(self, query: QueryComparison, verdict: str, note: str) -> None:
        """Stores the verdict, and shows it at once."""
        decided = replace(query, verdict=verdict, note=note, verdict_by="")
        self.dashboard.keep_verdict(decided)
        self.comparison = self.dashboard.comparison
        index = next((i for i, each in enumerate(self.shown) if each.query_id == query.query_id), None)
        if index is not None:
            self.shown[index] = decided
            self.listing.repaint(index)
            self.point()

    def action_forget(self) -> None:
        """Ask whether the chosen query is to be kept no longer."""
        chosen = self.chosen_query
        if self.refuse("forget") or chosen is None:
            return
        number = chosen.query_id
        self.dashboard.ask(
            ForgetDialog(chosen.text),
            lambda _: Task(
                "forget",
                lambda engine, _: engine.forget_queries([number]),
                "The query is kept no longer: c compares without it.",
                result=lambda _: QueriesForgotten((number,)),
            ),
        )

    def on_queries_forgotten(self, _message: QueriesForgotten) -> None:
        """List what is left, at the same place."""
        place, self.comparison = self.listing.cursor, self.dashboard.comparison
        self.list_again(keep=False)
        self.listing.cursor = place
        self.repaint()

    def action_blind(self) -> None:
        """Hide the sides; again shows them, and what was given blind."""
        if self.blind.on:
            self.dashboard.say(self.blind.end(), title="Blind")
            self.dashboard.count_verdicts()
        else:
            self.blind.begin()
            self.leave_figures()
        self.list_again(keep=True)
        self.repaint()
