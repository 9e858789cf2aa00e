"""The whole migration of the demo: in the dashboard, or headless with a report."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

from embedtui.demo.environment import Demo
from embedtui.demo.report import ComparisonReport, DemoReport, IndexReport, JudgedReport, TrafficReport
from embedtui.engine import Engine
from embedtui.engine.process import SubprocessEngine
from embedtui.errors import ExitCode, Interrupted, NotClean
from embedtui.model import (
    Comparison,
    Event,
    EventSink,
    Flip,
    Interval,
    Phase,
    PhaseChanged,
    Progressed,
    Snapshot,
    VerifyReport,
)

WATCHABLE_TOKENS_PER_MINUTE = 600_000.0
"""A pace at which the backfill of the demo's documents takes about half a minute on the screen."""
SHUTDOWN_TOKENS_PER_MINUTE = 200_000.0
"""In the other story so slow that the bridge is worth having."""
SAY_SECONDS = 1.0
"""Least time between two lines of progress."""
SEARCHES_SEEN = 5
"""Searches by the application after each flip, before the next."""
BEFORE_VALIDATE = (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL, Phase.INDEX)
PATIENCE_SECONDS = 150.0
"""For each step of the headless journey; a step that takes longer is stuck."""
OpenEngine = Callable[[EventSink | None], Engine]
"""Opens the demo's migration; may block."""


_STOPPING = "Stopping the demo: what is paid for is stored …"


def run_demo(
    *, headless: bool, as_json: bool, reset: bool, dashboard: Callable[[OpenEngine, str, str], int], dead: bool = False
) -> int:
    """What `embedtui demo` does; returns the exit code.

    ``dead`` is the story in which the old model is shut down.

    ``dashboard`` shows a migration until the operator leaves, given how to open its engine, the command by which
    another terminal sees it, and what was made for it: its screen covers what is said before, so it is said again
    after it. Headless, the documents are always made anew; progress goes to stderr, the report to stdout.
    """

    def out(line: str) -> None:
        with contextlib.suppress(OSError):  # nobody there any more
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    if not headless:
        pace = SHUTDOWN_TOKENS_PER_MINUTE if dead else WATCHABLE_TOKENS_PER_MINUTE
        with Demo(reset=reset, dead=dead, tokens_per_minute=pace, out=out) as demo:
            said = demo.elsewhere, demo.about
            out(f"From a second terminal: {demo.elsewhere}")

            def left(code: int) -> int:
                out(f"The demo: {demo.about}\n{demo.again}")
                out(_STOPPING)  # its parts take seconds to end, before an empty screen
                return code

            if not dead:
                return left(dashboard(functools.partial(demo.open_engine, kind=SubprocessEngine), *said))
            from embedtui.demo.shutdown import dying  # which is made of this module's parts

            with dying(demo) as open_engine:
                return left(dashboard(open_engine, *said))
    with Demo(reset=True, dead=dead, out=out) as demo:
        report = run_journey(demo, out=out)
    sys.stdout.write(f"{json.dumps(asdict(report)) if as_json else report.text()}\n")
    return ExitCode.OK if report.well else ExitCode.NOT_CLEAN


def run_journey(demo: Demo, *, out: Callable[[str], None]) -> DemoReport:
    """Take the demo's migration through every phase to soak, with a rollback and a second cutover on the way.

    Raises EmbedtuiError: a step failed, or one took unreasonably long.
    """
    kind: type[Journey] = Journey
    if demo.dead:
        from embedtui.demo.shutdown import ShutdownJourney as kind  # noqa: N813

    journey = kind(demo, out)
    try:
        return journey.travel()
    finally:
        journey.close()


