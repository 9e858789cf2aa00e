"""The bridge between threads and the screen: nothing starves a rollback, hangs a quit, or loses what matters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from textual.message import Message

from embedtui.model import Event, Failed, Noted, Phase, PhaseChanged, Progressed
from embedtui.tui.bridge import (
    ActDone,
    ActFailed,
    ActStarted,
    Bridge,
    EngineSpoke,
    Fetched,
    SnapshotFailed,
    SnapshotTaken,
    Trouble,
)
from tests.tui import states
from tests.tui.standin import StandIn

PATIENCE = 60.0


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


def test_a_rollback_passes_any_number_of_busy_acts() -> None:
    engine, post, free = StandIn(states.CUT_OVER), Post(), threading.Event()
    bridge = Bridge(lambda sink: engine, post, interval=0.05)
    bridge.start()
    try:
        for number in range(50):
            bridge.act(f"busy{number}", lambda engine, stop: free.wait(PATIENCE))
        bridge.fetch("slow", lambda engine: free.wait(PATIENCE))
        bridge.rollback()
        done = post.wait(lambda message: isinstance(message, ActDone) and message.name == "rollback")
        assert isinstance(done, ActDone)
        assert engine.calls == ["rollback"]
    finally:
        free.set()
        bridge.close()


def test_presses_during_a_rollback_are_that_rollback() -> None:
    engine, post, entered, free = StandIn(states.CUT_OVER), Post(), threading.Event(), threading.Event()
    plain = engine.rollback

    def slow() -> object:
        entered.set()
        free.wait(PATIENCE)
        return plain()

    engine.rollback = slow  # type: ignore[assignment, method-assign]
    bridge = Bridge(lambda sink: engine, post, interval=0.05)
    bridge.start()
    try:
        bridge.rollback()
        assert entered.wait(PATIENCE)
        bridge.rollback()
        bridge.rollback()
        free.set()
        post.wait(lambda message: isinstance(message, ActDone))
        bridge.fetch("after", lambda engine: "x")
        post.wait(lambda message: isinstance(message, Fetched))
        assert engine.calls == ["rollback"]
        assert sum(isinstance(message, ActStarted) for message in post.messages) == 1
    finally:
        bridge.close()


def test_closing_waits_for_nobody_and_stops_what_listens() -> None:
    engine, post, stuck = StandIn(states.RUNNING), Post(), threading.Event()
    bridge = Bridge(lambda sink: engine, post, interval=0.05)
    bridge.start()
    bridge.act("stuck", lambda engine, stop: stuck.wait(PATIENCE))
    bridge.run()
    post.wait(lambda message: isinstance(message, ActStarted) and message.name == "run")
    post.wait(lambda message: isinstance(message, SnapshotTaken))
    began = time.monotonic()
    bridge.close(patience=0.3)
    assert time.monotonic() - began < PATIENCE / 2, "it waited for the act that is stuck"
    assert not bridge.running
    assert "close" in engine.calls
    stuck.set()


def test_an_engine_that_cannot_be_opened_is_tried_again() -> None:
    engine, post, attempts = StandIn(states.RUNNING), Post(), []

    def open_engine(sink: object) -> StandIn:
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


def test_acts_wait_for_the_engine_and_failures_keep_their_hint() -> None:
    engine, post = StandIn(states.RUNNING), Post()

    def refuse(engine: object, stop: threading.Event) -> None:
        from embedtui.errors import Refused

        raise Refused("Not in this phase.", hint="Run first.")

    bridge = Bridge(lambda sink: engine, post, interval=0.05)
    bridge.act("early", refuse)
    bridge.start()
    try:
        failed = post.wait(lambda message: isinstance(message, ActFailed))
        assert isinstance(failed, ActFailed)
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
    spoken = [message.event for message in post.messages if isinstance(message, EngineSpoke)]
    assert sum(isinstance(event, Progressed) for event in spoken) < 100
    assert sum(not isinstance(event, Progressed) for event in spoken) == 30


def test_only_progress_is_replaced_by_newer_messages() -> None:
    progress = [EngineSpoke(Progressed(states.NOW, "", n)) for n in (1, 2)]
    failure = EngineSpoke(Failed(states.NOW, "failed"))
    taken, lost = SnapshotTaken(states.RUNNING), SnapshotFailed(Trouble("", ""), states.NOW, 1.0, 1)
    assert progress[0].can_replace(progress[1])
    assert taken.can_replace(lost) and lost.can_replace(taken)
    for message in (failure, progress[0], ActDone("x", None), ActFailed("x", Trouble("", ""))):
        assert not message.can_replace(failure)
        assert not failure.can_replace(message)


def test_a_newer_request_replaces_a_waiting_one_of_its_topic() -> None:
    post, free, asked = Post(), threading.Event(), []
    bridge = Bridge(lambda sink: StandIn(states.RUNNING), post, interval=0.05)
    bridge.start()
    try:
        bridge.fetch("blocked", lambda engine: free.wait(PATIENCE))
        post.wait(lambda message: isinstance(message, SnapshotTaken))
        for number in range(5):
            bridge.fetch("page", lambda engine, number=number: asked.append(number) or number)  # type: ignore[misc]
        free.set()
        page = post.wait(lambda message: isinstance(message, Fetched) and message.topic == "page")
        assert isinstance(page, Fetched)
        assert page.payload == 4
        assert asked[-1] == 4
    finally:
        bridge.close()
