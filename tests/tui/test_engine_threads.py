"""The bridge between threads and the screen: nothing starves a rollback, hangs a quit, or loses what matters."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from embedtui.errors import Refused
from embedtui.model import Event, Failed, Noted, Phase, PhaseChanged, Progressed
from embedtui.tui.engine import Engine
from embedtui.tui.engine_threads import Bridge, Call, Task
from embedtui.tui.messages import (
    AuditRead,
    EngineReported,
    ReadFailed,
    SnapshotFailed,
    SnapshotTaken,
    TaskDone,
    TaskFailed,
    TaskStarted,
)
from embedtui.tui.view import Trouble
from tests.tui import states
from tests.tui.standin import StandIn

PATIENCE = 60.0
ROLLBACK = Task("rollback", lambda engine, _: engine.rollback())


@dataclass
class Waited(Message):
    """A reading that waited."""

    reached: bool


class Post:
    """Collects what the bridge posts."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._changed = threading.Condition()

    def __call__(self, message: Message) -> bool:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()
        return True

    def wait(self, condition: Callable[[Message], bool]) -> Message:
        with self._changed:
            found = self._changed.wait_for(lambda: any(map(condition, self.messages)), PATIENCE)
            assert found, self.messages
            return next(filter(condition, self.messages))


def test_a_rollback_passes_any_number_of_busy_tasks() -> None:
    engine, post, free = StandIn(states.CUT_OVER), Post(), threading.Event()
    bridge = Bridge(lambda _: engine, post, interval=0.05)
    bridge.start()
    try:
        for number in range(50):
            bridge.do(Task(f"busy{number}", lambda *_: free.wait(PATIENCE)))
        bridge.read(lambda _: free.wait(PATIENCE), Waited, post)
        bridge.do_urgently(ROLLBACK)
        done = post.wait(lambda message: isinstance(message, TaskDone) and message.name == "rollback")
        assert isinstance(done, TaskDone)
        assert engine.calls == ["rollback"]
    finally:
        free.set()
        bridge.close()


def test_what_is_done_in_turn_comes_in_its_order() -> None:
    post, done, free = Post(), list[str](), threading.Event()
    bridge = Bridge(lambda _: StandIn(states.READY), post, interval=0.05)
    bridge.start()
    try:
        bridge.do_in_turn(Task("given", lambda *_: (free.wait(PATIENCE), done.append("given"))))
        bridge.do_in_turn(Task("taken back", lambda *_: done.append("taken back")))
        free.set()
        post.wait(lambda message: isinstance(message, TaskDone) and message.name == "taken back")
        assert done == ["given", "taken back"]
    finally:
        bridge.close()


def test_presses_during_a_rollback_are_that_rollback() -> None:
    engine, post, entered, free = StandIn(states.CUT_OVER), Post(), threading.Event(), threading.Event()
    plain = engine.rollback

    def slow() -> object:
        entered.set()
        free.wait(PATIENCE)
        return plain()

    engine.rollback = slow  # type: ignore[assignment, method-assign]
    bridge = Bridge(lambda _: engine, post, interval=0.05)
    bridge.start()
    try:
        bridge.do_urgently(ROLLBACK)
        assert entered.wait(PATIENCE)
        bridge.do_urgently(ROLLBACK)
        bridge.do_urgently(ROLLBACK)
        free.set()
        post.wait(lambda message: isinstance(message, TaskDone))
        bridge.read(lambda engine: engine.audit(), AuditRead, post)
        post.wait(lambda message: isinstance(message, AuditRead))
        assert engine.calls == ["rollback"]
        assert sum(isinstance(message, TaskStarted) for message in post.messages) == 1
    finally:
        bridge.close()


def test_closing_waits_for_nobody_and_stops_what_listens() -> None:
    engine, post, stuck, ended = StandIn(states.RUNNING), Post(), threading.Event(), threading.Event()
    bridge = Bridge(lambda _: engine, post, interval=0.05)
    bridge.start()

    def act(*_: object) -> None:
        stuck.wait()
        ended.set()

    bridge.do(Task("stuck", act))
    bridge.run(Task("run", lambda engine, call: engine.run(call.stop)))
    post.wait(lambda message: isinstance(message, TaskStarted) and message.name == "run")
    post.wait(lambda message: isinstance(message, SnapshotTaken))
    bridge.close(patience=0.3)
    assert not ended.is_set()
    assert not bridge.running
    assert "close" in engine.calls
    stuck.set()


def test_an_engine_that_cannot_be_opened_is_tried_again() -> None:
    engine, post, attempts = StandIn(states.RUNNING), Post(), []

    def open_engine(_: object) -> StandIn:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("refused\nwith a second line")
        return engine

    bridge = Bridge(open_engine, post, interval=0.05)
    bridge.start()
    try:
        failed = post.wait(lambda message: isinstance(message, SnapshotFailed))
        assert isinstance(failed, SnapshotFailed)
        assert failed.trouble.message == "OSError: refused"
        post.wait(lambda message: isinstance(message, SnapshotTaken))
    finally:
        bridge.close()


