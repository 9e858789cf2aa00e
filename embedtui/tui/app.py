"""The dashboard: holds one snapshot, hands views to screens, and turns keys into acts for the bridge."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import select
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from textual import events
from textual.app import ScreenStackError, SystemCommand
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import Screen

from embedtui.formatting import called
from embedtui.model import (
    Blocker,
    Comparison,
    Event,
    Failed,
    Flip,
    Phase,
    PhaseChanged,
    Progressed,
    RouteFlipped,
    Snapshot,
    VerifyReport,
)
from embedtui.tui import acts, comforts, draw, safe, theme
from embedtui.tui.bridge import (
    ActAdvanced,
    ActDone,
    ActFailed,
    ActStarted,
    Bridge,
    Engine,
    EngineSpoke,
    Fetched,
    FetchFailed,
    OpenEngine,
    SnapshotFailed,
    SnapshotTaken,
    Trouble,
)
from embedtui.tui.crash import CrashLogged
from embedtui.tui.driver import TerminalDriver
from embedtui.tui.palette import ActsProvider
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.screens.compare import CompareScreen
from embedtui.tui.screens.cutover import CutoverScreen
from embedtui.tui.screens.dialogs import (
    AskingDialog,
    CutoverAnswer,
    CutoverDialog,
    LimitsDialog,
    ReportDialog,
    Typed,
    TypedNameDialog,
    VerifyAnswer,
    VerifyDialog,
)
from embedtui.tui.screens.faults import FaultsScreen
from embedtui.tui.screens.help import HelpScreen
from embedtui.tui.screens.log import LogScreen
from embedtui.tui.screens.overview import OverviewScreen
from embedtui.tui.screens.plan import PlanScreen
from embedtui.tui.screens.workers import WorkersScreen
from embedtui.tui.view import Link, View

QUIT_SIGNALS = {"SIGTERM": "_act_quit", "SIGHUP": "_hung_up"}
"""Asked to end, and the terminal was closed: what is done then."""
HUNG_UP_SECONDS = 5.0
"""What leaving may take once the terminal is gone."""
HANGUP_SECONDS = 2.0
"""Between looks whether the terminal is still there."""
_RATES = 240
"""Readings kept for the sparkline: two minutes."""
_EVENTS = 2000
"""Events of this process kept for Overview and Log."""


class Dashboard(CrashLogged[None]):
    """The dashboard over one engine. Every change of the screen happens in the event loop, from a message."""

    TITLE = "embedtui"
    CSS_PATH = Path(__file__).with_name("app.tcss")
    MODES: ClassVar[dict[str, Callable[[], Screen[None]]]] = {  # type: ignore[assignment]
        "overview": OverviewScreen,
        "compare": CompareScreen,
        "cutover": CutoverScreen,
        "faults": FaultsScreen,
        "workers": WorkersScreen,
        "log": LogScreen,
        "plan": PlanScreen,
    }
    # Textual annotates these two so that a ClassVar is refused.
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-w0"),
        (80, "-w80"),
        (100, "-w100"),
        (160, "-w160"),
        (240, "-w240"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-h0"),
        (24, "-h24"),
        (30, "-h30"),
        (45, "-h45"),
        (60, "-h60"),
    ]
    COMMANDS = {ActsProvider}  # noqa: RUF012 - Textual's own way to declare providers
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(
                act.key,
                f"act('{act.name}')",
                act.label,
                show=False,
                key_display=act.key_text,
                priority=act.name == "rollback",
            )
            for act in acts.ACTS.values()
        ),
        *(Binding(key, f"goto('{name}')", title, show=False) for name, (key, title) in acts.SCREENS.items()),
        Binding("f1", "act('help')", "Help", show=False),
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
        interval: float = 0.5,
        again: str = "embedtui run --follow",
    ) -> None:
        super().__init__(driver_class=TerminalDriver, ansi_color=theme.native_colors())
        self.bridge = Bridge(open_engine, self.post_message, interval=interval)
        self.readonly = readonly
        self.link = Link()
        self.comparison: Comparison | None = None
        self.advances: dict[str, tuple[str, int, int]] = {}
        self._again = again
        self._autostart = autostart
        self._remember = remember
        self._comforts = comforts.load() if remember else comforts.Comforts()
        self._rates: deque[float] = deque(maxlen=_RATES)
        self._events: deque[Event] = deque(maxlen=_EVENTS)
        self._busy: tuple[str, ...] = ()
        self._worked = False
        self._detached: bool | None = None
        """How it was left, once that is decided; a crash decides nothing, and then, too, the work goes on."""

    # ------------------------------------------------------------------------------------------------ life

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return super().get_theme_variable_defaults() | theme.DEFAULTS

    def on_mount(self) -> None:
        for each in theme.THEMES:
            self.register_theme(each)
        self.theme = theme.first(self, self._comforts.theme)
        self._catch_signals()
        self._watch_terminal()
        self.bridge.start()
        # Work that starts by itself is watched from the Overview, wherever the last session ended.
        known = self._comforts.screen in self.MODES and not self._autostart
        self.switch_mode(self._comforts.screen if known else "overview")

    def _catch_signals(self) -> None:
        # SIGTERM leaves the same way as the key, a closed terminal (SIGHUP) without stopping the work.
        loop = asyncio.get_running_loop()
        for name, leave in QUIT_SIGNALS.items():
            number = getattr(signal, name, None)
            if number is not None:
                with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                    loop.add_signal_handler(number, getattr(self, leave))

    def _watch_terminal(self) -> None:
        # Where nobody sends SIGHUP (a container, a session of its own), only the input tells that the terminal closed.
        if self.is_headless or sys.__stdin__ is None or not hasattr(select, "poll"):
            return
        terminal = select.poll()
        terminal.register(sys.__stdin__.fileno(), 0)

        def look() -> None:
            if terminal.poll(0):
                self._hung_up()

        self.set_interval(HANGUP_SECONDS, look)

    async def on_unmount(self) -> None:
        close = functools.partial(self.bridge.close, detach=self._detached is not False)
        await asyncio.get_running_loop().run_in_executor(None, close)

    @property
    def view(self) -> View:
        """What panels are shown."""
        return View(
            snapshot=self.snapshot,
            link=self.link,
            rates=tuple(self._rates),
            events=tuple(self._events),
            running=self.bridge.running,
            detachable=self.bridge.detachable,
            busy=self._busy,
            readonly=self.readonly,
        )

    @property
    def remembered(self) -> comforts.Comforts:
        """What this session will leave for the next."""
        return self._comforts

    @remembered.setter
    def remembered(self, value: comforts.Comforts) -> None:
        if value != self._comforts:
            self._comforts = value
            if self._remember:
                comforts.save(value)

    @property
    def farewell(self) -> str:
        """What is worth a line on the terminal after leaving; empty where nothing was under way."""
        if self._detached:
            own = next((worker.pid for worker in self.snapshot.workers if worker.own), None) if self.snapshot else None
            named = f" as process {own}" if own else ""
            return f"The work goes on{named}. Watch it: {called()}. End it: {called()} stop"
        if self.snapshot is None or not self._worked or self.snapshot.phase.ended or self.snapshot.migration is None:
            return ""
        status = self.snapshot.backfill
        if self.snapshot.phase is Phase.BACKFILL and status.total:
            done = f"{draw.number(status.rows)} of {draw.number(status.total)}"
            return f"Stopped with {done} rows done. Go on: {self._again}"
        return f"This terminal no longer keeps the sides in sync. Go on: {self._again}"

    # -------------------------------------------------------------------------------------------- messages

    def watch_snapshot(self) -> None:
        self.show()

    def show(self) -> None:
        """Shows the present view on every screen of the front stack."""
        if not self.is_running:  # leaving: the screens' parts go one by one
            return
        view = self.view
        # Panels report themselves one by one; beside a busy engine that spreads over some rounds of the loop. The
        # picture waits for all of them: one repaint a snapshot.
        batch = contextlib.ExitStack()
        batch.enter_context(self.batch_update())

        def paint() -> None:
            batch.close()
            with contextlib.suppress(ScreenStackError):
                self.screen.check_idle()

        self.set_timer(0.03, paint)
        for screen in self.screen_stack:
            if isinstance(screen, DashboardScreen) and screen.is_mounted:
                screen.show(view)

    def tell(self, topic: str, payload: object) -> None:
        """Hands something that arrived to the screens of the front stack."""
        if not self.is_running:
            return
        for screen in self.screen_stack:
            if isinstance(screen, DashboardScreen) and screen.is_mounted:
                screen.receive(topic, payload)

    def on_snapshot_taken(self, message: SnapshotTaken) -> None:
        again = not self.link.up and self.link.since is not None and self.snapshot is not None
        first = self.snapshot is None
        self.link = Link(up=True)
        if message.snapshot.phase is Phase.BACKFILL and message.snapshot.backfill.rate is not None:
            self._rates.append(message.snapshot.backfill.rate)
        self.snapshot = message.snapshot
        if again:
            self.say("The database is back.", title="Connected")
        if first:
            self._first_snapshot()

    def _first_snapshot(self) -> None:
        if self._autostart and not self.readonly:
            self.bridge.run()
        if isinstance(self.screen, DashboardScreen):
            self.screen.opened()

    def on_snapshot_failed(self, message: SnapshotFailed) -> None:
        self.link = Link(
            False, message.since, message.seconds, message.trouble.message, message.trouble.hint, message.attempts
        )
        self.show()

    def on_engine_spoke(self, message: EngineSpoke) -> None:
        event = message.event
        if isinstance(event, Progressed):
            return
        self._events.append(event)
        self.tell("event", event)
        # The next snapshot shows it; what changes the picture as a whole gets one now.
        if isinstance(event, PhaseChanged | Failed | RouteFlipped):
            self.bridge.poke()

    def on_act_started(self, message: ActStarted) -> None:
        self._busy = (*self._busy, message.name)
        self._worked = self._worked or message.name == "run"
        self.show()

    def on_act_advanced(self, message: ActAdvanced) -> None:
        self.advances[message.name] = (message.step, message.done, message.total)
        self.tell("advance", message)

    def on_act_done(self, message: ActDone) -> None:
        self._ended(message.name)
        name, result = message.name, message.result
        if isinstance(result, Comparison):
            self.comparison = result
        if isinstance(result, VerifyReport):
            self.push_screen(ReportDialog(result))
        text = echo(name, result)
        if text:
            self.say(text)
        self.tell(name, result)
        self.show()

    def on_act_failed(self, message: ActFailed) -> None:
        self._ended(message.name)
        self.trouble(message.trouble)
        self.tell(f"{message.name} failed", message.trouble)
        self.show()

    def on_fetched(self, message: Fetched) -> None:
        verb, _, name = message.topic.partition(" ")
        if verb == "ask":
            # A dialog opens only where its place is still kept.
            if isinstance(self.screen, AskingDialog) and self.screen.about == name:
                typed = self.screen.typed
                self.pop_screen()
                getattr(self, f"_ask_{name}")(message.payload)
                self.screen.call_after_refresh(self._type, typed)
            return
        self.tell(message.topic, message.payload)

    def on_fetch_failed(self, message: FetchFailed) -> None:
        if message.topic.startswith("ask "):
            if isinstance(self.screen, AskingDialog) and message.topic == f"ask {self.screen.about}":
                self.pop_screen()
            self.trouble(message.trouble)
        self.tell(f"{message.topic} failed", message.trouble)

    def _ask(self, name: str, read: Callable[[Engine], object]) -> None:
        """Reads what a dialog has to say, and keeps its place meanwhile: what is typed ahead is for it."""
        self.push_screen(AskingDialog(name))
        self.bridge.fetch(f"ask {name}", read)

    def _type(self, characters: list[str]) -> None:
        for character in characters:
            self.post_message(events.Key("space" if character == " " else character, character))

    def _ended(self, name: str) -> None:
        self.advances.pop(name, None)
        self._busy = tuple(each for each in self._busy if each != name)

    # ---------------------------------------------------------------------------------------------- speech

    def say(self, text: str, *, title: str = "", severity: str = "information") -> None:
        """A short message in the corner; never read as markup."""
        self.notify(safe.line(text), title=title, severity=severity, markup=False, timeout=5)  # type: ignore[arg-type]

    def trouble(self, trouble: Trouble) -> None:
        """An error in the corner: what, and what to do."""
        text = safe.line(trouble.message) + (f"\n{acts.keyed(safe.line(trouble.hint))}" if trouble.hint else "")
        self.notify(text, title=trouble.title, severity="error", markup=False, timeout=10)

    # ------------------------------------------------------------------------------------------------ acts

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dims an act that is impossible now (None); trying it then says why, see :meth:`run_action`."""
        if action == "act" and parameters and parameters[0] in acts.ACTS:
            return None if acts.refusal(str(parameters[0]), self.view) else True
        return super().check_action(action, parameters)

    async def run_action(self, action, default_namespace=None, namespaces=None) -> bool:  # type: ignore[no-untyped-def]
        if isinstance(action, str) and action.removeprefix("app.").startswith("act("):
            name = action.split("'")[1]
            reason = acts.refusal(name, self.view)
            if reason:
                self.say(reason, title=acts.ACTS[name].label, severity="warning")
                return True
        return await super().run_action(action, default_namespace, namespaces)

    def delay_update(self, delay: float = 0.05) -> None:
        """Textual holds the picture back for 50 ms at every change of screen; ours are whole after one round."""
        super().delay_update(min(delay, 0.01))

    def action_goto(self, name: str) -> None:
        """Brings a screen to the front."""
        if isinstance(self.screen, DashboardScreen) and self.current_mode != name:
            self.switch_mode(name)
            self.remembered = comforts.Comforts(name, self.remembered.theme, self.remembered.queries)

    def action_act(self, name: str) -> None:
        """Does an act, or opens the dialog that it needs."""
        getattr(self, f"_act_{name}")()

    def _act_run(self) -> None:
        self.bridge.run()

    def _act_pause(self) -> None:
        if self.view.paused:
            self.bridge.act("resume", lambda engine, _: engine.resume())
        else:
            self.bridge.act("pause", lambda engine, _: engine.pause("paused from the dashboard"))

    def _act_compare(self) -> None:
        self.action_goto("compare")
        report = self.bridge.advance("compare")
        self.bridge.act("compare", lambda engine, stop: engine.compare(None, progress=report, stop=stop))

    def _act_index(self) -> None:
        self.bridge.act("index", lambda engine, stop: engine.build_index(stop))

    def _act_hold(self) -> None:
        held = not self.view.index_held
        self.bridge.act("hold", lambda engine, _: engine.hold_index(held) or held)

    def _act_rollback(self) -> None:
        if "rollback" not in self._busy:
            self.bridge.rollback()

    def _act_cutover(self) -> None:
        self.ask_cutover(100)

    def ask_cutover(self, percent: int) -> None:
        """Opens the cutover's dialog once it is known what stands against it."""
        self.action_goto("cutover")
        self._ask("cutover", lambda engine: (percent, engine.blockers("cutover", percent)))

    def _ask_cutover(self, found: tuple[int, tuple[Blocker, ...]]) -> None:
        def answered(answer: CutoverAnswer | None) -> None:
            if answer is None:
                return
            percent, override = answer.percent, answer.override
            if answer.postponed:
                self.bridge.act("postpone", lambda engine, _: engine.postpone(percent, override=override))
            else:
                self.bridge.act("cutover", lambda engine, _: engine.cutover(percent, override=override))

        self.push_screen(CutoverDialog(self.view, *found), answered)

    def _act_takeback(self) -> None:
        self.bridge.act("cancel", lambda engine, _: engine.cancel_postponed())

    def _act_verify(self) -> None:
        def answered(answer: VerifyAnswer | None) -> None:
            if answer is None:
                return
            sample, repair = answer.sample, answer.repair
            self.say("Reading every row; the report opens when it is done.", title="Verify")
            self.bridge.act("verify", lambda engine, stop: engine.verify(sample=sample, repair=repair, stop=stop))

        self.push_screen(VerifyDialog(self.view), answered)

    def _act_cleanup(self) -> None:
        self._ask(
            "cleanup",
            lambda engine: (
                engine.cleanup_sql(),
                engine.blockers("cleanup", thorough=True),
                engine.cleanup_sql(rename=False),
            ),
        )

    def _ask_cleanup(self, found: tuple[tuple[str, ...], tuple[Blocker, ...], tuple[str, ...]]) -> None:
        statements, blockers, keeping = found

        def answered(typed: Typed | None) -> None:
            if typed is not None:
                name, override, rename, archive = typed.name, typed.override, typed.rename, typed.archive or None
                self.bridge.act(
                    "cleanup",
                    lambda engine, stop: engine.cleanup(
                        name, rename=rename, override=override, archive=archive, stop=stop
                    ),
                )

        text = "Drops the old side for good: after this there is no rollback. Log and registry stay."
        self.push_screen(
            TypedNameDialog("Clean up", text, self.view.table, statements, blockers, keeping=keeping), answered
        )

    def _act_abort(self) -> None:
        self._ask("abort", lambda engine: engine.blockers("abort"))

    def _ask_abort(self, blockers: tuple[Blocker, ...]) -> None:
        def answered(typed: Typed | None) -> None:
            if typed is not None:
                name = typed.name
                self.bridge.act("abort", lambda engine, _: engine.abort(name))

        text = "The new side, its vectors and the triggers are dropped. The old side serves as before."
        self.push_screen(TypedNameDialog("Abort", text, self.view.table, (), blockers), answered)

    def _act_faster(self) -> None:
        self._concurrency(1)

    def _act_slower(self) -> None:
        self._concurrency(-1)

    def _concurrency(self, step: int) -> None:
        now = self.snapshot.backfill.concurrency if self.snapshot else None
        if now is None:
            return
        wanted = max(1, now + step)
        self.bridge.act("pace", lambda engine, _: (engine.set_pace(max_concurrency=wanted) and None) or wanted)

    def _act_limits(self) -> None:
        def answered(limits: dict[str, float] | None) -> None:
            if limits:
                self.bridge.act("limits", lambda engine, _: engine.set_pace(**limits) and None)  # type: ignore[arg-type]

        self.push_screen(LimitsDialog(self.view), answered)

    def _act_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen if isinstance(self.screen, DashboardScreen) else None))

    def _act_theme(self) -> None:
        names = [each.name for each in theme.THEMES]
        self.theme = names[(names.index(self.theme) + 1) % len(names)] if self.theme in names else names[0]
        self.remembered = comforts.Comforts(self.remembered.screen, self.theme, self.remembered.queries)

    def _act_palette(self) -> None:
        self.action_command_palette()

    def _act_detach(self) -> None:
        if self._detached is None:
            self._detached = self.bridge.detachable
        self.exit()

    def _hung_up(self) -> None:
        # The thread that writes to a terminal that is gone may have died of it; Textual then waits for it for ever.
        signal.signal(signal.SIGALRM, _give_up)
        signal.setitimer(signal.ITIMER_REAL, HUNG_UP_SECONDS)
        self._act_detach()

    def exit(self, *arguments: Any, **options: Any) -> None:
        """Leaves; unless it was detached first, the work of this terminal stops."""
        if self._detached is None:
            self._detached = False
        super().exit(*arguments, **options)

    def action_help_quit(self) -> None:
        """Ctrl-C does not interrupt production's migration by reflex; it says how to leave."""
        self.say("q quits; D leaves the work running.")

    def _act_quit(self) -> None:
        self.exit()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield SystemCommand("Picture", "Save this screen as an SVG file", lambda: self.deliver_screenshot())

    # -------------------------------------------------------------------------------------------- handing out

    def hand_out(self, text: str, name: str) -> Path | None:
        """Copies ``text`` (OSC 52) and always saves it as a file too: over SSH and tmux copying can fail unseen."""
        self.copy_to_clipboard(text)
        path = comforts.state_path() / "exports" / name
        try:
            comforts.write_file(path, text)
        except OSError as error:
            self.say(f"Copied, but not saved: {error.strerror}", severity="warning")
            return None
        self.say(f"Copied, and saved as {path}")
        return path


