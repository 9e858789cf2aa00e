"""What the catalog says about a server and a table; read-only, and the only place that asks it such questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.rows import dict_row

from embedtui.config import Settings
from embedtui.errors import DatabaseError, SettingsError, TableError
from embedtui.model import (
    Condition,
    Distance,
    EmbeddingModel,
    IndexMethod,
    Migration,
    Phase,
    PlacementKind,
    TableName,
)

MINIMUM_SERVER = 140000
"""PostgreSQL 14: ``hash_record_extended``, pg_stat_progress_copy and the psycopg features that we rely on."""

VECTOR_TYPES = ("vector", "halfvec")
"""pgvector's types that hold a dense embedding."""


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
    maintenance_work_mem: int
    shared_buffers: int
    max_parallel_maintenance_workers: int
    wal_level: str
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
    generated: bool
    has_default: bool
    is_vector: bool
    is_text: bool


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A valid, complete, immediate unique key over NOT NULL columns."""

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    primary: bool


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a table, or of a partitioned table as a whole."""

    oid: int
    schema: str
    name: str
    method: str
    columns: tuple[str, ...]
    opclasses: tuple[str, ...]
    unique: bool
    valid: bool
    definition: str
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
    timing: str
    """``BEFORE``, ``AFTER`` or ``INSTEAD OF``."""
    on_insert: bool
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
    is_partition: bool
    leaves: tuple[Leaf, ...]
    inherits: bool
    """Old-style inheritance: it has children, or is one."""
    rows: int | None
    heap_bytes: int
    total_bytes: int
    persistence: str
    """``p`` permanent, ``u`` unlogged, ``t`` temporary."""
    owner: str
    is_owner: bool
    """Our role owns it or is a member of the owner."""
    may_select: bool
    may_insert: bool
    may_update: bool
    may_delete: bool
    may_trigger: bool
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
    replica_identity_full: bool
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


# ------------------------------------------------------------------------------------------------------ server


_SERVER = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_text,
       current_database()::text AS database,
       current_user::text AS role,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       pg_is_in_recovery() AS standby,
       pg_is_in_recovery() OR (SELECT reset_val = 'on' FROM pg_settings
                                WHERE name = 'default_transaction_read_only') AS read_only,
       pg_backend_pid() AS pid,
       pg_has_role('pg_read_all_stats', 'USAGE') AS reads_all_stats,
       coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'embedtui'),
                has_database_privilege(current_database(), 'CREATE')) AS may_create_schema,
       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'embedtui') AS state_schema,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector_version,
       (SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector') AS vector_schema,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') AS vector_available,
       pg_size_bytes(current_setting('maintenance_work_mem')) AS maintenance_work_mem,
       pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers,
       current_setting('max_parallel_maintenance_workers')::int AS max_parallel_maintenance_workers,
       current_setting('wal_level') AS wal_level,
       (SELECT count(*)::int FROM pg_prepared_xacts WHERE database = current_database()) AS prepared_transactions
"""


def server_facts(conn: Connection[Any]) -> ServerFacts:
    """Read the facts of the server behind ``conn``.

    A pooler gives itself away by the process id: PgBouncer and its like hand out a cancel key of their own, so that the
    id told at connection differs from ``pg_backend_pid()``.
    """
    row = _one(conn, _SERVER)
    pid = row.pop("pid")
    told = conn.info.backend_pid
    return ServerFacts(pooled=bool(told) and told != pid, **row)


def require_server(facts: ServerFacts) -> str:
    """Refuse a server that cannot be worked with; return the schema of pgvector.

    Raises DatabaseError: older than PostgreSQL 14, or without pgvector.
    """
    if facts.version < MINIMUM_SERVER:
        raise DatabaseError(
            f"PostgreSQL {facts.version_text} is too old.", hint="embedtui needs PostgreSQL 14 or newer."
        )
    if facts.vector_schema is None:
        if facts.vector_available:
            hint = "Create it as a privileged role: CREATE EXTENSION vector;"
        else:
            hint = "Install pgvector on the server (github.com/pgvector/pgvector), then: CREATE EXTENSION vector;"
        raise DatabaseError(f"pgvector is not in database {facts.database}.", hint=hint)
    return facts.vector_schema


def version_tuple(version: str) -> tuple[int, ...]:
    """``0.8.5`` as (0, 8, 5), for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


# ------------------------------------------------------------------------------------------------------- names


_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".]+?))\s*(?:\.|$)')


def parse_name(name: str) -> tuple[tuple[str, bool], ...]:
    """Split a possibly qualified, possibly quoted name into (text, was quoted) parts.

    ``app."My Docs"`` gives (("app", False), ("My Docs", True)). An impossible name gives ().
    """
    parts: list[tuple[str, bool]] = []
    position = 0
    while position < len(name):
        match = _PART.match(name, position)
        if match is None or match.end() == position:
            return ()
        quoted, plain = match.groups()
        parts.append((quoted.replace('""', '"'), True) if quoted is not None else (plain, False))
        position = match.end()
    return tuple(parts)


