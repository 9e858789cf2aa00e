"""A migration as stored, its models and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from embedtui.model.settings import RunState, StoredSettings
from embedtui.model.vector_shape import VectorShape
from embedtui.model.words import Condition, Distance, IndexMethod, Phase, PlacementKind

Key = tuple[str, ...]
"""A row's key: its key columns' values in PostgreSQL's text form, in the order of the key."""


TIMEOUT_SECONDS = 60.0
"""Of one request, where nothing is set."""

USES = ("document", "query")
"""What a text is embedded as. In a table of a model's fields or headers, a table of this name is for these texts."""


def for_use(table: Mapping[str, Any], use: str) -> dict[str, Any]:
    """What ``table`` says for texts embedded as ``use``."""
    own = {name: each for name, each in table.items() if name in USES and isinstance(each, Mapping)}
    return {name: each for name, each in table.items() if name not in own} | dict(own.get(use, {}))


UNNAMED = "unknown"
"""Name of an old model that nobody has named: whether it still answers, embedtui cannot know."""


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """An embedding model and how to reach it. The secret itself is never held here, only its variable's name."""

    name: str
    dimensions: int
    """Numbers of its vectors as they are stored."""
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
    given: int | None = None
    """Numbers that it gives, where zeros are added to make ``dimensions`` of them (``pad_to``); None: as many."""
    normalise: bool = False
    """Its vectors are divided by their length. Both are part of the identity of its vectors."""
    send_dimensions: bool = True
    """Whether the request carries ``dimensions`` (models that cannot shorten reject it)."""
    timeout_seconds: float = TIMEOUT_SECONDS
    """Of one request; a server on a slow processor may need more."""
    retired: bool = False
    """The provider no longer answers for it."""
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of a request, see :func:`for_use`. Those of documents are part of the model's identity."""
    headers: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Further headers of a request, likewise; ``$NAME`` stands for an environment variable. Of this machine alone."""
    batch: bool = False
    """The backfill goes by batch jobs of the provider, whose price is lower and whose answer comes within a day."""
    batch_price: float | None = None
    """Money per million tokens in a batch job; None: half of the live price."""
    batch_inputs: int | None = None
    """Inputs of one batch job; None: as many as OpenAI takes."""
    id: int | None = None
    """Id in embedtui.model once registered."""
    unusable: tuple[str, str] | None = None
    """Why this machine may not ask it, and what its settings would have to say; None where they say all."""

    @property
    def batch_price_per_million(self) -> float | None:
        """Money per million tokens in a batch job; None where unknown."""
        if self.batch_price is not None or self.price_per_million is None:
            return self.batch_price
        return self.price_per_million / 2

    def cost(self, tokens: int, *, batch: int = 0) -> float | None:
        """Money for so many tokens, ``batch`` of them in batch jobs; None where unknown."""
        price, less = self.price_per_million, self.batch_price_per_million
        if less is None or (price is None and not (batch and tokens == batch)):
            return None
        return ((tokens - batch) * (price or 0) + batch * less) / 1e6

    def at_live_price(self, tokens: int) -> int:
        """Tokens of the live endpoint that cost as much as so many in a batch job, rounded up."""
        price, live = self.batch_price_per_million, self.price_per_million
        return math.ceil(tokens * price / live) if price is not None and live else math.ceil(tokens / 2)

    @property
    def shape(self) -> VectorShape:
        """What its vectors go through before they are stored, or searched with."""
        return VectorShape(self.dimensions, self.given or self.dimensions, self.normalise)

    @property
    def called(self) -> str:
        """Its name in a sentence."""
        return self.name if self.name != UNNAMED else "the unnamed old model"

    @property
    def unasked(self) -> str:
        """Why nothing is asked of it, as a sentence goes on after its name; empty where it may be asked."""
        return "is retired" if self.retired else "cannot be asked by embedtui" if self.name == UNNAMED else ""


@dataclass(frozen=True, slots=True)
class TableName:
    """A schema-qualified relation."""

    schema: str
    name: str

    def __str__(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class TextTable:
    """Another table that holds the texts: a foreign key of the migrated one says which row has a row's text."""

    table: TableName
    oid: int
    constraint: str
    """The foreign key's name."""
    reference: tuple[str, ...]
    """Its columns, of the migrated table."""
    key: tuple[str, ...]
    """The columns that it refers to, in the same order."""
    key_types: tuple[str, ...]
    """Their types; all are PostgreSQL's own."""
    columns: tuple[str, ...]
    """Content as it was set: columns one under the other; empty where it is SQL."""
    text: RowExpression
    """The text of a row of this table."""

    @property
    def stored(self) -> dict[str, object]:
        """As JSON."""
        lists = {name: list(getattr(self, name)) for name in ("reference", "key", "key_types", "columns")}
        head = {"schema": self.table.schema, "name": self.table.name, "oid": self.oid, "constraint": self.constraint}
        return {**head, **lists, "text": self.text.stored}

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> TextTable | None:
        """From JSON; None is none."""
        text = RowExpression.of(stored["text"]) if stored is not None else None
        if stored is None or text is None:
            return None
        reference, key, types, columns = (
            tuple(map(str, stored[name])) for name in ("reference", "key", "key_types", "columns")
        )
        table = TableName(stored["schema"], stored["name"])
        return cls(table, int(stored["oid"]), stored["constraint"], reference, key, types, columns, text)


