"""What a migration would do, and checks with their results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from embedtui.errors import Remedy
from embedtui.formatting import with_remedies
from embedtui.model.migration import TableName
from embedtui.model.words import PlacementKind


@dataclass(frozen=True, slots=True)
class Check:
    """A check with its result and a reason: of the plan or of the gate."""

    name: str
    result: str
    """``pass``, ``warn``, ``fail`` or ``unknown``; for the gate also ``inconclusive``."""
    detail: str
    hint: str = ""
    remedies: tuple[Remedy, ...] = ()
    """Actions that mend it, in their order."""

    @property
    def advice(self) -> str:
        """What mends it, as the command line says it."""
        return with_remedies(self.hint, [remedy.command for remedy in self.remedies])


_IN_A_PLAN = ("fail", "warn", "unknown", "pass")
_WORST_FIRST = ("fail", "inconclusive", "unknown", "warn", "pass")


def worst_first(checks: Iterable[Check]) -> list[Check]:
    """Checks in the order in which somebody has to look at them."""
    return sorted(checks, key=lambda check: _WORST_FIRST.index(check.result) if check.result in _WORST_FIRST else 0)


@dataclass(frozen=True, slots=True)
class BatchOffer:
    """What the backfill by batch jobs would take."""

    cost: float | None
    seconds: float
    """A job's window: it may be ready much sooner."""
    jobs: int
    chosen: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration would do, found read-only."""

    table: TableName
    rows: int
    empty_rows: int
    """Rows with nothing to embed."""
    estimated_tokens: int | None
    """Of the new model: edits after the backfill, queries compared and the old model's part come on top."""
    estimated_cost: float | None
    """The same in money."""
    estimated_seconds: float | None
    placement: PlacementKind
    placement_why: str
    checks: tuple[Check, ...]
    statements: tuple[str, ...]
    """The exact SQL prepare and index would run, in order."""
    batch: BatchOffer | None = None
    """The same by batch jobs of the provider; None where it is not known to have any."""
    old_model: str = ""
    new_model: str = ""
    endpoint: str = ""
    """Where the texts are sent: scheme, host and path. Empty where none is known."""
    proof_tokens: int = 0
    """Of the old model, taken just now; the first run asks once more, and counts that."""
    proof_cost: float | None = None
    another: bool = False
    """The migration of this name is done: it is of another one, that the settings would begin now."""

    @property
    def worst_first(self) -> list[Check]:
        """Its checks: what is in the way, what to look at, what is not known, and what is well."""
        return sorted(self.checks, key=lambda check: _IN_A_PLAN.index(check.result))