_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a composite type",
    "t": "a TOAST table",
    "i": "an index",
    "I": "an index",
}

_FIND = """
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = %(name)s
   AND CASE WHEN %(schema)s::text IS NULL THEN n.nspname = ANY (current_schemas(false))
            ELSE n.nspname = %(schema)s END
   AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
 ORDER BY array_position(current_schemas(false), n.nspname)
 LIMIT 1
"""

_ALL_TABLES = """
SELECT n.nspname::text AS schema, c.relname::text AS name, n.nspname = ANY (current_schemas(false)) AS in_path
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'embedtui') AND n.nspname NOT LIKE 'pg\\_%'
 ORDER BY 3 DESC, 2
"""


def find_table(conn: Connection[Any], name: str, schema: str | None = None) -> tuple[int, TableName]:
    """Find a table by the name an operator typed; return its oid and its real name.

    Tried in order: exactly as typed; read as an SQL name (``app."My Docs"``, ``app.docs``); unquoted parts folded to
    lower case as PostgreSQL does. Without a schema the search path decides.

    Raises TableError: no such table (with near misses), or not a table.
    """
    for wanted_schema, wanted in _readings(name, schema):
        row = _maybe_one(conn, _FIND, {"schema": wanted_schema, "name": wanted})
        if row is None:
            continue
        if row["kind"] not in ("r", "p"):
            raise TableError(
                f"{shown(TableName(row['schema'], row['name']))} is {_KINDS[row['kind']]}, not a table.",
                hint="Name the table that holds the vectors.",
            )
        return int(row["oid"]), TableName(row["schema"], row["name"])
    asked = name if schema is None or "." in name else f"{schema}.{name}"
    raise TableError(f"no table {quoted(asked)}{_near_tables(conn, name)}")


def _readings(name: str, schema: str | None) -> Iterable[tuple[str | None, str]]:
    """The (schema, table) pairs a typed name may mean, likeliest first."""
    yield schema, name
    parts = parse_name(name)
    if len(parts) == 1:
        text, was_quoted = parts[0]
        yield schema, text
        if not was_quoted:
            yield schema, text.lower()
    elif len(parts) == 2:
        (first, first_quoted), (second, second_quoted) = parts
        yield first, second
        yield first if first_quoted else first.lower(), second if second_quoted else second.lower()


def _near_tables(conn: Connection[Any], name: str) -> str:
    rows = _all(conn, _ALL_TABLES)
    parts = parse_name(name)
    plain = parts[-1][0] if parts else name
    elsewhere = [TableName(row["schema"], row["name"]) for row in rows if row["name"].lower() == plain.lower()]
    if elsewhere:
        return f"; did you mean {_either(shown(table) for table in elsewhere[:3])}?"
    names = {row["name"].lower(): TableName(row["schema"], row["name"]) for row in reversed(rows)}
    close = get_close_matches(plain.lower(), names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {_either(shown(names[match]) for match in close)}?"
    if not rows:
        return "; this database has no tables."
    return ". `embedtui init` lists the tables with vector columns."


def quoted(name: str) -> str:
    """A name in double quotes for a message."""
    return name if name.startswith('"') else f'"{name}"'


def shown(table: TableName) -> str:
    """A table's name as SQL would need it written, schema left out where it is public."""
    name = shown_column(table.name)
    return name if table.schema == "public" else f"{shown_column(table.schema)}.{name}"


def shown_column(name: str) -> str:
    """An identifier as SQL would need it written (quoted only where it must be)."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


def _either(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    return found[0] if len(found) == 1 else ", ".join(found[:-1]) + " or " + found[-1]


# ------------------------------------------------------------------------------------------------------- table


_RELATION = """
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, c.relispartition,
       c.relpersistence::text AS persistence, pg_get_userbyid(c.relowner)::text AS owner,
       pg_has_role(c.relowner, 'USAGE') AS is_owner,
       has_any_column_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS may_select,
       has_any_column_privilege(c.oid, 'INSERT') AS may_insert,
       has_any_column_privilege(c.oid, 'UPDATE') AS may_update,
       has_table_privilege(c.oid, 'DELETE') AS may_delete,
       has_table_privilege(c.oid, 'TRIGGER') AS may_trigger,
       has_any_column_privilege(c.oid, 'REFERENCES') AS may_reference,
       has_schema_privilege(c.relnamespace, 'CREATE') AS may_create_in_schema,
       c.relrowsecurity AS row_security, row_security_active(c.oid) AS row_security_applies,
       c.relreplident = 'f' AS replica_identity_full,
       EXISTS (SELECT FROM pg_inherits i WHERE (i.inhparent = c.oid AND c.relkind <> 'p')
                                            OR (i.inhrelid = c.oid AND NOT c.relispartition)) AS inherits,
       EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid) AS subscribed,
       ARRAY(SELECT rulename::text FROM pg_rewrite w WHERE w.ev_class = c.oid ORDER BY 1) AS rules
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = %(oid)s
"""

_LEAVES = """
WITH RECURSIVE tree AS (
    SELECT oid, relkind FROM pg_class WHERE oid = %(oid)s
    UNION ALL
    SELECT c.oid, c.relkind FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid
     WHERE t.relkind = 'p'
)
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, pg_relation_size(c.oid) AS bytes,
       pg_total_relation_size(c.oid) AS total,
       CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS rows
  FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r'
 ORDER BY n.nspname, c.relname
