"""The dashboard: holds one snapshot, hands views to screens, and turns keys into actions."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ScreenStackError
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.screen import Screen

from embedtui.model import (
    Comparison,
    Event,
    Failed,
    Phase,
    PhaseChanged,
    Progressed,
    RouteFlipped,
    Snapshot,
)
from embedtui.tui import messages, terminal
from embedtui.tui import preferences as stored
from embedtui.tui.actions import ACTIONS, SCREENS
from embedtui.tui.actions.bridging import BridgeOrder
from embedtui.tui.actions.migration import Run
from embedtui.tui.dialogs import Dialog, ReportDialog
from embedtui.tui.dialogs.bridging import BridgeDialog
from embedtui.tui.engine import OpenEngine
from embedtui.tui.engine_threads import Bridge
from embedtui.tui.old_model import ASKING, OldModelWatch
from embedtui.tui.palette import ActionsProvider
from embedtui.tui.panels.alerts import alert
from embedtui.tui.remedies import worded
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.screens.compare import CompareScreen
from embedtui.tui.screens.cutover import CutoverScreen
from embedtui.tui.screens.faults import FaultsScreen
from embedtui.tui.screens.help import HelpScreen
from embedtui.tui.screens.log import LogScreen
from embedtui.tui.screens.overview import OverviewScreen
from embedtui.tui.screens.plan import PlanScreen
from embedtui.tui.screens.settings import SettingsScreen
from embedtui.tui.screens.workers import WorkersScreen
from embedtui.tui.searches import Rates, SearchMeter
from embedtui.tui.tour import Guided
from embedtui.tui.view import Link, View

_RATES = 240
"""Readings kept for the sparkline: two minutes."""
_EVENTS = 2000
"""Events of this process kept for Overview and Log."""


class Dashboard(Guided):
    """The dashboard over one engine. Every change of the screen happens in the event loop, from a message."""

    TITLE = "embedtui"
    MODES: ClassVar[dict[str, Callable[[], Screen[None]]]] = {  # type: ignore[assignment]
        "overview": OverviewScreen,
        "compare": CompareScreen,
        "cutover": CutoverScreen,
        "faults": FaultsScreen,
        "workers": WorkersScreen,
        "log": LogScreen,
        "plan": PlanScreen,
    }
    # Textual annotates this so that a ClassVar is refused.
    COMMANDS = {ActionsProvider}  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(
                action.key,
                f"perform('{action.name}')",
                action.label,
                show=False,
                key_display=action.key_text,
                priority=action.name == "rollback",
            )
            for action in ACTIONS.values()
        ),
        *(Binding(key, f"goto('{name}')", title, show=False) for name, (key, title) in SCREENS.items()),
        Binding("f1", "perform('help')", "Help", show=False),
        Binding("T", "tour", "Next hint", show=False),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
    ]

    snapshot: reactive[Snapshot | None] = reactive(None, init=False, always_update=True, repaint=False)

    def __init__(
        self,
        open_engine: OpenEngine,
        *,
        readonly: bool = False,
        autostart: bool = False,
        remember: bool = True,
        notify: bool = True,
        interval: float = 0.5,
        opens: str = "overview",
    ) -> None:
        """Start nothing yet.

        Args:
            open_engine: makes the engine; called on a thread of its own, and again while it fails.
            readonly: only watch.
            autostart: begin the work at once.
            remember: keep preferences for the next session.
            notify: ring the bell and ask for a desktop notification when somebody is needed.
            interval: seconds between snapshots.
            opens: the screen that is shown first.
        """
        super().__init__()
        self.bridge = Bridge(open_engine, self.post_message, interval=interval)
        self.readonly = readonly
        self.elsewhere = self.about = ""
        """The command that shows this in another terminal, and what a demo has made; empty where it is plain."""
        self.link = Link()
        self.comparison: Comparison | None = None
        """The newest comparison, with the verdicts given here."""
        self.advances: dict[str, messages.TaskAdvanced] = {}
        """How far tasks are that are under way, by name."""
        self.rates: deque[float] = deque(maxlen=_RATES)
        self.searches: deque[Rates] = deque(maxlen=_RATES)
        self._search_meter, self._old_model = SearchMeter(), OldModelWatch()
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self.another = self.worked = False
        """Whether a plan of another migration was read, after this one; whether work was ever under way here."""
        self.detached: bool | None = None
        """How it was left, once that is decided; a crash decides nothing, and then, too, the work goes on."""
        self._busy: tuple[str, ...] = ()
        self._autostart = autostart
        self._remember = remember
        self._notify = notify
        self._opens = opens
        self._preferences = stored.load() if remember else stored.Preferences()

    def on_mount(self) -> None:
        """Begin to read, and show the Overview."""
        self.wear(self.preferences.theme)
        # SIGTERM leaves the same way as the key, a closed terminal without stopping the work.
        terminal.on_signals(self.exit, self._hung_up)
        closed = None if self.is_headless else terminal.closed()
        if closed is not None:
            self.set_interval(terminal.HANGUP_SECONDS, lambda: self._hung_up() if closed() else None)
        self.bridge.start()
        self.switch_mode(self._opens)  # what matters now comes first, wherever the last session ended

    async def on_unmount(self) -> None:
        """Close the engine; the loop stays free meanwhile."""
        close = functools.partial(self.bridge.close, detach=self.detached is not False)
        await asyncio.get_running_loop().run_in_executor(None, close)

    def _hung_up(self) -> None:
        terminal.leave_soon()
        self.detach()

    def detach(self) -> None:
        """Leave; work that can do without this terminal goes on."""
        if self.detached is None:
            self.detached = self.bridge.detachable
        self.exit()

    def exit(self, *arguments: Any, **options: Any) -> None:
        """Leave; unless it was detached first, the work of this terminal stops."""
        if self.detached is None:
            self.detached = False
        super().exit(*arguments, **options)

    @property
    def view(self) -> View:
        """What panels are shown."""
        return View(
            snapshot=self.snapshot,
            link=self.link,
            rates=tuple(self.rates),
            searches=tuple(self.searches),
            counting=self._search_meter.counting,
            events=tuple(self.events),
            running=self.bridge.running,
            detachable=self.bridge.detachable,
            busy=self._busy,
            readonly=self.readonly,
            another=self.another,
            tour=self.tour,
        )

    @property
    def preferences(self) -> stored.Preferences:
        """What this session leaves for the next; stored as soon as it is set."""
        return self._preferences

    @preferences.setter
    def preferences(self, value: stored.Preferences) -> None:
        if value != self._preferences:
            self._preferences = value
            if self._remember:
                stored.save(value)

    # -------------------------------------------------------------------------------------------- messages

    def watch_snapshot(self) -> None:
        """A new snapshot is shown, by one repaint; what a key did does not wait for one."""
        # Panels report themselves one by one; beside a busy engine that spreads over some rounds of the loop.
        if not self.is_running:
            return
        batch = contextlib.ExitStack()
        batch.enter_context(self.batch_update())

        def paint() -> None:
            batch.close()
            with contextlib.suppress(ScreenStackError):
                for screen in self.screen_stack:  # what is seen behind a dialog, too
                    screen.check_idle()

        self.set_timer(0.03, paint)
        self.show()

    def _front(self) -> list[DashboardScreen]:
        if not self.is_running:  # leaving: the screens' parts go one by one
            return []
        return [each for each in self.screen_stack if isinstance(each, DashboardScreen) and each.is_mounted]

    def show(self) -> None:
        """Show the present view on every screen of the front stack."""
        if not self.is_running:
            return
        self.follow_tour(self.view)
        view = self.view
        for screen in self._front():
            screen.show(view)

    def hand_on(self, message: Message) -> None:
        """Give ``message`` to the screens of the front stack."""
        for screen in self._front():
            screen.post_message(message)

    def on_snapshot_taken(self, message: messages.SnapshotTaken) -> None:
        """Show it; with the first one the work may begin."""
        again = not self.link.up and self.link.since is not None and self.snapshot is not None
        first = self.snapshot is None
        self.link, self.taken_at = Link(up=True), time.monotonic()
        rate = message.snapshot.backfill.rate
        if message.snapshot.phase is Phase.BACKFILL and (rate is not None or self.rates):
            self.rates.append(rate or 0.0)  # while nothing moves, time does
        if (searched := self._search_meter.add(message.snapshot)) is not None:
            self.searches.append(searched)
        before, self.snapshot = self.snapshot, message.snapshot
        if self._old_model.due(self.view):
            self.bridge.do(ASKING)
        if again:
            self.say("The database is back.", title="Connected")
        if before is not None:
            self.say_others(before, message.snapshot)
        if isinstance(self.screen, Dialog):
            self.screen.seen(self.view)
        self.follow_evaluation(message.snapshot)
        self.call(alert(message.snapshot))
        if first and self._autostart and not self.readonly and not message.snapshot.phase.ended:
            Run().begin(self)  # whoever started it so has been asked
        if first and isinstance(self.screen, DashboardScreen):
            self.screen.opened()

    def on_snapshot_failed(self, message: messages.SnapshotFailed) -> None:
        """Say that what is shown is the last known state."""
        trouble = message.trouble
        hint = worded(trouble.hint, trouble.remedies)
        self.link = Link(False, message.since, message.seconds, trouble.message, hint, message.attempts, trouble.title)
        self.show()

    def on_engine_reported(self, message: messages.EngineReported) -> None:
        """Keep the event; what changes the picture as a whole gets a snapshot at once."""
        event = message.event
        if isinstance(event, Progressed):
            return
        self.events.append(event)
        self.hand_on(message)
        if isinstance(event, PhaseChanged | Failed | RouteFlipped):
            self.bridge.refresh()

    def on_task_started(self, message: messages.TaskStarted) -> None:
        """Show that it is busy."""
        self._busy = (*self._busy, message.name)
        self.worked = self.worked or message.name == "run"
        if message.text:
            self.say(message.text)
        self.show()

    def on_task_advanced(self, message: messages.TaskAdvanced) -> None:
        """Keep it for those who show progress."""
        self.advances[message.name] = message
        self.hand_on(message)

    def on_task_done(self, message: messages.TaskDone) -> None:
        """Say what it did."""
        if message.text:
            self.say(message.text)
        self._ended(message.name)

    def on_task_failed(self, message: messages.TaskFailed) -> None:
        """Say what went wrong."""
        self.trouble(message.trouble)
        self._ended(message.name)

    def _ended(self, name: str) -> None:
        self.advances.pop(name, None)
        self._busy = tuple(each for each in self._busy if each != name)
        self.show()

    def on_pointer_moved(self, message: messages.PointerMoved) -> None:
        """Screens may ask anew what is in the way; a dialog of before is no more about what is."""
        self.hand_on(message)
        if message.flip.changed:
            self.leave_moved()

    def on_rows_verified(self, message: messages.RowsVerified) -> None:
        """Show the report."""
        self.push_screen(ReportDialog(message.report))

    def action_goto(self, name: str) -> None:
        """Bring a screen to the front."""
        self.goto(name)

    def goto(self, name: str) -> None:
        """Bring a screen to the front; not from a dialog."""
        if isinstance(self.screen, DashboardScreen) and self.current_mode != name:
            self.switch_mode(name)

    def action_perform(self, name: str) -> None:
        """Do an action of the operator, or say why it is impossible now."""
        ACTIONS[name].perform(self)

    def open_help(self) -> None:
        """Explain the screen in front."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen if isinstance(self.screen, DashboardScreen) else None))

    def open_settings(self) -> None:
        """Show all settings in force."""
        if not isinstance(self.screen, SettingsScreen):
            self.push_screen(SettingsScreen())

    def settings_changed(self) -> None:
        """What was planned by the settings before is planned anew when it is looked at."""
        for screen in self._front():
            screen.settings_changed()

    def open_bridge(self, give: Callable[[BridgeOrder], object]) -> None:
        """Show what is known of the bridge; ``give`` takes what the operator wants of it."""
        self.push_screen(BridgeDialog(lambda: self.view, give))

    def action_help_quit(self) -> None:
        """Ctrl-C does not interrupt production's migration by reflex; it says how to leave."""
        self.say("q quits; D leaves the work running." if self.bridge.detachable else "q quits.")
