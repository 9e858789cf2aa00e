"""What the screen needs of an engine. It is handed one, and never imports what is behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from embedtui.model import (
    AuditEntry,
    Blocker,
    Check,
    Comparison,
    EventSink,
    FaultRow,
    FaultState,
    Flip,
    Key,
    Plan,
    QueryComparison,
    QueryInput,
    SettingsInForce,
    Snapshot,
    Verdict,
    VerifyReport,
)
from embedtui.model.bridge import BridgeReport

Progress = Callable[[str, int, int], None]
"""Is told (step, done, total) of long work; returns at once."""


class Engine(Protocol):
    """One migration; every call may block and is made on the bridge's threads only."""

    @property
    def outlives(self) -> bool:
        """Whether the work of :meth:`run` can go on without this process."""

    def snapshot(self) -> Snapshot:
        """The state as of now."""

    def plan(
        self,
        *,
        check_provider: bool = False,
        say: Callable[[str], None] = ...,
        stop: threading.Event | None = None,
    ) -> Plan:
        """What a migration would do; ``check_provider`` asks the models, too: ``say`` is told who does not answer."""

    def run(
        self, stop: threading.Event, *, until: float | None = None, follow: bool = False, again: bool | None = None
    ) -> object:
        """Prepare, backfill, index; with ``follow`` keep in sync until ``stop`` is set, with ``again`` as mended."""

    def pause(self, reason: str = "") -> object:
        """Hold the work everywhere."""

    def resume(self) -> object:
        """Let the work go on everywhere."""

    def stop_workers(self, ids: Sequence[int] | None = None) -> int:
        """Ask worker processes to stop; how many were asked."""

    def reload(self) -> int:
        """Have all workers read their settings again; how many were asked."""

    def settings_in_force(self) -> SettingsInForce:
        """All settings, with where each came from."""

    def change_setting(self, path: str, given: str, seen: str) -> str:
        """Have the settings file say something else, and all read it; what was done."""

    def set_pace(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        spend_cap: float | None = None,
    ) -> object:
        """Change the limits of all workers; None leaves one as it is, 0 takes it away."""

    def change_concurrency(self, by: int) -> tuple[int, int]:
        """Let workers have ``by`` more requests in flight (negative: fewer); the limit before, and now."""

    def hold_index(self, held: bool = True) -> object:
        """Keep the workers from building the index, or let them."""

    def build_index(self, stop: threading.Event) -> object:
        """Build the new side's index now."""

    def compare(
        self,
        queries: Sequence[QueryInput] | None = None,
        *,
        k: int = 10,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> Comparison:
        """Search queries on both sides and record an evaluation."""

    def last_comparison(self) -> Comparison | None:
        """The newest recorded comparison."""

    def queries_of(self, given: str) -> Sequence[QueryInput]:
        """Queries that the operator typed or named."""

    def written_down(self, comparison: Comparison, kind: str) -> str:
        """``comparison`` as ``csv`` or ``html``."""

    def with_verdicts(self, comparison: Comparison) -> Comparison:
        """``comparison`` with the operators' present verdicts, and their sums."""

    def search_both(self, text: str, *, k: int = 10) -> QueryComparison:
        """Both sides' results of a typed query."""

    def decide(self, query_id: int, verdict: str, note: str = "") -> Verdict | None:
        """Keep the operator's verdict on a query, or (empty) take it back; the one that stands then."""

    def forget_queries(self, ids: Sequence[int]) -> None:
        """Keep queries no longer, nor the verdicts on them."""

    def cutover(self, percent: int = 100, *, override: Mapping[str, str] = ..., seen: int | None = None) -> Flip:
        """Move the reads of a share of the keys, or all, to the new side; ``seen``: the epoch it was decided on."""

    def rollback(self) -> Flip:
        """Move all reads back to the old side."""

    def blockers(
        self,
        action: str,
        percent: int = 100,
        *,
        thorough: bool = False,
        rename: bool | None = None,
        fold: bool | None = None,
    ) -> tuple[Blocker, ...]:
        """What is in the way of ``cutover``, ``cleanup`` or ``abort``; ``thorough`` also reads the table's rows.

        ``rename`` and ``fold`` are the choices of a cleanup.
        """

    def notices(self) -> tuple[Check, ...]:
        """What an operator should know before the cutover."""

    def bridge(
        self,
        *,
        rows: int | None = None,
        serve: bool = True,
        override: Mapping[str, str] = ...,
        stop: threading.Event | None = None,
    ) -> BridgeReport:
        """Have the new model's queries search the old side."""

    def bridge_off(self) -> int:
        """Have the old model's queries search it again."""

    def ask_old_model(self) -> str:
        """Why the old model is taken for dead; empty where it is not."""

    def postpone(self, percent: int = 100, *, override: Mapping[str, str] = ..., seen: int | None = None) -> object:
        """Cut over once nothing waits for the sync."""

    def cancel_postponed(self) -> bool:
        """Cancel a postponed cutover; False where there is none."""

    def cleanup(
        self,
        typed_name: str,
        *,
        rename: bool | None = None,
        fold: bool | None = None,
        override: Mapping[str, str] = ...,
        archive: str | None = None,
        seen: int | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Drop the old side and finish."""

    def cleanup_notices(self, *, rename: bool | None = None, fold: bool | None = None) -> tuple[Check, ...]:
        """Who was heard from, what a cleanup does and what breaks by it."""

    def cleanup_sql(self, *, rename: bool | None = None, fold: bool | None = None) -> tuple[str, ...]:
        """The exact SQL of a cleanup."""

    def abort(self, typed_name: str, *, seen: int | None = None) -> object:
        """Drop the new side and finish."""

    def verify(self, *, sample: int = 0, repair: bool = False, stop: threading.Event | None = None) -> VerifyReport:
        """Scan every row."""

    def faults(
        self, limit: int = 200, offset: int = 0, reason: str | None = None, state: FaultState | None = None
    ) -> tuple[FaultRow, ...]:
        """Faulty rows of one reason and state."""

    def retry_faults(self, ids: Sequence[int] | None = None) -> int:
        """Embed faulty rows again."""

    def skip_faults(self, ids: Sequence[int] | None = None) -> int:
        """Leave faulty rows without the vector they lack."""

    def truncate_faults(self, ids: Sequence[int] | None = None) -> int:
        """Embed faulty rows again, shortened."""

    def row_text(self, key: Key) -> str | None:
        """The beginning of the text that is embedded of a row; None where it is gone."""

    def row_length(self, key: Key) -> int | None:
        """Characters of all of it."""

    def audit(self, limit: int = 200) -> tuple[AuditEntry, ...]:
        """The audit log, newest first."""

    def close(self, *, detach: bool = False) -> None:
        """Close connections; with ``detach`` work that can outlive this process goes on."""


OpenEngine = Callable[[EventSink], Engine]
"""Makes the engine; may block and may fail (then it is tried again), so the bridge calls it on its own thread."""