"""

_COLUMNS = """
SELECT a.attname::text AS name, a.attnum::int AS number, format_type(a.atttypid, a.atttypmod) AS type,
       t.typname::text AS base_type, a.atttypmod AS modifier, a.attnotnull AS not_null,
       a.attgenerated <> '' AS generated, a.atthasdef OR a.attidentity <> '' AS has_default,
       t.typname IN ('vector', 'halfvec') AND EXISTS (
           SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
            WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass
              AND e.extname = 'vector') AS is_vector,
       t.typcategory = 'S' AND t.typname <> 'name' AND t.typname <> 'char' AS is_text
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

_KEYS = """
SELECT i.relname::text AS name, x.indisprimary AS "primary",
       ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int[]) WITH ORDINALITY k (num, place)
               JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.num
              WHERE k.place <= x.indnkeyatts ORDER BY k.place) AS columns,
       ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM unnest(x.indkey::int[]) WITH ORDINALITY k (num, place)
               JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.num
              WHERE k.place <= x.indnkeyatts ORDER BY k.place) AS types
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
 WHERE x.indrelid = %(oid)s AND x.indisunique AND x.indisvalid AND x.indimmediate
   AND x.indpred IS NULL AND x.indexprs IS NULL
   AND NOT EXISTS (SELECT FROM unnest(x.indkey::int[]) WITH ORDINALITY k (num, place)
                     JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.num
                    WHERE k.place <= x.indnkeyatts AND NOT a.attnotnull)
 ORDER BY x.indisprimary DESC, x.indnkeyatts, i.relname
"""

_INDEXES = """
SELECT i.oid, n.nspname::text AS schema, i.relname::text AS name, m.amname::text AS method,
       ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int[]) WITH ORDINALITY k (num, place)
               JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.num ORDER BY k.place) AS columns,
       ARRAY(SELECT o.opcname::text FROM unnest(x.indclass::oid[]) WITH ORDINALITY k (opc, place)
               JOIN pg_opclass o ON o.oid = k.opc ORDER BY k.place) AS opclasses,
       x.indisunique AS "unique", x.indisvalid AS valid, pg_get_indexdef(i.oid) AS definition,
       CASE WHEN i.relkind = 'i' THEN pg_relation_size(i.oid)
            ELSE (SELECT coalesce(sum(pg_relation_size(t.relid)), 0)::bigint FROM pg_partition_tree(i.oid) t
                   WHERE t.isleaf) END AS bytes
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
  JOIN pg_am m ON m.oid = i.relam
 WHERE x.indrelid = %(oid)s
 ORDER BY i.relname
"""

# tgtype bits (catalog/pg_trigger.h): 1 row, 2 before, 4 insert, 8 delete, 16 update, 64 instead of
_TRIGGERS = """
SELECT g.tgname::text AS name,
       CASE WHEN g.tgtype & 2 <> 0 THEN 'BEFORE' WHEN g.tgtype & 64 <> 0 THEN 'INSTEAD OF' ELSE 'AFTER' END AS timing,
       g.tgtype & 4 <> 0 AS on_insert, g.tgtype & 16 <> 0 AS on_update,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr::int2[]) ORDER BY 1) AS columns,
       p.proname::text AS function, g.tgenabled <> 'D' AS enabled
  FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE g.tgrelid = %(oid)s AND NOT g.tgisinternal AND g.tgtype & 1 <> 0 AND n.nspname <> 'embedtui'
 ORDER BY g.tgname
"""

# A schema's publication shows in pg_publication_tables, yet in neither FOR ALL TABLES nor pg_publication_rel.
_PUBLICATIONS = """
WITH RECURSIVE up AS (
    SELECT %(oid)s::oid AS oid
    UNION ALL
    SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid
), family AS (
    SELECT oid FROM up UNION SELECT relid FROM pg_partition_tree(%(oid)s)
)
SELECT p.pubname::text AS name, p.puballtables AS everything,
       EXISTS (SELECT FROM pg_publication_rel r
                WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM family)) AS named,
       coalesce((SELECT to_jsonb(r) ->> 'prattrs' FROM pg_publication_rel r
                  WHERE r.prpubid = p.oid AND r.prrelid IN (SELECT oid FROM family) LIMIT 1), '') AS numbers
  FROM pg_publication p
 WHERE EXISTS (SELECT FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
                WHERE t.pubname = p.pubname AND c.oid IN (SELECT oid FROM family))
 ORDER BY p.pubname
"""

