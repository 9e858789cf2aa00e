"""The guided tours of the demo: a few hints on one line, each until what it is about was done, or T goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from textual.content import Content

from embedtui.model import Phase, Side
from embedtui.tui import draw
from embedtui.tui.others import Others
from embedtui.tui.view import View

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard

_EMBEDDING = (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL, Phase.INDEX)


@dataclass(frozen=True, slots=True)
class Hint:
    """One step: the keys to press, and what they are for."""

    text: str
    """For 80 columns."""
    more: str
    """Said after it where there is room."""
    done: Callable[[Tour, View], bool]
    holds: Callable[[View], bool]
    """Whether it is true as things are: it is shown only then."""


@dataclass(slots=True)
class Tour:
    """How far somebody is led."""

    at: int = 0
    """Index of the hint that is shown."""
    hints: tuple[Hint, ...] = field(default_factory=lambda: HINTS)
    """All of them, in their order."""
    front: str = ""
    """The screen in front."""
    left: set[str] = field(default_factory=set)
    """Screens that were looked at, and left, since the hint came."""
    flipped: bool = False
    """The new side has served."""

    @property
    def hint(self) -> Hint | None:
        """The hint that is shown; None once all were."""
        return self.hints[self.at] if self.at < len(self.hints) else None

    def follow(self, view: View, screen: str) -> None:
        """Go on past what was done, whoever did it; a migration that has ended leaves nothing to lead through."""
        if screen != self.front:
            self.left.add(self.front)
            self.front = screen
        self.flipped = self.flipped or view.new_reads
        if view.phase.ended:
            self.at = len(self.hints)
        while self.hint is not None and self.hint.done(self, view):
            self.at += 1
            self.left.clear()  # what was looked at before its hint came was not looked at for it


def _compared(view: View) -> bool:
    return view.snapshot is not None and view.snapshot.evaluation is not None


HINTS: tuple[Hint, ...] = (
    Hint(
        "p pauses, p goes on. ? says how a second terminal joins.",
        "Rows are embedded, searches go on; a crash loses nothing that was paid for.",
        lambda _, view: view.phase not in _EMBEDDING,
        lambda view: view.phase in _EMBEDDING,
    ),
    Hint(
        "c compares both sides, question by question.",
        "The cutover asks for this evidence, about the table as it is.",
        lambda tour, view: tour.flipped or _compared(view),
        lambda view: view.phase not in _EMBEDDING,
    ),
    Hint(
        "2 lists the questions compared: f reads both documents.",
        "n, o, s and b give your verdict; V hides which side is which; 1 comes back here.",
        lambda tour, _: tour.flipped or "compare" in tour.left,
        lambda view: _compared(view),
    ),
    Hint(
        "x cuts over: type the table's name, and it serves.",
        "A share of the keys first, if you like. No lock, no DDL: a pointer moves.",
        lambda tour, _: tour.flipped,
        lambda view: _compared(view) and not view.new_reads,
    ),
    Hint(
        "F9 takes it back, at once and from anywhere. Try it.",
        "A pointer moves, and both sides are kept current: either way stays open.",
        lambda tour, view: tour.flipped and not view.new_reads,
        lambda view: view.way_back,
    ),
    Hint(
        "x once more, all of it, when you trust what you compared.",
        "Then it soaks: 3 says for how long, and what a cleanup asks.",
        lambda _, view: view.route.active is Side.NEW,
        lambda view: view.route.active is Side.OLD,
    ),
    Hint(
        "K cleans up: the old side is dropped, and the way back.",
        "A short soak wants a reason; ? has all other keys.",
        lambda _, view: view.phase.ended,
        lambda view: view.way_back,
    ),
)

SHUTDOWN: tuple[Hint, ...] = (
    Hint(
        "Soon the old model is shut down: press nothing yet, watch.",
        "The application searches with it, and nobody has begun to migrate.",
        lambda tour, view: tour.flipped or view.route.bridging or _gone(view),
        lambda view: not view.new_reads,
    ),
    Hint(
        "B brings the failing searches back, over a bridge.",
        "The new model's queries then search the old vectors, through a map.",
        lambda tour, view: tour.flipped or view.route.bridging,
        lambda view: _gone(view) and not view.new_reads,
    ),
    Hint(
        "r embeds the rows meanwhile.",
        "The bridge is for the time until then.",
        lambda tour, view: tour.flipped or view.running or view.phase not in _EMBEDDING,
        lambda view: view.phase in _EMBEDDING,
    ),
    *HINTS[1:4],
)
"""The story in which the old model dies: it begins by itself."""


def _gone(view: View) -> bool:
    return view.snapshot is not None and bool(view.snapshot.old_gone)


def hint_of(view: View) -> Hint | None:
    """The hint to show; None where nobody is led, or it is not true now."""
    tour = view.tour
    hint = tour.hint if tour is not None else None
    return hint if hint is not None and not view.phase.ended and hint.holds(view) else None


def tour_line(view: View, width: int, _height: int = 1) -> Content:
    """The hint, and how to get rid of it."""
    if view.tour is None or (hint := hint_of(view)) is None:
        return Content("")
    head = draw.line(
        (f" Hint {view.tour.at + 1}/{len(view.tour.hints)} ", "bold $background on $primary"), " ", (hint.text, "bold")
    )
    right = draw.line(draw.link("T", "bold $primary", "app.tour"), draw.link(" next ", "$muted", "app.tour"))
    whole = draw.line(head, (f"  {hint.more}", "$muted"))
    return draw.row(draw.fitting(width - right.cell_length - 1, whole, head), right, width)


class Guided(Others):
    """An app that can lead through a first migration."""

    tour: Tour | None = None
    anew: str = ""
    """The command that begins the demo anew, once its migration has ended; empty: this is no demo, or it is said."""

    def follow_tour(self, view: View) -> None:
        """See what was done meanwhile."""
        if self.tour is not None:
            self.tour.follow(view, self.current_mode)
            self._leave()
        if self.anew and view.phase.ended:
            self.say(f"This demo's migration has ended; {self.anew} begins anew.", title="Demo")
            self.anew = ""

    def action_tour(self) -> None:
        """The next hint; after the last one there is none any more."""
        if self.tour is None:
            self.say("There is no tour here: the line under the phases says what comes next; ? has all keys.")
            return
        self.tour.at += 1
        self._leave()
        self.show()

    def _leave(self) -> None:
        if self.tour is not None and self.tour.hint is None:
            app = cast("Dashboard", self)
            app.preferences = replace(app.preferences, toured=app.preferences.toured or self.tour.hints is HINTS)
            self.tour = None
            self.say("That was the tour. ? has all other keys.", title="Tour")
