"""The words for where a migration stands and how its sides are made."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a migration stands. Order is the order of the journey."""

    PLAN = "plan"
    PREPARE = "prepare"
    BACKFILL = "backfill"
    INDEX = "index"
    VALIDATE = "validate"
    CUTOVER = "cutover"
    SOAK = "soak"
    CLEANUP = "cleanup"
    DONE = "done"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen in this migration."""
        return self in (Phase.DONE, Phase.ABORTED)


class Condition(StrEnum):
    """How the present phase fares; each but RUNNING and IDLE carries reasons."""

    IDLE = "idle"
    """No worker process is at work on it."""
    RUNNING = "running"
    PAUSED = "paused"
    THROTTLED = "throttled"
    FAILED = "failed"


class Side(StrEnum):
    """The two sides of a migration."""

    OLD = "old"
    NEW = "new"

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.NEW if self is Side.OLD else Side.OLD


class PlacementKind(StrEnum):
    """Where new vectors live: a column beside the old one, or a side table."""

    COLUMN = "column"
    TABLE = "table"


class Distance(StrEnum):
    """Distance of a search; value is the stem of pgvector's operator class."""

    COSINE = "cosine"
    L2 = "l2"
    INNER_PRODUCT = "ip"

    @property
    def operator(self) -> str:
        """The operator of pgvector."""
        return {"cosine": "<=>", "l2": "<->", "ip": "<#>"}[self.value]


class IndexMethod(StrEnum):
    """Approximate index built on the new side."""

    HNSW = "hnsw"
    IVFFLAT = "ivfflat"
    NONE = "none"


HOLD_WORDS = {
    "rate": "rate limit",
    "pace": "limit",
    "change": "change of the tables",
    "probe_latency": "slow searches",
    "wal_rate": "WAL rate",
}
"""Names of holds that are no words of a person; of the others an underscore is a blank."""


def hold_word(name: str) -> str:
    """A hold's name on every screen, in the log and on the command line; JSON has the name itself."""
    return HOLD_WORDS.get(name, name.replace("_", " "))


class Command(StrEnum):
    """What an operator can ask of a migration; what its state allows of them is in :mod:`embedtui.model.lifecycle`."""

    RUN = "run"
    PAUSE = "pause"
    RESUME = "resume"
    RELOAD = "reload"
    """Have all workers read their settings again."""
    PACE = "pace"
    CONCURRENCY = "concurrency"
    """One request in flight more or fewer."""
    FAULTS = "faults"
    """Decide on faulty rows."""
    COMPARE = "compare"
    VERIFY = "verify"
    INDEX = "index"
    HOLD_INDEX = "hold_index"
    CUTOVER = "cutover"
    CANCEL_CUTOVER = "cancel_cutover"
    ROLLBACK = "rollback"
    BRIDGE = "bridge"
    """Have the new model's queries search the old side."""
    CLEANUP = "cleanup"
    ABORT = "abort"
