"""A migration as stored, and the words for where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

Key = tuple[str, ...]
"""A row's key: its key columns' values in PostgreSQL's text form, in the order of the key."""


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


UNNAMED = "unknown"
"""Name of an old model that nobody knows; it counts as retired."""


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """An embedding model and how to reach it. The secret itself is never held here, only its variable's name."""

    name: str
    dimensions: int
    provider: str = "openai"
    base_url: str | None = None
    """None: the provider's own endpoint."""
    key_variable: str = "OPENAI_API_KEY"
    document_prefix: str = ""
    query_prefix: str = ""
    max_inputs: int = 2048
    """Inputs per request (OpenAI: 2,048; Gemini's compatible endpoint: 100)."""
    max_tokens: int = 300_000
    """Tokens per request, all inputs together."""
    max_input_tokens: int = 8192
    """Tokens of one input."""
    price_per_million: float | None = None
    """Money per million tokens; None where unknown, and then cost is unknown."""
    send_dimensions: bool = True
    """Whether the request carries ``dimensions`` (models that cannot shorten reject it)."""
    retired: bool = False
    """The provider no longer answers for it."""
    id: int | None = None
    """Id in embedtui.model once registered."""

    @property
    def called(self) -> str:
        """Its name in a sentence."""
        return self.name if self.name != UNNAMED else "the unnamed old model"


@dataclass(frozen=True, slots=True)
class TableName:
    """A schema-qualified relation."""

    schema: str
    name: str

    def __str__(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration as stored in embedtui.migration; everything a worker on another host needs but the secrets."""

    id: int
    name: str
    """Route name; the table's own name unless configured."""
    table: TableName
    table_oid: int
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]
    """SQL types of the key columns as format_type prints them."""
    content_columns: tuple[str, ...]
    placement: PlacementKind
    old_column: str
    old_model: EmbeddingModel
    new_model: EmbeddingModel
    new_table: TableName
    """The table itself for placement ``column``."""
    new_column: str
    vector_schema: str
    """Schema of the pgvector extension."""
    vector_type: str
    """``vector`` or ``halfvec``, of the new side."""
    old_vector_type: str
    distance: Distance
    index_method: IndexMethod
    phase: Phase
    condition: Condition
    reason: str
    desired: str
    """``run`` or ``pause``: what the operators want."""
    settings: dict[str, object] = field(default_factory=dict)
    index_held: bool = False
    """The operators do not want the workers to build the index yet."""
    phase_at: datetime | None = None
    created_at: datetime | None = None
