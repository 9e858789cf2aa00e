"""Workers: every process and thread, what it does, since when."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from embedtui.model import ThreadStatus, WorkerStatus
from embedtui.tui import draw, figures, safe
from embedtui.tui.actions import READONLY
from embedtui.tui.dialogs import StopDialog
from embedtui.tui.engine_threads import Task
from embedtui.tui.panels.lists import at_work
from embedtui.tui.panels.parts import briefly, shortened
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.listing import Listing
from embedtui.tui.widgets.panel import Panel

Line = tuple[WorkerStatus, ThreadStatus | None, str]
"""(worker, thread, since when it does what it does); thread None is the process."""


_NOBODY = "○ No worker is at work. Press r to work here, or start `embedtui run` on any host."
_NOT_READ = "◌ Not read from the database yet."


class WorkersScreen(DashboardScreen):
    """Who works on this migration, on every host."""

    NAME = "workers"
    AUTO_FOCUS = "#workers"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "stop", "Stop", tooltip="Stop the marked process, wherever it runs. What is paid for is stored."),
        Binding("w", "order", "Order", tooltip="This terminal first, or the busiest."),
        Binding("y", "copy", "Copy", tooltip="Copy the list, and save it as a file."),
    ]

    def __init__(self) -> None:
        """Nobody is known yet."""
        super().__init__()
        self.lines: tuple[Line, ...] = ()
        """What is listed."""
        self._by_rows = False

    def body(self) -> ComposeResult:
        """A line of sums and the list."""
        yield Panel(_summary, id="workers-line")
        yield Listing(self._paint, empty=_NOT_READ, title="Processes and threads", id="workers", classes="box")

    def show(self, view: View) -> None:
        """Show who is at work now."""
        super().show(view)
        listing = self.query_one("#workers", Listing)
        before, self.lines = self.lines, tuple(_lines(view, _by_rows if self._by_rows else _own_first))
        if view.snapshot is None:
            listing.empty = _NOT_READ
        else:
            listing.empty = f"The migration is {view.phase}: there is no more work." if view.phase.ended else _NOBODY
        # Threads come and go: the cursor stays with its line, or else its process, or a stop would meet another.
        listing.update_rows(before, self.lines, _identity, lambda line: line[0].id)

    def action_order(self) -> None:
        """List this terminal's process first, or the one that wrote most."""
        self._by_rows = not self._by_rows
        title = "Processes and threads, the busiest first" if self._by_rows else "Processes and threads"
        self.query_one("#workers").border_title = title
        self.show(self.dashboard.view)

    def action_stop(self) -> None:
        """Ask the process under the cursor to stop."""
        if self.refuse("stop", title="Stop"):
            return
        worker = self.lines[self.query_one("#workers", Listing).cursor][0]
        name = f"{worker.host}:{worker.pid}"

        def done(asked: int) -> str:
            return f"{name} stops; requests in flight are stored." if asked else "It was at work no more."

        def answered(stop: bool | None) -> None:
            if stop:
                self.dashboard.bridge.do(Task("stop", lambda engine, _: engine.stop_workers([worker.id]), done))

        snapshot = self.dashboard.snapshot
        others = sum(each.alive and each.id != worker.id for each in snapshot.workers) if snapshot else 0
        self.dashboard.push_screen(StopDialog(name, worker.doing, others), answered)

    def refusal(self, action: str) -> str:
        """A process at work has to be marked."""
        if action != "stop":
            return ""
        if self.dashboard.readonly:
            return READONLY
        if not self.dashboard.link.up:
            return "The database is out of reach."
        line = self.lines[self.query_one("#workers", Listing).cursor] if self.lines else None
        return "" if line and line[0].alive else "No process at work is marked."

    def action_copy(self) -> None:
        """Hand out the list as text."""
        lines = [
            (worker.host, str(worker.pid), thread.name if thread else "", since, _doing(worker, thread))
            for worker, thread, since in self.lines
        ]
        if lines:
            text = "".join("\t".join(map(safe.line, line)) + "\n" for line in lines)
            self.dashboard.hand_out(text, "workers.tsv")
        else:
            self.dashboard.say("Nobody is listed.", title="Copy", severity="warning")

    @on(Listing.Chosen, "#workers")
    def chosen(self, message: Listing.Chosen) -> None:
        """Enter says what it does in full."""
        worker, thread, _ = self.lines[message.index]
        self.dashboard.say(safe.line(_doing(worker, thread)), title=f"{worker.host}:{worker.pid}")

    def _paint(self, index: int, width: int) -> Content | None:
        worker, thread, since = self.lines[index]
        if thread is not None:
            last = index + 1 == len(self.lines) or self.lines[index + 1][1] is None
            stem = "  └ " if last else "  ├ "
            name = draw.fit(thread.name.removeprefix("embedtui-"), 14)
            named = draw.line((stem, "$faint"), (name, "$muted"))
            room = width - named.cell_length - len(since) - 1
            left = draw.line(named, briefly(safe.line(_doing(worker, thread)), room))
            return draw.row(left, draw.line((since, "$muted")), width)
        mark = ("● ", "$success") if worker.alive else ("✗ ", "bold $warning")
        doing = safe.line(_doing(worker, None))
        named = draw.line(
            mark,
            (shortened(safe.line(worker.host), width), "bold"),
            (f" {worker.pid}", "$muted"),
            ((" this terminal" if width >= 90 else " here") if worker.own else "", "$primary"),
            "  ",
        )
        right = draw.line((figures.number(worker.rows), "bold"), (" rows", "$muted"))
        room = width - named.cell_length - right.cell_length - 1
        told = draw.line(named, (briefly(doing, room), "" if worker.alive else "$warning"))
        timed = draw.line(named, doing, (f"  since {since}" if worker.alive else "", "$muted"))
        return draw.row(draw.fitting(width - right.cell_length - 1, timed, told), right, width)


