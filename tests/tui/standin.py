"""An engine that shows frozen states, for pictures only: behaviour is tested with the real one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from embedtui.errors import DatabaseLost
from embedtui.model import Comparison, Flip, Side, Snapshot
from tests.tui import states


class StandIn:
    """Answers every read with a frozen value; acts change nothing but the route."""

    def __init__(self, snapshot: Snapshot, *, lost: bool = False) -> None:
        self.shown = snapshot
        self.lost = lost
        self.calls: list[str] = []
        self.blocked = ()
        self.outlives = False

    def snapshot(self) -> Snapshot:
        if self.lost:
            raise DatabaseLost("The server closed the connection.", hint="Trying again by itself.")
        return self.shown

    def plan(self):
        return states.PLAN

    def run(self, stop: threading.Event, *, until=None, follow=False):
        self.calls.append("run")
        stop.wait()

    def stop_workers(self, ids=None):
        self.calls.append(f"stop {ids}")
        return 1

    def pause(self, reason=""):
        self.calls.append("pause")
        self.shown = states.PAUSED

    def resume(self):
        self.calls.append("resume")
        self.shown = states.RUNNING

    def set_pace(self, **limits):
        self.calls.append(f"set_pace {limits}")

    def build_index(self, stop):
        self.calls.append("build_index")

    def hold_index(self, held=True):
        self.calls.append(f"hold_index {held}")

    def compare(self, queries: Sequence | None, *, k=10, progress=None, stop=None) -> Comparison:
        self.calls.append("compare")
        return states.COMPARISON

    def last_comparison(self):
        return states.COMPARISON if self.shown.evaluation else None

    def with_verdicts(self, comparison):
        return comparison

    def search_both(self, text, *, k=10):
        return replace(states.QUERIES[1], text=text)

    def decide(self, query_id, verdict, note=""):
        self.calls.append(f"decide {query_id} {verdict} {note}".strip())

    def cutover(self, percent=100, *, override=None) -> Flip:
        self.calls.append(f"cutover {percent} {override or ''}")
        self.shown = states.CUT_OVER if percent == 100 else states.CANARY
        return Flip(Side.NEW if percent == 100 else Side.OLD, 0 if percent == 100 else percent, 2, 3.1, True)

    def rollback(self) -> Flip:
        self.calls.append("rollback")
        changed = self.shown.route.active is Side.NEW or self.shown.route.canary > 0
        self.shown = replace(states.READY, route=replace(states.READY.route, epoch=4))
        return Flip(Side.OLD, 0, 4, 2.4, changed)

    def blockers(self, action, percent=100, *, thorough=False):
        return self.blocked

    def notices(self):
        return ()

    def postpone(self, percent=100, *, override=None):
        self.calls.append(f"postpone {percent}")

    def cancel_postponed(self):
        self.calls.append("cancel_postponed")
        return True

    def cleanup(self, typed_name, **options):
        self.calls.append(f"cleanup {typed_name}")

    def cleanup_sql(self, **options):
        return ("DROP INDEX CONCURRENTLY documents_embedding_idx", "ALTER TABLE documents DROP COLUMN embedding")

    def abort(self, typed_name):
        self.calls.append(f"abort {typed_name}")

    def verify(self, **options):
        from embedtui.model import VerifyReport

        return VerifyReport(520_340, 340, 520_000, 0, 0, 0, 0, 0, 0, 0)

    def faults(self, limit=200, offset=0, reason=None, state=None):
        rows = [row for row in states.FAULT_ROWS if reason in (None, row.reason) and state in (None, row.state)]
        return tuple(rows[offset : offset + limit]) if self.shown.faults else ()

    def retry_faults(self, ids):
        self.calls.append(f"retry {ids}")

    def skip_faults(self, ids):
        self.calls.append(f"skip {ids}")

    def truncate_faults(self, ids):
        self.calls.append(f"truncate {ids}")

    def audit(self, limit):
        return states.AUDIT if self.shown.migration else ()

    def close(self, *, detach=False):
        self.calls.append("close")