_DEPENDENTS = """
SELECT DISTINCT a.attname::text AS column,
       CASE WHEN d.classid = 'pg_rewrite'::regclass THEN
                CASE WHEN v.relkind = 'm' THEN 'materialized view' WHEN v.relkind = 'v' THEN 'view' ELSE 'other' END
            WHEN d.classid = 'pg_proc'::regclass THEN 'function'
            WHEN d.classid = 'pg_policy'::regclass THEN 'policy'
            WHEN d.classid = 'pg_attrdef'::regclass OR d.classid = 'pg_class'::regclass THEN 'generated column'
            WHEN d.classid = 'pg_trigger'::regclass THEN 'trigger'
            WHEN d.classid = 'pg_constraint'::regclass THEN 'constraint'
            WHEN d.classid = 'pg_statistic_ext'::regclass THEN 'statistics'
            WHEN d.classid = 'pg_publication_rel'::regclass THEN 'publication'
            ELSE 'other' END AS kind,
       CASE WHEN d.classid = 'pg_rewrite'::regclass THEN v.oid::regclass::text
            WHEN d.classid = 'pg_proc'::regclass THEN d.objid::regprocedure::text
            WHEN d.classid = 'pg_policy'::regclass THEN (SELECT polname::text FROM pg_policy WHERE oid = d.objid)
            WHEN d.classid = 'pg_attrdef'::regclass THEN
                (SELECT b.attname::text FROM pg_attrdef f
                   JOIN pg_attribute b ON b.attrelid = f.adrelid AND b.attnum = f.adnum WHERE f.oid = d.objid)
            WHEN d.classid = 'pg_class'::regclass AND d.objsubid > 0 THEN
                (SELECT b.attname::text FROM pg_attribute b WHERE b.attrelid = d.objid AND b.attnum = d.objsubid)
            WHEN d.classid = 'pg_trigger'::regclass THEN (SELECT tgname::text FROM pg_trigger WHERE oid = d.objid)
            WHEN d.classid = 'pg_publication_rel'::regclass THEN
                (SELECT p.pubname::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                  WHERE r.oid = d.objid)
            WHEN d.classid = 'pg_constraint'::regclass THEN
                (SELECT conname::text FROM pg_constraint WHERE oid = d.objid)
            ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS name
  FROM pg_depend d
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
  LEFT JOIN pg_class v ON v.oid = w.ev_class
  LEFT JOIN pg_class i ON d.classid = 'pg_class'::regclass AND i.oid = d.objid
  LEFT JOIN pg_attrdef own ON d.classid = 'pg_attrdef'::regclass AND own.oid = d.objid
  LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
  LEFT JOIN pg_proc gp ON gp.oid = g.tgfoid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.refobjsubid > 0
   AND d.deptype IN ('n', 'a')
   AND (i.oid IS NULL OR (i.relkind IN ('r', 'p') AND d.objsubid > 0))
   AND (own.oid IS NULL OR NOT (own.adrelid = d.refobjid AND own.adnum = d.refobjsubid))
   AND (gp.oid IS NULL OR gp.pronamespace <> coalesce((SELECT oid FROM pg_namespace WHERE nspname = 'embedtui'), 0))
   AND NOT (d.classid = 'pg_class'::regclass AND i.relkind = 'S')
   -- a primary, unique or foreign key is no obstacle of a vector column's, and its index is listed as such
   AND NOT (d.classid = 'pg_constraint'::regclass AND
            (SELECT contype FROM pg_constraint WHERE oid = d.objid) NOT IN ('c', 'x'))
 ORDER BY 1, 2, 3
"""


def inspect_table(conn: Connection[Any], name: str, schema: str | None = None) -> TableFacts:
    """All the catalog knows of a table, by the name an operator typed (see :func:`find_table`)."""
    oid, _ = find_table(conn, name, schema)
    return inspect_oid(conn, oid)


def inspect_oid(conn: Connection[Any], oid: int) -> TableFacts:
    """All the catalog knows of a table, by its oid.

    Raises TableError: the table is gone.
    """
    by = {"oid": oid}
    relation = _maybe_one(conn, _RELATION, by)
    if relation is None:
        raise TableError("the table was dropped.", hint="Start again with `embedtui init`.")
    leaves = _all(conn, _LEAVES, by)
    counted = [row["rows"] for row in leaves if row["rows"] is not None]
    columns = _columns(conn, oid)
    numbers = {str(column.number): column.name for column in columns}
    return TableFacts(
        oid=int(relation["oid"]),
        table=TableName(relation["schema"], relation["name"]),
        kind="partitioned" if relation["kind"] == "p" else "table",
        is_partition=relation["relispartition"],
        leaves=tuple(Leaf(int(r["oid"]), r["schema"], r["name"], r["bytes"], r["rows"]) for r in leaves),
        inherits=relation["inherits"],
        rows=sum(counted) if counted else None,
        heap_bytes=sum(row["bytes"] for row in leaves),
        total_bytes=sum(row["total"] for row in leaves),
        persistence=relation["persistence"],
        owner=relation["owner"],
        is_owner=relation["is_owner"],
        may_select=relation["may_select"],
        may_insert=relation["may_insert"],
        may_update=relation["may_update"],
        may_delete=relation["may_delete"],
        may_trigger=relation["may_trigger"],
        may_reference=relation["may_reference"],
        may_create_in_schema=relation["may_create_in_schema"],
        row_security=relation["row_security"],
        row_security_applies=relation["row_security_applies"],
        columns=columns,
        keys=tuple(
            UniqueKey(row["name"], tuple(row["columns"]), tuple(row["types"]), row["primary"])
            for row in _all(conn, _KEYS, by)
        ),
        indexes=tuple(
            Index(
                **{
                    **row,
                    "oid": int(row["oid"]),
                    "columns": tuple(row["columns"]),
                    "opclasses": tuple(row["opclasses"]),
                }
            )
            for row in _all(conn, _INDEXES, by)
        ),
        triggers=tuple(RowTrigger(**{**row, "columns": tuple(row["columns"])}) for row in _all(conn, _TRIGGERS, by)),
        publications=tuple(
            Publication(
                row["name"],
                "all" if row["everything"] else "table" if row["named"] else "schema",
                tuple(numbers[number] for number in re.findall(r"\d+", row["numbers"]) if number in numbers),
            )
            for row in _all(conn, _PUBLICATIONS, by)
        ),
        subscribed=relation["subscribed"],
        rules=tuple(relation["rules"]),
        replica_identity_full=relation["replica_identity_full"],
        dependents=tuple(Dependent(**row) for row in _all(conn, _DEPENDENTS, by)),
    )