def _identity(line: Line) -> tuple[int, str]:
    worker, thread, _ = line
    return worker.id, thread.name if thread else ""


def _own_first(worker: WorkerStatus) -> tuple[bool, bool, int]:
    return not worker.alive, not worker.own, worker.id


def _by_rows(worker: WorkerStatus) -> tuple[bool, bool, int]:
    return not worker.alive, False, -worker.rows


def _doing(worker: WorkerStatus, thread: ThreadStatus | None) -> str:
    if thread is not None:
        return thread.doing if worker.alive else f"was {thread.doing}"
    return worker.doing if worker.alive else f"silent for {figures.duration(worker.heartbeat_seconds)}"


def _lines(view: View, order: Callable[[WorkerStatus], tuple[bool, bool, int]]) -> list[Line]:
    snapshot = view.snapshot
    if snapshot is None:
        return []
    lines: list[Line] = []
    for worker in sorted(snapshot.workers, key=order):
        lines.append((worker, None, draw.clock(worker.since)))
        lines += [(worker, thread, f"since {draw.clock(thread.since)}") for thread in worker.threads]
    return lines


def _summary(view: View, width: int, _height: int) -> Content:
    snapshot = view.snapshot
    if snapshot is None:
        return draw.line(("◌ not read yet", "$muted"))
    alive = [worker for worker in snapshot.workers if worker.alive]
    threads = sum(len(worker.threads) for worker in alive)
    status = snapshot.backfill
    choices = []
    state = at_work(alive)
    for flight, requests, tokens in (
        ("in flight at most ", " requests/min", " tokens/min"),
        ("in flight ≤", " req/min", " tok/min"),
    ):
        parts: list[draw.Part] = [(f"{len(alive)}", "bold"), (f" {state}, ", "$muted"), (f"{threads}", "bold")]
        parts.append((" thread   " if threads == 1 else " threads   ", "$muted"))
        if status.concurrency is not None:
            most = status.max_concurrency or status.concurrency
            for_now = f" ({status.concurrency} for now)" if status.concurrency < most else ""
            parts += [(flight, "$muted"), (f"{most}", "bold"), (f"{for_now}   ", "$muted")]
        if status.requests_per_minute is not None:
            parts += [(figures.short(status.requests_per_minute), "bold"), (f"{requests}   ", "$muted")]
        if status.tokens_per_minute is not None:
            parts += [(figures.short(status.tokens_per_minute), "bold"), (tokens, "$muted")]
        choices.append(draw.line(*parts))
    return draw.fitting(width, *choices)