class Journey:
    """One headless run: a worker in a thread, the operator's acts in this one."""

    def __init__(self, demo: Demo, out: Callable[[str], None]) -> None:
        self.demo = demo
        self.out = out
        self._said = 0.0
        self._first_rows: tuple[float, int] | None = None
        self._backfilled: float | None = None
        self.stop = threading.Event()
        self._failure: BaseException | None = None
        self.engine = demo.open_engine(self._on_event)
        self.worker = threading.Thread(target=self._work, name="demo-worker", daemon=True)

    def travel(self) -> DemoReport:
        """Backfill, index, comparison, cutover, rollback, and cutover again."""
        engine = self.engine
        began = time.monotonic()
        self.worker.start()
        self.wait("the index", self.indexed)

        comparison = self.compare()
        cutover = self.cut_over()
        self.out(f"Cutover: {cutover.milliseconds:.1f} ms")
        self.await_searches("new")
        rollback = engine.rollback()
        self.out(f"Rollback: {rollback.milliseconds:.1f} ms")
        self.await_searches("old")
        self.cut_over()
        self.out("Cutover again")
        self.await_searches("new")

        return self.ended(comparison, cutover.milliseconds, rollback.milliseconds, began)

    def ended(self, comparison: Comparison, flip_ms: float, rollback_ms: float, began: float) -> DemoReport:
        """Stop the application, look at every row, and report."""
        engine = self.engine
        self.demo.traffic.stop()
        self.wait("the sync", self.settled)
        verified = engine.verify()
        snapshot = engine.snapshot()
        return self._report(comparison, verified, snapshot, flip_ms, rollback_ms, began)

    def compare(self) -> Comparison:
        """Compare until the gate passes. Only what the application has just written may be in the way, and passes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.out("Comparing both sides with the demo's questions")
            comparison = self.engine.compare(self.demo.queries())
            self.out(f"Gate: {comparison.verdict}")
            if comparison.verdict == "PASS":
                return comparison
            failed = [check for check in comparison.checks if check.result not in ("pass", "warn")]
            if time.monotonic() > deadline or any(check.name not in ("coverage", "freshness") for check in failed):
                raise NotClean("; ".join(check.detail for check in failed))
            self.stop.wait(1.0)

    def cut_over(self) -> Flip:
        """Move all reads, once nothing is in the way."""

        def clear() -> bool:
            blockers = self.engine.blockers("cutover")
            if any(blocker.name == "gate" for blocker in blockers):
                self.compare()  # the application has changed too much since
            return not blockers

        self.wait("the cutover's blockers", clear)
        return self.engine.cutover()

    def close(self) -> None:
        """Stop the worker."""
        self.stop.set()
        if self.worker.is_alive():
            self.worker.join()
        self.engine.close()

    def _report(
        self,
        comparison: Comparison,
        verified: VerifyReport,
        snapshot: Snapshot,
        flip_ms: float,
        rollback_ms: float,
        began: float,
    ) -> DemoReport:
        measures, counts = comparison.measures, self.demo.traffic.counts
        return DemoReport(
            rows=verified.rows,
            embedded=verified.embedded,
            missing=verified.missing,
            stale=verified.stale,
            faulty=verified.faulty,
            tokens=snapshot.backfill.tokens,
            rows_per_second=self._rate(snapshot.backfill.rows),
            index=IndexReport(snapshot.index.name, snapshot.index.method.value, snapshot.index.valid),
            comparison=ComparisonReport(
                queries=measures.queries,
                k=measures.k,
                mean_overlap=round(measures.overlap.mean, 4),
                low_overlap=measures.low_overlap,
                judged=JudgedReport(*(mean_of(side) for side in (measures.ndcg_old, measures.ndcg_new))),
                verdict=comparison.verdict,
            ),
            flip_ms=round(flip_ms, 2),
            rollback_ms=round(rollback_ms, 2),
            rollback_fresh=snapshot.rollback.fresh,
            traffic=TrafficReport(
                counts.reads, counts.writes, counts.failed, counts.errors, lost=self.demo.lost_writes()
            ),
            active=snapshot.route.active.value,
            phase=snapshot.phase.value,
            seconds=round(time.monotonic() - began, 1),
        )

    def _rate(self, rows: int) -> float | None:
        if self._first_rows is None or self._backfilled is None or self._backfilled <= self._first_rows[0]:
            return None
        seen_at, seen = self._first_rows
        return round((rows - seen) / (self._backfilled - seen_at), 1)

    # ------------------------------------------------------------------------------------------------ inner parts

    def _work(self) -> None:
        try:
            self.engine.run(self.stop, follow=True)
        except Interrupted:
            pass
        except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits)
            self._failure = error

    def _on_event(self, event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase is Phase.INDEX:
            self._backfilled = time.monotonic()
        if not isinstance(event, Progressed):
            self.out(event.text)

    def indexed(self) -> bool:
        """Whether backfill and index are done; says how far they are every now and then."""
        snapshot = self.engine.snapshot()
        if snapshot.phase not in BEFORE_VALIDATE:
            return True
        now = time.monotonic()
        backfill, index = snapshot.backfill, snapshot.index
        if self._first_rows is None and backfill.rows:
            self._first_rows = now, backfill.rows
        if now - self._said >= SAY_SECONDS:
            self._said = now
            if snapshot.phase is Phase.INDEX and index.phase:
                share = f", {index.done / index.total:.0%}" if index.done is not None and index.total else ""
                self.out(f"Index: {index.phase}{share}")
            elif backfill.rows and backfill.total is not None:
                self.out(f"Backfill: {backfill.rows:,} of {backfill.total:,} rows, {backfill.tokens:,} tokens")
        return False

    def settled(self) -> bool:
        """Whether nothing waits on either side: rows edited before the cutover get their old vector after it."""
        snapshot = self.engine.snapshot()
        return snapshot.sync.queued == 0 and (self.demo.dead or snapshot.rollback.fresh is not False)

    def await_searches(self, side: str) -> None:
        """Until the application has searched that side, or the old one ``bridged``, a few times."""

        def searched() -> int:
            counts = self.demo.traffic.counts
            return {"new": counts.reads_new, "old": counts.reads_old, "bridged": counts.reads_bridged}[side]

        before = searched()
        self.wait(f"searches of the {side} side", lambda: searched() >= before + SEARCHES_SEEN)

    def wait(self, what: str, reached: Callable[[], bool]) -> None:
        """Until it is reached, or takes unreasonably long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                raise NotClean(f"The demo waited {PATIENCE_SECONDS:.0f} s for {what}.")
            time.sleep(0.05)


def mean_of(figure: Interval | None) -> float | None:
    """A figure's mean as a report has it."""
    return None if figure is None else round(figure.mean, 4)