def _columns(conn: Connection[Any], oid: int) -> tuple[Column, ...]:
    columns = []
    for row in _all(conn, _COLUMNS, {"oid": oid}):
        modifier = row.pop("modifier")
        # pgvector stores the number of dimensions as the type modifier itself; -1 is none given
        columns.append(Column(dimensions=modifier if row["is_vector"] and modifier > 0 else None, **row))
    return tuple(columns)


_CANDIDATES = """
SELECT n.nspname::text AS schema, c.relname::text AS name, a.attname::text AS column,
       format_type(a.atttypid, a.atttypmod) AS type, a.atttypmod AS modifier,
       (SELECT CASE WHEN bool_and(l.reltuples >= 0) THEN sum(l.reltuples)::bigint END
          FROM (SELECT c.oid AS relid UNION SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf) f
          JOIN pg_class l ON l.oid = f.relid WHERE l.relkind = 'r') AS rows,
       (SELECT coalesce(sum(pg_total_relation_size(f.relid)), 0)::bigint
          FROM (SELECT c.oid AS relid UNION SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf) f) AS bytes,
       coalesce((SELECT string_agg(DISTINCT m.amname::text, ', ')
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
         WHERE x.indrelid = c.oid AND a.attnum = ANY (x.indkey::int2[])), '') AS indexed
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'vector'
 WHERE t.typname IN ('vector', 'halfvec') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname <> 'embedtui'
   AND has_table_privilege(c.oid, 'SELECT')
 ORDER BY bytes DESC, 1, 2, a.attnum
"""

_OWN_COLUMNS = """
SELECT new_schema AS schema, new_table AS name, new_column AS column
  FROM embedtui.migration WHERE phase NOT IN ('done', 'aborted')
"""


def find_candidates(conn: Connection[Any]) -> tuple[Candidate, ...]:
    """Vector columns of this database that a migration could start from, biggest table first.

    What a live migration of ours fills is left out.
    """
    rows = _all(conn, _CANDIDATES)
    own: set[tuple[str, str, str]] = set()
    if _one(conn, "SELECT has_table_privilege(to_regclass('embedtui.migration'), 'SELECT') AS readable")["readable"]:
        own = {(row["schema"], row["name"], row["column"]) for row in _all(conn, _OWN_COLUMNS)}
    return tuple(
        Candidate(
            TableName(row["schema"], row["name"]),
            row["column"],
            row["type"],
            row["modifier"] if row["modifier"] > 0 else None,
            row["rows"],
            row["bytes"],
            row["indexed"],
        )
        for row in rows
        if (row["schema"], row["name"], row["column"]) not in own
    )


def stored_dimensions(conn: Connection[Any], facts: TableFacts, column: str, vector_schema: str) -> int | None:
    """Dimensions of the vectors in a column: of its type, else of one among its first rows; None where none is."""
    found = facts.column(column)
    if found is None or found.dimensions is not None:
        return found.dimensions if found else None
    statement = sql.SQL(
        "SELECT {dims}(v) AS dimensions FROM (SELECT {column} AS v FROM {table} LIMIT 10000) s"
        " WHERE v IS NOT NULL LIMIT 1"
    ).format(
        dims=sql.Identifier(vector_schema, "vector_dims"),
        column=sql.Identifier(column),
        table=sql.Identifier(facts.table.schema, facts.table.name),
    )
    row = _maybe_one(conn, statement)
    return None if row is None else int(row["dimensions"])


def index_distance(facts: TableFacts, column: str) -> Distance | None:
    """The distance that the approximate indexes on a column serve; None where there is none, or they disagree."""
    found = {
        distance
        for index in facts.indexes_on(column)
        for opclass in index.opclasses
        for distance in Distance
        if opclass == f"{facts.column(column).base_type}_{distance.value}_ops"  # type: ignore[union-attr]
    }
    return found.pop() if len(found) == 1 else None


