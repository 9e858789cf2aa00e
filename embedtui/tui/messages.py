"""What happened, as messages: from the bridge's threads to the app and the screens that asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from textual.message import Message

from embedtui.model import (
    AuditEntry,
    Blocker,
    Check,
    Comparison,
    Event,
    FaultGroup,
    FaultRow,
    Flip,
    Key,
    Plan,
    Progressed,
    QueryComparison,
    SettingsInForce,
    Snapshot,
    Verdict,
    VerifyReport,
)
from embedtui.tui.view import Trouble

if TYPE_CHECKING:
    from embedtui.tui.dialogs.waiting import WaitingDialog

# Those that the app handles or hands on do not bubble: from a screen they would come back to it.

# ----------------------------------------------------------------------------------------------- state and events


@dataclass
class SnapshotTaken(Message):
    """A reading succeeded; a newer reading replaces one that has not been handled."""

    snapshot: Snapshot

    def can_replace(self, message: Message) -> bool:
        """Only what is known last matters."""
        return isinstance(message, SnapshotTaken | SnapshotFailed)


@dataclass
class SnapshotFailed(Message):
    """A reading, or opening the engine, failed."""

    trouble: Trouble
    since: datetime
    seconds: float
    attempts: int

    def can_replace(self, message: Message) -> bool:
        """Only what is known last matters."""
        return isinstance(message, SnapshotTaken | SnapshotFailed)


@dataclass
class EngineReported(Message, bubble=False):
    """The engine reported an event; only progress may be replaced by newer progress."""

    event: Event

    def can_replace(self, message: Message) -> bool:
        """Phase changes and failures never."""
        return (
            isinstance(message, EngineReported)
            and isinstance(message.event, Progressed)
            and isinstance(self.event, Progressed)
        )


# ---------------------------------------------------------------------------------------------------------- tasks


@dataclass
class TaskStarted(Message):
    """A task began on its own thread; ``text`` is worth telling the operator."""

    name: str
    text: str = ""


@dataclass
class TaskAdvanced(Message, bubble=False):
    """A long task made progress; the newest message of a task replaces older ones."""

    name: str
    step: str
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        """Progress of the same task."""
        return isinstance(message, TaskAdvanced) and message.name == self.name


@dataclass
class TaskDone(Message):
    """A task ended well; ``text`` says what it did, empty where the screen itself shows it."""

    name: str
    text: str = ""


@dataclass
class TaskFailed(Message):
    """A task was refused or failed."""

    name: str
    trouble: Trouble


@dataclass
class Blocked(Message, bubble=False):
    """Something stands against a task that the operator was not asked about: ``again`` asks, with what was answered."""

    again: Callable[[Any], object]


# ------------------------------------------------------------------------------------------------ what a task did


@dataclass
class Exported(Message, bubble=False):
    """A comparison, written down."""

    text: str
    kind: str
    queries: int
    """How many are in it."""


@dataclass
class Compared(Message, bubble=False):
    """Both sides were compared."""

    comparison: Comparison


@dataclass
class PointerMoved(Message, bubble=False):
    """Reads were moved, or were where they should be already."""

    flip: Flip


@dataclass
class RowsVerified(Message):
    """Every row was read and checked."""

    report: VerifyReport


@dataclass
class QuerySearched(Message):
    """A query of the operator's own was searched on both sides."""

    query: QueryComparison


@dataclass
class VerdictKept(Message):
    """The operator's verdict on a query is stored, or taken back (then it is empty)."""

    query_id: int
    verdict: str
    stands: Verdict | None
    """The verdict in force now: another operator's may be."""


@dataclass
class QueriesForgotten(Message, bubble=False):
    """Queries are kept no longer."""

    ids: tuple[int, ...]


@dataclass
class SettingChanged(Message, bubble=False):
    """A setting was changed; ``trouble`` says why not."""

    text: str
    trouble: Trouble | None = None


@dataclass
class FaultsDecided(Message):
    """It is stored what becomes of faulty rows."""


# -------------------------------------------------------------------------------------------------- what was read


@dataclass
class ReadFailed(Message, bubble=False):
    """A reading that was asked for failed."""

    key: Hashable
    """What it was asked for under, see ``Bridge.read``."""
    trouble: Trouble


@dataclass
class DialogPrepared(Message):
    """What a dialog has to say is known; ``dialog`` keeps its place."""

    dialog: WaitingDialog
    found: object


@dataclass
class ComparisonRead(Message, bubble=False):
    """The newest recorded comparison; None where there is none."""

    comparison: Comparison | None


@dataclass
class VerdictsCounted(Message, bubble=False):
    """A comparison with all operators' present verdicts, and their sums."""

    comparison: Comparison


@dataclass
class BlockersRead(Message):
    """What is in the way of a cutover or a cleanup."""

    blockers: tuple[Blocker, ...]


@dataclass
class NoticesRead(Message):
    """What an operator should know before the cutover."""

    notices: tuple[Check, ...]


@dataclass
class FaultsRead(Message):
    """A page of the rows behind a reason."""

    group: FaultGroup
    page: int
    rows: tuple[FaultRow, ...]


@dataclass
class RowTextRead(Message):
    """The beginning of a faulty row's text."""

    key: Key
    text: str
    length: int | None = None
    """Characters of all of it."""


@dataclass
class ModelSilent(Message):
    """A model that is asked for a plan does not answer."""

    text: str


@dataclass
class PlanRead(Message):
    """What a migration would do."""

    plan: Plan


@dataclass
class AuditRead(Message):
    """The audit log, newest first."""

    entries: tuple[AuditEntry, ...]


@dataclass
class SettingsRead(Message):
    """The settings in force."""

    found: SettingsInForce
