"""All that the catalog knows of one table; read-only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from psycopg import Connection, sql

from embedtui.errors import TableError
from embedtui.model import TableName
from embedtui.postgres.catalog.facts import (
    Column,
    Dependent,
    Index,
    Leaf,
    Publication,
    RowTrigger,
    TableFacts,
    UniqueKey,
)
from embedtui.postgres.catalog.read import read_all, read_first
from embedtui.postgres.catalog.tables import find_table
from embedtui.postgres.names import relation

_RELATION = """
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       c.relpersistence::text AS persistence, pg_get_userbyid(c.relowner)::text AS owner,
       pg_has_role(c.relowner, 'USAGE') AS is_owner,
       has_any_column_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS may_select,
       has_any_column_privilege(c.oid, 'UPDATE') AS may_update,
       has_any_column_privilege(c.oid, 'REFERENCES') AS may_reference,
       has_schema_privilege(c.relnamespace, 'CREATE') AS may_create_in_schema,
       c.relrowsecurity AS row_security, row_security_active(c.oid) AS row_security_applies,
       EXISTS (SELECT FROM pg_inherits i WHERE (i.inhparent = c.oid AND c.relkind <> 'p')
                                            OR (i.inhrelid = c.oid AND NOT c.relispartition)) AS inherits,
       CASE WHEN c.reloftype <> 0 THEN 'of type ' || c.reloftype::regtype
            WHEN c.relispartition THEN 'a partition of ' ||
                 (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1)
            ELSE '' END AS columns_of,
       ARRAY(SELECT DISTINCT k.conname::text FROM pg_constraint k
              WHERE k.conrelid IN (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid))
                AND k.contype = 'c' AND NOT k.convalidated
                AND coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true' ORDER BY 1) AS unchecked,
       (SELECT min(level) FROM (
            SELECT reset_val AS level FROM pg_settings WHERE name = 'default_transaction_isolation'
            UNION ALL
            SELECT split_part(x, '=', 2) FROM pg_db_role_setting s, unnest(s.setconfig) x
             WHERE starts_with(x, 'default_transaction_isolation=')
               AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
               AND (s.setrole = 0 OR has_any_column_privilege(s.setrole, c.oid, 'UPDATE'))) l
         WHERE level IN ('repeatable read', 'serializable')) AS snapshot_isolation,
       ARRAY(SELECT t.relid::regclass::text FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
              WHERE l.relkind = 'f' ORDER BY 1) AS foreign_leaves,
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
       a.atthasdef OR a.attidentity <> '' AS has_default, a.attgenerated::text AS generated,
       t.typname IN ('vector', 'halfvec') AND EXISTS (
           SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
            WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass
              AND e.extname = 'vector') AS is_vector,
       t.typcategory = 'S' AND t.typname <> 'name' AND t.typname <> 'char' AS is_text,
       (WITH RECURSIVE plain AS (
            SELECT t.oid, a.atttypmod AS modifier, t.typtype, t.typbasetype, t.typtypmod
            UNION ALL
            SELECT b.oid, plain.typtypmod, b.typtype, b.typbasetype, b.typtypmod
              FROM plain JOIN pg_type b ON b.oid = plain.typbasetype WHERE plain.typtype = 'd')
        SELECT format_type(plain.oid, plain.modifier) FROM plain WHERE plain.typtype <> 'd') AS plain_type
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

_KEYS = """
SELECT i.relname::text AS name, x.indisprimary AS "primary",
       ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int[]) WITH ORDINALITY k (num, place)
               JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.num
              WHERE k.place <= x.indnkeyatts ORDER BY k.place) AS columns,
       -- the operator that the index itself compares by; btree's strategy 3 is equality
       ARRAY(SELECT n.nspname::text FROM unnest(x.indclass::oid[]) WITH ORDINALITY k (opclass, place)
               JOIN pg_opclass c ON c.oid = k.opclass
               JOIN pg_amop s ON s.amopfamily = c.opcfamily AND s.amopstrategy = 3
                             AND s.amoplefttype = c.opcintype AND s.amoprighttype = c.opcintype
               JOIN pg_operator o ON o.oid = s.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
              WHERE k.place <= x.indnkeyatts ORDER BY k.place) AS equality,
       -- nothing but a domain itself equals a domain whose base type has its operators from a pseudo-type (anyenum),
       -- and WITHOUT OVERLAPS asks for a period on both sides
       NOT x.indisexclusion AND NOT EXISTS (
           SELECT FROM unnest(x.indkey::int[], x.indclass::oid[]) WITH ORDINALITY k (num, opclass, place)
             JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.num
             JOIN pg_type t ON t.oid = a.atttypid AND t.typtype = 'd'
             JOIN pg_opclass c ON c.oid = k.opclass JOIN pg_type o ON o.oid = c.opcintype AND o.typtype = 'p'
            WHERE k.place <= x.indnkeyatts) AS referable
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
       x.indisvalid AS valid,
       CASE WHEN i.relkind = 'i' THEN pg_relation_size(i.oid)
            ELSE (SELECT coalesce(sum(pg_relation_size(t.relid)), 0)::bigint FROM pg_partition_tree(i.oid) t
                   WHERE t.isleaf) END AS bytes
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
  JOIN pg_am m ON m.oid = i.relam
 WHERE x.indrelid = %(oid)s
 ORDER BY i.relname
"""

