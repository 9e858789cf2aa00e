"""What the catalog says about a server and a table, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass, field

from embedtui.model import TableName


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server, its settings and our role allow. Sizes in bytes."""

    version: int
    """``server_version_num``, e.g. 160004."""
    version_text: str
    database: str
    role: str
    superuser: bool
    standby: bool
    read_only: bool
    """Transactions are read-only here: a standby, or a server, database or role set so (as managed services do when the
    disk runs full). Our own read-only connections do not count."""
    pooled: bool
    """A connection pooler sits between: the backend's process is not the one the connection was told of."""
    reads_all_stats: bool
    """Sees other sessions' statements (``pg_read_all_stats``)."""
    may_create_schema: bool
    """May create schema ``embedtui``, or it exists and this role may create in it."""
    state_schema: bool
    """Schema ``embedtui`` exists."""
    vector_version: str | None
    """Version of the pgvector extension in this database; None where it is not created."""
    vector_schema: str | None
    vector_available: bool
    """The extension's files are on the server, so that CREATE EXTENSION would work."""
    shared_buffers: int
    prepared_transactions: int
    """Prepared transactions lying about: they hold the horizon and CREATE INDEX CONCURRENTLY."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    number: int
    type: str
    """As ``format_type`` prints it, e.g. ``vector(768)``."""
    base_type: str
    """Type name without modifier or schema, e.g. ``vector``."""
    dimensions: int | None
    """Of a vector or halfvec with a type modifier."""
    not_null: bool
    has_default: bool
    is_vector: bool
    is_text: bool
    plain_type: str = ""
    """As ``type``, of a domain its base type."""
    generated: str = ""
    """``s``: it is generated and stored; ``v``: made anew by each read."""


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A valid, complete, immediate unique key over NOT NULL columns."""

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    """Plain types, see :class:`Column`."""
    primary: bool
    equality: tuple[str, ...] = ()
    """Schema of each column's operator ``=``, as the key's index has it; empty: all pg_catalog."""
    referable: bool = True
    """A foreign key of columns of these plain types can refer to it."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a table, or of a partitioned table as a whole."""

    oid: int
    schema: str
    name: str
    method: str
    columns: tuple[str, ...]
    valid: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """A relation that holds rows: the table itself, or a leaf partition."""

    oid: int
    schema: str
    name: str
    bytes: int
    """Of the main fork."""
    rows: int | None
    """The planner's estimate; None where never analysed."""


@dataclass(frozen=True, slots=True)
class RowTrigger:
    """A trigger that fires once a row (those of embedtui and of constraints left out)."""

    name: str
    on_update: bool
    columns: tuple[str, ...]
    """Of ``UPDATE OF``; empty where any column fires it."""
    function: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication that carries the table."""

    name: str
    scope: str
    """``all`` (FOR ALL TABLES), ``schema`` or ``table``."""
    columns: tuple[str, ...]
    """Of a column list; empty where all columns are published."""


@dataclass(frozen=True, slots=True)
class Dependent:
    """An object that depends on a column: it hinders a drop, or keeps the old identity on a rename."""

    column: str
    kind: str
    """``view``, ``materialized view``, ``function``, ``policy``, ``generated column``, ``trigger``, ``constraint``,
    ``statistics``, ``publication`` (by its column list) or ``other``."""
    name: str
    """As PostgreSQL describes it."""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What the catalog knows of a table. ``rows`` is the planner's estimate, bytes are those of all leaves."""

    oid: int
    table: TableName
    kind: str
    """``table`` or ``partitioned``."""
    leaves: tuple[Leaf, ...]
    inherits: bool
    """Old-style inheritance: it has children, or is one."""
    columns_of: str
    """What alone can add, rename and drop its columns: ``of type …``, ``a partition of …``; empty where it can."""
    unchecked: tuple[str, ...]
    """CHECK constraints that are NOT VALID: a row that breaks one cannot be updated."""
    snapshot_isolation: str | None
    """``repeatable read`` or ``serializable``, where transactions of a role that may update it are so by default."""
    foreign_leaves: tuple[str, ...]
    """Partitions that are foreign tables."""
    rows: int | None
    heap_bytes: int
    total_bytes: int
    persistence: str
    """``p`` permanent, ``u`` unlogged, ``t`` temporary."""
    owner: str
    is_owner: bool
    """Our role owns it or is a member of the owner."""
    may_select: bool
    may_update: bool
    may_reference: bool
    may_create_in_schema: bool
    row_security: bool
    """Row security is enabled on it."""
    row_security_applies: bool
    """… and would hide rows from our role."""
    columns: tuple[Column, ...]
    keys: tuple[UniqueKey, ...]
    """Primary first, then those with the fewest columns."""
    indexes: tuple[Index, ...]
    triggers: tuple[RowTrigger, ...]
    publications: tuple[Publication, ...]
    subscribed: bool
    """Target of a logical subscription."""
    rules: tuple[str, ...]
    dependents: tuple[Dependent, ...] = field(default=())

    def column(self, name: str) -> Column | None:
        """The column of that exact name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def vector_columns(self) -> tuple[Column, ...]:
        """Columns that hold embeddings."""
        return tuple(column for column in self.columns if column.is_vector)

    @property
    def text_columns(self) -> tuple[Column, ...]:
        """Columns that hold text."""
        return tuple(column for column in self.columns if column.is_text)

    @property
    def text_choices(self) -> tuple[Column, ...]:
        """Columns among which one chooses what is embedded: a key's only where there are no others."""
        keys = self.keys[0].columns if self.keys else ()
        return tuple(column for column in self.text_columns if column.name not in keys) or self.text_columns

    def indexes_on(self, column: str) -> tuple[Index, ...]:
        """Indexes with that column among theirs."""
        return tuple(index for index in self.indexes if column in index.columns)

    def dependents_on(self, column: str) -> tuple[Dependent, ...]:
        """Objects that depend on that column (indexes are in ``indexes``)."""
        return tuple(dependent for dependent in self.dependents if dependent.column == column)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A vector column that a migration could start from."""

    table: TableName
    column: str
    type: str
    dimensions: int | None
    rows: int | None
    bytes: int
    indexed: str
    """Methods of the approximate indexes on it, e.g. ``hnsw``; empty where none."""