@dataclass(frozen=True, slots=True)
class RowExpression:
    """SQL over a row of the table, see :mod:`embedtui.postgres.expressions`."""

    given: str
    """As the operator wrote it."""
    sql: str
    """As every session reads it, of a row called ``embedtui_row``."""
    columns: tuple[tuple[str, int], ...]
    """The columns that it reads, and the oids of their types."""
    elsewhere: TextTable | None = None
    """The table that it takes the text from, by a foreign key of these columns; None: the row itself."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that it reads."""
        return tuple(name for name, _ in self.columns)

    @property
    def stored(self) -> dict[str, object]:
        """As JSON."""
        columns = [list(column) for column in self.columns]
        elsewhere = {} if self.elsewhere is None else {"elsewhere": self.elsewhere.stored}
        return {"given": self.given, "sql": self.sql, "columns": columns, **elsewhere}

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> RowExpression | None:
        """From JSON; None is none."""
        if stored is None:
            return None
        columns = tuple((str(name), int(kind)) for name, kind in stored["columns"])
        return cls(str(stored["given"]), str(stored["sql"]), columns, TextTable.of(stored.get("elsewhere")))


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
    """SQL types of the key columns (of a domain its base type), with their schema unless it is pg_catalog."""
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
    unsaid: Mapping[str, object] = field(default_factory=dict)
    """Settings by their names in the file that would act on this machine, and that only the database has: to be shown
    and compared, never to be followed."""
    index_held: bool = False
    """The operators do not want the workers to build the index yet."""
    phase_at: datetime | None = None
    created_at: datetime | None = None
    content_types: tuple[str, ...] = ()
    """As ``key_types``, of the content columns; empty where not known."""
    key_equality: tuple[str, ...] = ()
    """Schema of each key column's operator ``=``; empty: all pg_catalog."""
    scope: RowExpression | None = None
    """Condition on the rows that are migrated; None: all rows."""
    content: RowExpression | None = None
    """The text that is embedded, of ``content_columns`` (those of a foreign key, where it is in another table); None:
    these one under the other."""

    @property
    def text_table(self) -> TextTable | None:
        """The other table that holds the texts; None where the table itself does."""
        return None if self.content is None else self.content.elsewhere

    @property
    def stored(self) -> StoredSettings:
        """``settings`` as one typed object; the one place where they are read."""
        return StoredSettings.of(self.settings)

    @property
    def run_state(self) -> RunState:
        """What else is stored with the settings: how far the migration got."""
        return RunState.of(self.settings)