# tgtype bits (catalog/pg_trigger.h): 1 row, 16 update
_TRIGGERS = """
SELECT g.tgname::text AS name,
       g.tgtype & 16 <> 0 AS on_update,
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
   -- of a side table of ours: they go with it
   AND NOT (d.classid = 'pg_policy'::regclass AND
            (SELECT polname FROM pg_policy WHERE oid = d.objid) IN ('embedtui_read', 'embedtui_add', 'embedtui_change'))
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

    Raises:
        TableError: the table is gone.
    """
    by = {"oid": oid}
    stored = read_first(conn, _RELATION, by)
    if stored is None:
        raise TableError("the table was dropped.", hint="Start again with `embedtui init`.")
    leaves = read_all(conn, _LEAVES, by)
    counted = [row["rows"] for row in leaves if row["rows"] is not None]
    columns = _columns(conn, oid)
    plain_types = {column.name: column.plain_type for column in columns}
    return TableFacts(
        oid=int(stored["oid"]),
        table=TableName(stored["schema"], stored["name"]),
        kind="partitioned" if stored["kind"] == "p" else "table",
        leaves=tuple(Leaf(int(r["oid"]), r["schema"], r["name"], r["bytes"], r["rows"]) for r in leaves),
        inherits=stored["inherits"],
        columns_of=stored["columns_of"],
        unchecked=tuple(stored["unchecked"]),
        snapshot_isolation=stored["snapshot_isolation"],
        foreign_leaves=tuple(stored["foreign_leaves"]),
        rows=sum(counted) if counted else None,
        heap_bytes=sum(row["bytes"] for row in leaves),
        total_bytes=sum(row["total"] for row in leaves),
        persistence=stored["persistence"],
        owner=stored["owner"],
        is_owner=stored["is_owner"],
        may_select=stored["may_select"],
        may_update=stored["may_update"],
        may_reference=stored["may_reference"],
        may_create_in_schema=stored["may_create_in_schema"],
        row_security=stored["row_security"],
        row_security_applies=stored["row_security_applies"],
        columns=columns,
        keys=tuple(
            UniqueKey(
                row["name"],
                tuple(row["columns"]),
                tuple(plain_types[name] for name in row["columns"]),
                row["primary"],
                tuple(row["equality"]) if len(row["equality"]) == len(row["columns"]) else (),
                row["referable"],
            )
            for row in read_all(conn, _KEYS, by)
        ),
        indexes=_indexes(conn, oid),
        triggers=tuple(
            RowTrigger(**{**row, "columns": tuple(row["columns"])}) for row in read_all(conn, _TRIGGERS, by)
        ),
        publications=_publications(conn, oid, columns),
        subscribed=stored["subscribed"],
        rules=tuple(stored["rules"]),
        dependents=tuple(Dependent(**row) for row in read_all(conn, _DEPENDENTS, by)),
    )


def _indexes(conn: Connection[Any], oid: int) -> tuple[Index, ...]:
    return tuple(
        Index(**{**row, "oid": int(row["oid"]), "columns": tuple(row["columns"])})
        for row in read_all(conn, _INDEXES, {"oid": oid})
    )


def _publications(conn: Connection[Any], oid: int, columns: Iterable[Column]) -> tuple[Publication, ...]:
    numbers = {str(column.number): column.name for column in columns}
    return tuple(
        Publication(
            row["name"],
            "all" if row["everything"] else "table" if row["named"] else "schema",
            tuple(numbers[number] for number in re.findall(r"\d+", row["numbers"]) if number in numbers),
        )
        for row in read_all(conn, _PUBLICATIONS, {"oid": oid})
    )


def _columns(conn: Connection[Any], oid: int) -> tuple[Column, ...]:
    columns = []
    for row in read_all(conn, _COLUMNS, {"oid": oid}):
        modifier = row.pop("modifier")
        # pgvector stores the number of dimensions as the type modifier itself; -1 is none given
        columns.append(Column(dimensions=modifier if row["is_vector"] and modifier > 0 else None, **row))
    return tuple(columns)


def stored_dimensions(
    conn: Connection[Any], facts: TableFacts, column: str, vector_schema: str, scope: sql.Composable | None = None
) -> int | None:
    """Dimensions of the vectors in a column: of its type, else of one among its first rows; None where none is.

    ``scope``: condition on the row called ``t`` that counts.
    """
    found = facts.column(column)
    if found is None or found.dimensions is not None:
        return found.dimensions if found else None
    statement = sql.SQL(
        "SELECT {dims}(v) AS dimensions FROM (SELECT {column} AS v FROM {table} AS t WHERE {scope} LIMIT 10000) s"
        " WHERE v IS NOT NULL LIMIT 1"
    ).format(
        dims=sql.Identifier(vector_schema, "vector_dims"),
        column=sql.Identifier(column),
        table=relation(facts.table),
        scope=scope or sql.SQL("TRUE"),
    )
    row = read_first(conn, statement)
    return None if row is None else int(row["dimensions"])
