"""The words of a migration as frozen dataclasses and enums; every layer speaks these and nothing else."""

from embedtui.errors import Remedy
from embedtui.model.audit import AuditEntry
from embedtui.model.batch import BatchJobStatus, BatchStatus
from embedtui.model.evaluation import (
    BridgedMeasures,
    Comparison,
    Interval,
    Measures,
    QueryComparison,
    QueryInput,
    RankedRow,
    SeenState,
    SweepPoint,
    Verdict,
    query_file,
)
from embedtui.model.events import (
    Event,
    EventSink,
    Failed,
    Held,
    Noted,
    PhaseChanged,
    Progressed,
    RouteFlipped,
)
from embedtui.model.faults import FaultClass, FaultGroup, FaultRow, FaultState
from embedtui.model.migration import UNNAMED, EmbeddingModel, Key, Migration, RowExpression, TableName, TextTable
from embedtui.model.plan import BatchOffer, Check, Plan
from embedtui.model.route import Flip, ListenerStatus, RollbackStatus, RouteStatus
from embedtui.model.settings import (
    CutoverSettings,
    GateSettings,
    IndexSettings,
    RunState,
    StoredSettings,
    ThrottleSettings,
)
from embedtui.model.setup import FoundTable, Proposal, SettingLine, SettingsInForce
from embedtui.model.snapshot import (
    BackfillStatus,
    Blocker,
    EvaluationStatus,
    Hold,
    IndexStatus,
    Snapshot,
    Spent,
    SyncStatus,
    ThreadStatus,
    WorkerStatus,
)
from embedtui.model.verify import VerifyReport
from embedtui.model.words import Command, Condition, Distance, IndexMethod, Phase, PlacementKind, Side, hold_word

__all__ = [
    "UNNAMED", "AuditEntry", "BackfillStatus", "BatchJobStatus", "BatchOffer", "BatchStatus", "Blocker",
    "BridgedMeasures", "Check", "Command", "Comparison", "Condition", "CutoverSettings", "Distance", "EmbeddingModel",
    "EvaluationStatus", "Event", "EventSink", "Failed", "FaultClass", "FaultGroup", "FaultRow", "FaultState", "Flip",
    "FoundTable", "GateSettings", "Held", "Hold", "IndexMethod", "IndexSettings", "IndexStatus", "Interval", "Key",
    "ListenerStatus", "Measures", "Migration", "Noted", "Phase", "PhaseChanged", "PlacementKind", "Plan", "Progressed",
    "Proposal", "QueryComparison", "QueryInput", "RankedRow", "Remedy", "RollbackStatus", "RouteFlipped",
    "RouteStatus", "RowExpression", "RunState", "SeenState", "SettingLine", "SettingsInForce", "Side", "Snapshot",
    "Spent", "StoredSettings", "SweepPoint", "SyncStatus", "TableName", "TextTable", "ThreadStatus", "ThrottleSettings",
    "Verdict", "VerifyReport", "WorkerStatus", "hold_word", "query_file",
]  # fmt: skip
