"""The demo's second story: the old model is shut down while the application searches, and a bridge brings it back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from embedtui.demo.environment import Demo
from embedtui.demo.journey import Journey, mean_of
from embedtui.demo.report import DemoReport, JudgedReport, ShutdownReport
from embedtui.engine import Engine
from embedtui.engine.process import SubprocessEngine
from embedtui.errors import NotClean
from embedtui.model import EventSink, Failed, Noted, Side, Snapshot
from embedtui.model.bridge import BridgeReport

DEATH_SECONDS = 12.0
"""After the dashboard opened: time to see the application search and the backfill begin."""
_SOON = "Nothing to do yet: soon the old model is shut down, and the application's searches fail."
FAILED_SEEN = 20
"""Failed searches that are waited for, headless, before anything is done about them."""
LOOK_SECONDS = 0.2


class ShutdownJourney(Journey):
    """The headless run of the story."""

    def travel(self) -> DemoReport:
        """Search until the old model dies, bridge, embed the rest, and cut over."""
        demo, traffic = self.demo, self.demo.traffic
        began = time.monotonic()
        self.await_searches("old")
        demo.shut_down()
        self.out(f"{demo.old_name} is shut down: every request for it is answered with 404")
        self.wait("searches to fail", lambda: traffic.counts.failed_reads >= FAILED_SEEN)
        self.out(f"The application: {traffic.counts.failed_reads} searches failed")
        if (gone := self.engine.ask_old_model()) == "":
            raise NotClean("Nobody noticed that the old model is dead.")
        self.out(f"{gone}. A bridge is made")
        bridged = self.engine.bridge(stop=self.stop)
        self.wait("a bridged search", lambda: traffic.bridged_at is not None)
        failed = traffic.counts.failed_reads
        self.worker.start()
        self.wait("the index", self.indexed)

        comparison = self.compare()
        cutover = self.cut_over()
        self.await_searches("new")
        rollback = self.engine.rollback()
        back = self.engine.snapshot().route.bridged
        self.await_searches("bridged")
        self.cut_over()
        self.await_searches("new")
        report = self.ended(comparison, cutover.milliseconds, rollback.milliseconds, began)
        return replace(report, shutdown=self._shutdown(bridged, failed, back))

    def _shutdown(self, bridged: BridgeReport, failed: int, back: bool) -> ShutdownReport:
        demo, counts, status = self.demo, self.demo.traffic.counts, bridged.status
        asked, at = status.queries, demo.traffic.bridged_at
        parameter = f" {status.parameter:g}" if status.parameter is not None else ""
        return ShutdownReport(
            model=demo.old_name,
            failed_searches=failed,
            failed_later=counts.failed_reads - failed,
            bridged_searches=counts.reads_bridged,
            seconds_to_bridged=None if at is None or demo.died_at is None else round(at - demo.died_at, 1),
            sample=status.rows,
            map=f"{status.kind}{parameter}",
            recall_10=round(status.figures.recall_10.mean, 4),
            neighbours=round(status.figures.overlap_10.mean, 4),
            overlap=mean_of(asked.overlap) if asked is not None else None,
            judged=JudgedReport(*(mean_of(each) for each in ((asked.ndcg_old, asked.ndcg_beside) if asked else ()))),
            bridged_after_rollback=back,
        )


# --------------------------------------------------------------------------------------------- beside a dashboard


class WatchedEngine(SubprocessEngine):
    """An engine whose screen tells the story: first to wait for it, then how the demo's application fares."""

    application: Callable[[], str] = staticmethod(lambda: "")
    """How it fares, in a sentence; empty where there is nothing to say."""

    def snapshot(self) -> Snapshot:
        """The state as of now."""
        found = super().snapshot()
        said = self.application() if found.route.active is Side.OLD else ""
        if found.next_act == "run" and not found.old_gone and not found.route.bridging:
            # a run before anything has happened would be another story
            found = replace(found, next_act="wait", next_why=_SOON, sync=replace(found.sync, growing=False))
        if not said:
            return found
        why = f"{said}." if found.next_act == "bridge" else found.next_why
        return replace(found, notices=(said, *found.notices), next_why=why)


@contextmanager
def dying(demo: Demo) -> Iterator[Callable[[EventSink | None], Engine]]:
    """Opens the demo's migration; inside, the old model dies after a while, and the screen is told what that does."""
    stop, opened = threading.Event(), threading.Event()
    sinks: list[EventSink] = []

    def tell(event: Failed | Noted) -> None:
        for sink in sinks:
            sink(event)

    def open_engine(on_event: EventSink | None) -> Engine:
        kind = type("Watched", (WatchedEngine,), {"application": staticmethod(lambda: _fares(demo))})
        engine = demo.open_engine(on_event, kind=kind)
        if on_event is not None:
            sinks.append(on_event)
        opened.set()
        return engine

    def story() -> None:
        while not opened.wait(LOOK_SECONDS):
            if stop.is_set():
                return
        if demo.died_at is None:
            if stop.wait(DEATH_SECONDS):
                return
            demo.shut_down()
        tell(Failed(datetime.now(UTC), f"The application's searches fail: {demo.old_name} was shut down"))
        while demo.traffic.bridged_at is None:
            if stop.wait(LOOK_SECONDS):
                return
        tell(Noted(datetime.now(UTC), _fares(demo)))

    thread = threading.Thread(target=story, name="demo-shutdown", daemon=True)
    thread.start()
    try:
        yield open_engine
    finally:
        stop.set()
        thread.join()


def _fares(demo: Demo) -> str:
    """How the application fares since its model is dead."""
    died, back, failed = demo.died_at, demo.traffic.bridged_at, demo.traffic.counts.failed_reads
    if died is None:
        return ""
    if back is None:
        return f"The application: {failed:,} searches failed since {demo.old_name} was shut down"
    return f"The application: {failed:,} searches failed in {back - died:.0f} s; it finds again"