# ----------------------------------------------------------------------------------------------------- choices

INDEXED_DIMENSIONS = {"vector": 2000, "halfvec": 4000}
"""Dimensions that HNSW and ivfflat can index (pgvector's README)."""

STORED_DIMENSIONS = 16_000
"""Dimensions that a vector or halfvec can hold."""

_IDENTIFIER_BYTES = 63
_LONGEST_SUFFIX = len("_source")


@dataclass(frozen=True, slots=True)
class Draft:
    """A migration as it would be, all choices made but the placement."""

    server: ServerFacts
    facts: TableFacts
    name: str
    key: UniqueKey
    """Columns in the order in which they were asked for."""
    content: tuple[str, ...]
    old_column: str
    old_type: str
    """``vector`` or ``halfvec``."""
    old_model: EmbeddingModel
    new_model: EmbeddingModel
    new_column: str | None
    """None: by placement."""
    new_table: str
    new_type: str
    vector_schema: str
    distance: Distance
    index_method: IndexMethod
    stored: Mapping[str, object]
    notices: tuple[str, ...]
    """What is worth saying, yet hinders nothing: an empty table, an empty column."""

    def migration(self, placement: PlacementKind) -> Migration:
        """The migration in that placement, not stored yet (id 0)."""
        beside = placement is PlacementKind.COLUMN
        schema = self.facts.table.schema
        return Migration(
            id=0,
            name=self.name,
            table=self.facts.table,
            table_oid=self.facts.oid,
            key_columns=self.key.columns,
            key_types=self.key.types,
            content_columns=self.content,
            placement=placement,
            old_column=self.old_column,
            old_model=self.old_model,
            new_model=self.new_model,
            new_table=self.facts.table if beside else TableName(schema, self.new_table),
            new_column=self.new_column or (_next_column(self.old_column) if beside else "embedding"),
            vector_schema=self.vector_schema,
            vector_type=self.new_type,
            old_vector_type=self.old_type,
            distance=self.distance,
            index_method=self.index_method,
            phase=Phase.PLAN,
            condition=Condition.IDLE,
            reason="",
            desired="run",
            settings=dict(self.stored),
        )


def _next_column(old: str) -> str:
    """``embedding_v2``; where a former migration has left that as the old column, ``embedding_v3`` and so on."""
    match = re.fullmatch(r"embedding_v(\d+)", old)
    return f"embedding_v{int(match[1]) + 1}" if match else "embedding_v2"


def resolve(conn: Connection[Any], settings: Settings) -> Draft:
    """Make all choices that the settings leave open from the catalog, where only one is possible.

    Reads only. Raises TableError or SettingsError where a choice is wrong or ambiguous (the setting and the candidates
    named), DatabaseError where the server or a right is missing.
    """
    server = server_facts(conn)
    vector_schema = require_server(server)
    if settings.table is None:
        raise SettingsError("No table is set.", hint=_candidates_hint(find_candidates(conn)))
    facts = inspect_table(conn, settings.table, settings.schema)
    table = shown(facts.table)
    if facts.persistence == "t":
        raise TableError(f"{table} is a temporary table.", hint="Name one that other sessions can see.")
    if not facts.may_select:
        raise DatabaseError(
            f"Role {server.role} may not read {table}.", hint=f"GRANT SELECT ON {table} TO {shown_column(server.role)};"
        )
    if facts.row_security_applies:
        raise DatabaseError(
            f"Row security would hide rows of {table} from role {server.role}.",
            hint="Use the table's owner, or a role with BYPASSRLS.",
        )
    old = _old_column(facts, settings)
    content = _content_columns(facts, settings)
    key = _key(facts, settings, old)
    dimensions = stored_dimensions(conn, facts, old.name, vector_schema)
    if dimensions and settings.old_model.dimensions and settings.old_model.dimensions != dimensions:
        raise SettingsError(
            f"old_model.dimensions = {settings.old_model.dimensions} ({settings.origin('old_model.dimensions')}): "
            f"{shown_column(old.name)} holds vectors of {dimensions}.",
            hint=f"Set it to {dimensions}, or leave it out.",
        )
    new_model = settings.new_model.complete("new")
    # an old column that is empty and untyped holds nothing to mix up; the new model's size stands in
    old_model = settings.old_model.complete("old", dimensions=dimensions or new_model.dimensions)
    if _same(old_model, new_model):
        raise SettingsError(
            f"The old and the new model are the same: {new_model.name} with {new_model.dimensions} dimensions.",
            hint="Set EMBED_MODEL (or new_model.name) to the model to move to.",
        )
    new_type = _new_type(settings, server, old, new_model.dimensions)
    new_column = settings.new_column if settings.origin("new_column") != "default" else None
    if new_column is not None and new_column == old.name:
        raise SettingsError(
            f'new_column = "{new_column}" ({settings.origin("new_column")}) is the old column.', hint="Choose another."
        )
    return Draft(
        server=server,
        facts=facts,
        name=settings.name or facts.table.name,
        key=key,
        content=content,
        old_column=old.name,
        old_type=old.base_type,
        old_model=old_model,
        new_model=new_model,
        new_column=new_column,
        new_table=settings.new_table or _suffixed(facts.table.name, "_embedding_v2"),
        new_type=new_type,
        vector_schema=vector_schema,
        distance=settings.distance or index_distance(facts, old.name) or Distance.COSINE,
        index_method=settings.index.method,
        stored=settings.stored(),
        notices=_notices(conn, facts, old, dimensions),
    )


