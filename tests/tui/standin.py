"""An engine that shows frozen states, for pictures only: behaviour is tested with the real one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from embedtui.errors import SettingsError
from embedtui.model import (
    AuditEntry,
    Blocker,
    Check,
    Comparison,
    FaultRow,
    FaultState,
    Flip,
    Key,
    Phase,
    Plan,
    QueryComparison,
    QueryInput,
    SettingsInForce,
    Side,
    Snapshot,
    VerifyReport,
)
from embedtui.model.bridge import BridgeReport
from embedtui.tui.engine import Engine
from tests.tui import states
from tests.tui.setup_states import SETTINGS


class StandIn(Engine):
    """Answers every read with a frozen value; actions are noted, and change nothing but the route."""

    outlives = False

    def __init__(self, snapshot: Snapshot) -> None:
        self.shown = snapshot
        self.calls: list[str] = []
        self.step = 1
        """How far a press moves the limit."""
        self.blocked: tuple[Blocker, ...] = ()
        self.comparison: Comparison = states.COMPARISON
        self.given: dict[int, tuple[str, str]] = {}

    def snapshot(self) -> Snapshot:
        return self.shown

    def plan(self, *, check_provider: bool = False, **_: object) -> Plan:
        self.calls.append("plan")
        return replace(states.PLAN, another=self.shown.phase is Phase.DONE)

    def row_text(self, key: Key) -> str | None:
        return f"The text of row {', '.join(key)}, which the provider refuses. " * 4

    def row_length(self, key: Key) -> int | None:
        return 40_000

    def run(self, stop: threading.Event, **_: object) -> None:
        self.calls.append("run")
        stop.wait()

    def stop_workers(self, ids: Sequence[int] | None = None) -> int:
        self.calls.append(f"stop {ids}")
        return 1

    def pause(self, *_: object, **__: object) -> None:
        self.calls.append("pause")
        self.shown = states.PAUSED

    def resume(self) -> None:
        self.calls.append("resume")
        self.shown = states.RUNNING

    def reload(self) -> int:
        self.calls.append("reload")
        return 1

    def set_pace(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        spend_cap: float | None = None,
    ) -> None:
        self.calls.append(f"set_pace {requests_per_minute} {tokens_per_minute} {max_concurrency} {spend_cap}")

    def change_concurrency(self, by: int) -> tuple[int, int]:
        self.calls.append(f"change_concurrency {by}")
        return 6, 6 + by * self.step

    def settings_in_force(self) -> SettingsInForce:
        return SETTINGS

    def change_setting(self, path: str, given: str, seen: str) -> str:
        self.calls.append(f"change {path} {given} {seen}")
        raise SettingsError(f"{path}: must be a number above 0.")

    def build_index(self, *_: object, **__: object) -> None:
        self.calls.append("build_index")

    def hold_index(self, held: bool = True) -> None:
        self.calls.append(f"hold_index {held}")

    def compare(self, queries: Sequence[QueryInput] | None = None, **_: object) -> Comparison:
        self.calls.append("compare" if queries is None else f"compare {len(queries)}")
        return states.COMPARISON

    def last_comparison(self) -> Comparison | None:
        return self.with_verdicts(self.comparison) if self.shown.evaluation else None

    def queries_of(self, given: str) -> Sequence[QueryInput]:
        self.calls.append(f"queries of {given}")
        return [QueryInput(line) for line in given.splitlines()]

    def written_down(self, comparison: Comparison, kind: str) -> str:
        return f"{kind} of {len(comparison.queries)}"

    def with_verdicts(self, comparison: Comparison) -> Comparison:
        stored = {each.query_id: (each.verdict, each.note, each.verdict_by) for each in self.comparison.queries}
        stored |= {number: (*given, "") for number, given in self.given.items()}
        queries = []
        for each in comparison.queries:
            verdict, note, by = stored[each.query_id]
            queries.append(replace(each, verdict=verdict, note=note, verdict_by=by))
        return replace(comparison, queries=tuple(queries))

    def search_both(self, text: str, **_: object) -> QueryComparison:
        return replace(states.QUERIES[1], text=text)

    def decide(self, query_id: int, verdict: str, note: str = "") -> None:
        self.given[query_id] = verdict, note
        self.calls.append(f"decide {query_id} {verdict} {note}".strip())

    def forget_queries(self, ids: Sequence[int]) -> None:
        self.calls.append(f"forget {list(ids)}")
        queries = tuple(each for each in self.comparison.queries if each.query_id not in ids)
        self.comparison = replace(self.comparison, queries=queries, forgotten=self.comparison.forgotten + len(ids))

    def cutover(self, percent: int = 100, *, override: Mapping[str, str] | None = None, **_: object) -> Flip:
        self.calls.append(f"cutover {percent} {override or ''}")
        self.shown = states.CUT_OVER if percent == 100 else states.CANARY
        return Flip(Side.NEW if percent == 100 else Side.OLD, 0 if percent == 100 else percent, 2, 3.1, True)

    def rollback(self) -> Flip:
        self.calls.append("rollback")
        changed = self.shown.route.active is Side.NEW or self.shown.route.canary > 0
        self.shown = replace(states.READY, route=replace(states.READY.route, epoch=4))
        return Flip(Side.OLD, 0, 4, 2.4, changed)

    def bridge(
        self,
        *,
        rows: int | None = None,
        serve: bool = True,
        override: Mapping[str, str] | None = None,
        stop: threading.Event | None = None,
    ) -> BridgeReport:
        self.calls.append(f"bridge {'serve' if serve else 'measure'} {override or ''}".strip())
        self.shown = states.BRIDGE_ON
        return BridgeReport(states.FOUND, serve, 1, 2, 2_304, 30.0)

    def bridge_off(self) -> int:
        self.calls.append("bridge_off")
        self.shown = states.DEAD
        return 3

    def ask_old_model(self) -> str:
        self.calls.append("ask_old_model")
        return self.shown.old_gone

    def blockers(self, *_: object, **__: object) -> tuple[Blocker, ...]:
        return self.blocked

    def notices(self) -> tuple[Check, ...]:
        return ()

    def postpone(self, percent: int = 100, **_: object) -> None:
        self.calls.append(f"postpone {percent}")

    def cancel_postponed(self) -> bool:
        self.calls.append("cancel_postponed")
        return True

    def cleanup(self, typed_name: str, **_: object) -> None:
        self.calls.append(f"cleanup {typed_name}")

    def cleanup_notices(self, **_: object) -> tuple[Check, ...]:
        return (Check("heard", "pass", "Heard from: Router search (12 searches of the new side)."),)

    def cleanup_sql(self, **_: object) -> tuple[str, ...]:
        return ("DROP INDEX CONCURRENTLY documents_embedding_idx", "ALTER TABLE documents DROP COLUMN embedding")

    def abort(self, typed_name: str, **_: object) -> None:
        self.calls.append(f"abort {typed_name}")

    def verify(self, **_: object) -> VerifyReport:
        return VerifyReport(520_340, 340, 520_000, 0, 0, 0, 0, 0, 0, 0)

    def faults(
        self, limit: int = 200, offset: int = 0, reason: str | None = None, state: FaultState | None = None
    ) -> tuple[FaultRow, ...]:
        rows = [row for row in states.FAULT_ROWS if reason in (None, row.reason) and state in (None, row.state)]
        return tuple(rows[offset : offset + limit]) if self.shown.faults else ()

    def retry_faults(self, ids: Sequence[int] | None = None) -> int:
        return self._decided("retry", ids)

    def skip_faults(self, ids: Sequence[int] | None = None) -> int:
        return self._decided("skip", ids)

    def truncate_faults(self, ids: Sequence[int] | None = None) -> int:
        return self._decided("truncate", ids)

    def _decided(self, what: str, ids: Sequence[int] | None) -> int:
        self.calls.append(f"{what} {ids}")
        return len(ids or ())

    def audit(self, *_: object, **__: object) -> tuple[AuditEntry, ...]:
        return states.AUDIT if self.shown.migration else ()

    def close(self, **_: object) -> None:
        self.calls.append("close")