def _give_up(number: int, _: FrameType | None) -> None:
    sys.exit(128 + signal.SIGHUP)


def echo(name: str, result: object) -> str:
    """What an act did, in one sentence; empty where the screen itself shows it."""
    if isinstance(result, Flip):
        took = f"in {result.milliseconds:,.0f} ms, epoch {result.epoch}"
        if name == "rollback":
            return (
                f"Rolled back: the old side serves all reads ({took})."
                if result.changed
                else "The old side serves already: nothing to roll back."
            )
        if not result.changed:
            return "The pointer is there already: nothing changed."
        share = "all reads" if result.active == "new" else f"{result.canary} % of reads"
        return f"The new side serves {share} ({took})."
    if isinstance(result, Comparison):
        why = "" if result.verdict == "PASS" else " Screen 3 says why."
        return f"Compared {draw.number(len(result.queries))} queries: {result.verdict or 'no verdict'}.{why}"
    return {
        "pause": "Paused: workers finish the requests in flight.",
        "resume": "Resumed.",
        "run": "The work of this terminal ended.",
        "index": "The index is built.",
        "hold": "The index is held back: workers wait before it." if result else "The workers may build the index.",
        "pace": f"Requests in flight: at most {result}.",
        "limits": "Limits set.",
        "stop": f"{result} stops; requests in flight are stored." if result else "It was at work no more.",
        "cleanup": "Cleaned up: the old side is gone.",
        "abort": "Aborted: the old side serves as before.",
        "postpone": "Postponed: it cuts over by itself once nothing waits for the sync.",
        "cancel": "The postponed cutover is taken back." if result else "No cutover was postponed.",
        "retry": "Faulty rows will be tried again.",
        "skip": "Skipped: they count as decided.",
        "truncate": "They will be embedded shortened.",
    }.get(name, "")