def _same(one: EmbeddingModel, other: EmbeddingModel) -> bool:
    """Whether their vectors could not be told apart by the registry (see ``state.model_fingerprint``)."""
    return (one.provider, one.name, one.dimensions, one.document_prefix) == (
        other.provider,
        other.name,
        other.dimensions,
        other.document_prefix,
    )


_LIVE_NAMES = "SELECT name FROM embedtui.migration WHERE phase NOT IN ('done', 'aborted') ORDER BY name"

_NAME_BY_TABLE = """
SELECT name FROM embedtui.migration WHERE table_oid = %(oid)s ORDER BY phase IN ('done', 'aborted'), id DESC LIMIT 1
"""

# a live migration whose table is gone, or has another name now, is still known by the name it had
_NAME_BY_FORMER_NAME = """
SELECT m.name FROM embedtui.migration m LEFT JOIN pg_catalog.pg_class c ON c.oid = m.table_oid
 WHERE m.phase NOT IN ('done', 'aborted') AND c.relname IS DISTINCT FROM m.table_name::name
   AND m.table_name = %(name)s AND m.table_schema = coalesce(%(schema)s, m.table_schema)
 ORDER BY m.id DESC LIMIT 1
"""


def migration_name(conn: Connection[Any], settings: Settings) -> str | None:
    """The name of the migration that the settings mean; None where nothing is said and at most one is live.

    Raises SettingsError: nothing is said and several are live. TableError: no such table.
    """
    if settings.name is not None:
        return settings.name
    readable = _one(conn, "SELECT has_table_privilege(to_regclass('embedtui.migration'), 'SELECT') AS readable")
    if settings.table is not None:
        readings = [*_readings(settings.table, settings.schema)] if readable["readable"] else []
        former = (_maybe_one(conn, _NAME_BY_FORMER_NAME, {"schema": s, "name": n}) for s, n in readings)
        found = next((row for row in former if row is not None), None)
        try:
            oid, table = find_table(conn, settings.table, settings.schema)
        except TableError:
            if found is None:
                raise
            return str(found["name"])
        row = (_maybe_one(conn, _NAME_BY_TABLE, {"oid": oid}) if readable["readable"] else None) or found
        return table.name if row is None else str(row["name"])
    names = [row["name"] for row in _all(conn, _LIVE_NAMES)] if readable["readable"] else []
    if len(names) > 1:
        raise SettingsError(f"Several migrations are under way: {', '.join(names)}.", hint="Say which: --name NAME.")
    return None


def _candidates_hint(candidates: Sequence[Candidate]) -> str:
    if not candidates:
        return "This database has no table with a vector column that this role may read."
    names = dict.fromkeys(shown(each.table) for each in candidates[:5])
    return f"Set --table, or table in embedtui.toml; tables with vectors: {', '.join(names)}."


def _missing(setting: str, settings: Settings, facts: TableFacts, name: str) -> TableError:
    close = get_close_matches(name, [column.name for column in facts.columns], n=2) or [
        column.name for column in facts.columns if column.name.lower() == name.lower()
    ]
    near = f"; did you mean {_either(shown_column(match) for match in close)}?" if close else "."
    return TableError(
        f"no column {quoted(name)} in {shown(facts.table)}{near}",
        hint=f"Setting: {setting} ({settings.origin(setting)}).",
    )


def _old_column(facts: TableFacts, settings: Settings) -> Column:
    table = shown(facts.table)
    if settings.old_column is not None:
        found = facts.column(settings.old_column)
        if found is None:
            raise _missing("old_column", settings, facts, settings.old_column)
        if not found.is_vector:
            raise TableError(
                f"{shown_column(found.name)} of {table} is {found.type}, not a vector (old_column, "
                f"{settings.origin('old_column')}).",
                hint=f"Vector columns: {_listed(facts.vector_columns)}.",
            )
        return found
    others = [column for column in facts.vector_columns if column.name != settings.new_column]
    choices = others or facts.vector_columns
    if not choices:
        raise TableError(
            f"{table} has no vector column.", hint="embedtui moves the vectors of an existing vector or halfvec column."
        )
    if len(choices) > 1:
        raise TableError(
            f"{table} has {len(choices)} vector columns: {_listed(choices)}.",
            hint="Say which one holds the old vectors: --column, or old_column in embedtui.toml.",
        )
    return choices[0]