def test_tasks_wait_for_the_engine_and_failures_keep_their_hint() -> None:
    engine, post = StandIn(states.RUNNING), Post()

    def refuse(_engine: Engine, _call: Call) -> None:
        raise Refused("Not in this phase.", hint="Run first.")

    bridge = Bridge(lambda _: engine, post, interval=0.05)
    bridge.do(Task("early", refuse))
    bridge.start()
    try:
        failed = post.wait(lambda message: isinstance(message, TaskFailed))
        assert isinstance(failed, TaskFailed)
        assert failed.trouble == Trouble("Refused", "Not in this phase.", "Run first.")
    finally:
        bridge.close()


def test_progress_is_thinned_out_and_everything_else_arrives() -> None:
    post = Post()
    sink: list[Callable[[Event], None]] = []

    def open_engine(heard: Callable[[Event], None]) -> StandIn:
        sink.append(heard)
        return StandIn(states.RUNNING)

    bridge = Bridge(open_engine, post, interval=0.05)
    bridge.start()
    post.wait(lambda message: isinstance(message, SnapshotTaken))
    for number in range(1000):
        sink[0](Progressed(states.NOW, "", number, 1000))
        if number % 100 == 0:
            sink[0](PhaseChanged(states.NOW, f"phase {number}", Phase.INDEX))
            sink[0](Failed(states.NOW, f"failed {number}"))
            sink[0](Noted(states.NOW, f"noted {number}"))
    bridge.close()
    spoken = [message.event for message in post.messages if isinstance(message, EngineReported)]
    assert sum(isinstance(event, Progressed) for event in spoken) < 100
    assert sum(not isinstance(event, Progressed) for event in spoken) == 30


def test_only_progress_is_replaced_by_newer_messages() -> None:
    progress = [EngineReported(Progressed(states.NOW, "", n)) for n in (1, 2)]
    failure = EngineReported(Failed(states.NOW, "failed"))
    taken, lost = SnapshotTaken(states.RUNNING), SnapshotFailed(Trouble("", ""), states.NOW, 1.0, 1)
    assert progress[0].can_replace(progress[1])
    assert taken.can_replace(lost)
    assert lost.can_replace(taken)
    for message in (failure, progress[0], TaskDone("x"), TaskFailed("x", Trouble("", ""))):
        assert not message.can_replace(failure)
        assert not failure.can_replace(message)


def test_a_newer_request_replaces_a_waiting_one_of_its_topic() -> None:
    post, free = Post(), threading.Event()
    asked: list[int] = []

    def ask(number: int, _engine: Engine) -> tuple[()]:
        asked.append(number)
        return ()

    bridge = Bridge(lambda _: StandIn(states.RUNNING), post, interval=0.05)
    bridge.start()
    try:
        bridge.read(lambda _: free.wait(PATIENCE), Waited, post)
        post.wait(lambda message: isinstance(message, SnapshotTaken))
        for number in range(5):
            bridge.read(functools.partial(ask, number), AuditRead, post)
        free.set()
        post.wait(lambda message: isinstance(message, AuditRead))
        assert asked[-1] == 4
    finally:
        bridge.close()


def test_a_reading_that_fails_is_told_to_who_asked() -> None:
    app, screen = Post(), Post()

    def gone(_engine: Engine) -> tuple[()]:
        raise Refused("No migration has begun.")

    bridge = Bridge(lambda _: StandIn(states.RUNNING), app, interval=0.05)
    bridge.start()
    try:
        bridge.read(gone, AuditRead, screen)
        failed = screen.wait(lambda message: isinstance(message, ReadFailed))
        assert isinstance(failed, ReadFailed)
        assert (failed.key, failed.trouble.message) == (AuditRead, "No migration has begun.")
        assert not any(isinstance(message, ReadFailed) for message in app.messages)
    finally:
        bridge.close()


def test_what_a_task_did_is_told_before_that_it_is_done() -> None:
    """Who is told that a task is done may look at what it did."""
    post = Post()
    bridge = Bridge(lambda _: StandIn(states.READY), post, interval=0.05)
    bridge.start()
    try:
        bridge.do(
            Task("audit", lambda engine, _: engine.audit(), lambda found: f"{len(found)} entries", result=AuditRead)
        )
        done = post.wait(lambda message: isinstance(message, TaskDone))
        assert isinstance(done, TaskDone)
        assert done.text == f"{len(states.AUDIT)} entries"
        kinds = [type(message) for message in post.messages]
        assert kinds.index(TaskStarted) < kinds.index(AuditRead) < kinds.index(TaskDone)
    finally:
        bridge.close()