def _content_columns(facts: TableFacts, settings: Settings) -> tuple[str, ...]:
    table = shown(facts.table)
    for name in settings.content:
        found = facts.column(name)
        if found is None:
            raise _missing("content", settings, facts, name)
        if found.is_vector or found.base_type == "bytea":
            raise TableError(
                f"{shown_column(name)} of {table} is {found.type}, nothing to embed (content, "
                f"{settings.origin('content')}).",
                hint=f"Text columns: {_listed(facts.text_columns)}.",
            )
    if settings.content:
        return settings.content
    keys = facts.keys[0].columns if facts.keys else ()
    choices = [column for column in facts.text_columns if column.name not in keys] or list(facts.text_columns)
    if not choices:
        raise TableError(
            f"{table} has no text column.", hint="Say what is embedded: --content, or content in embedtui.toml."
        )
    if len(choices) > 1:
        raise TableError(
            f"{table} has {len(choices)} text columns: {_listed(choices)}.",
            hint="Say which are embedded, in their order: --content, or content in embedtui.toml.",
        )
    return (choices[0].name,)


def _key(facts: TableFacts, settings: Settings, old: Column) -> UniqueKey:
    table = shown(facts.table)
    for name in settings.key:
        if facts.column(name) is None:
            raise _missing("key", settings, facts, name)
    if not facts.keys:
        column = settings.key[0] if settings.key else "id"
        raise TableError(
            f"{table} has no unique key over NOT NULL columns.",
            hint=f"Add one, e.g. ALTER TABLE {table} ADD PRIMARY KEY ({shown_column(column)});",
        )
    if not settings.key:
        return facts.keys[0]
    for key in facts.keys:
        if set(key.columns) == set(settings.key):
            types = dict(zip(key.columns, key.types, strict=True))
            return UniqueKey(key.name, settings.key, tuple(types[name] for name in settings.key), key.primary)
    keys = "; ".join(", ".join(map(shown_column, key.columns)) for key in facts.keys)
    asked = ", ".join(map(shown_column, settings.key))
    raise TableError(
        f"{asked} is not a unique key over NOT NULL columns of {table} (key, {settings.origin('key')}).",
        hint=f"Unique keys: {keys}.",
    )


def _new_type(settings: Settings, server: ServerFacts, old: Column, dimensions: int) -> str:
    half = settings.halfvec
    if half is None:
        half = old.base_type == "halfvec" or dimensions > INDEXED_DIMENSIONS["vector"]
    kind = "halfvec" if half else "vector"
    where = f"new_model.dimensions = {dimensions} ({settings.origin('new_model.dimensions')})"
    if dimensions > STORED_DIMENSIONS:
        raise SettingsError(f"{where}: pgvector holds at most {STORED_DIMENSIONS}.", hint="Choose fewer.")
    if settings.index.method is not IndexMethod.NONE and dimensions > INDEXED_DIMENSIONS[kind]:
        raise SettingsError(
            f"{where}: {settings.index.method.value} indexes {kind} only to {INDEXED_DIMENSIONS[kind]}.",
            hint="Choose fewer (EMBED_DIMENSIONS), "
            + ("or drop --no-halfvec." if not half and dimensions <= 4000 else 'or index.method = "none".'),
        )
    if half and version_tuple(server.vector_version or "0") < (0, 7, 0):
        raise DatabaseError(
            f"halfvec needs pgvector 0.7.0; this database has {server.vector_version}.",
            hint="Upgrade pgvector, or choose at most 2,000 dimensions.",
        )
    return kind


def _notices(conn: Connection[Any], facts: TableFacts, old: Column, dimensions: int | None) -> tuple[str, ...]:
    notices = []
    table = sql.Identifier(facts.table.schema, facts.table.name)
    exists = _maybe_one(conn, sql.SQL("SELECT 1 AS found FROM {} LIMIT 1").format(table))
    if exists is None:
        notices.append(f"{shown(facts.table)} is empty: there is nothing to embed until rows arrive.")
    elif dimensions is None:
        notices.append(f"{shown_column(old.name)} holds no vectors among its first rows.")
    return tuple(notices)


def _listed(columns: Iterable[Column]) -> str:
    return ", ".join(shown_column(column.name) for column in columns) or "none"


def _suffixed(name: str, suffix: str) -> str:
    """``name`` with a suffix, within PostgreSQL's 63 bytes for it and what else is made from it."""
    room = _IDENTIFIER_BYTES - len(suffix) - _LONGEST_SUFFIX
    return name.encode()[:room].decode(errors="ignore") + suffix


# ----------------------------------------------------------------------------------------------------- queries


def _all(
    conn: Connection[Any], query: LiteralString | sql.Composed, params: Mapping[str, object] | Sequence[object] = ()
) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, params or None).fetchall()


def _maybe_one(
    conn: Connection[Any], query: LiteralString | sql.Composed, params: Mapping[str, object] | Sequence[object] = ()
) -> dict[str, Any] | None:
    rows = _all(conn, query, params)
    return rows[0] if rows else None


def _one(conn: Connection[Any], query: LiteralString) -> dict[str, Any]:
    return _all(conn, query)[0]
