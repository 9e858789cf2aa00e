"""Foreign keys of a table, and the tables that they refer to; read-only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from embedtui.model import TableName
from embedtui.postgres.catalog.read import read_all

# Types are base types with their modifiers (of a domain over a domain, none of PostgreSQL's own). What only newer
# servers have is read by name: a period and NOT ENFORCED.
_REFERENCES = """
SELECT c.conname::text AS name, n.nspname::text AS schema, r.relname::text AS relation, r.oid::int8 AS oid,
       c.confrelid = c.conrelid AS to_itself, r.relkind = 'r' AND NOT r.relispartition AS plain,
       c.convalidated AND coalesce((to_jsonb(c) ->> 'conenforced')::bool, true) AS enforced,
       coalesce((to_jsonb(c) ->> 'conperiod')::bool, false) AS period,
       (SELECT bool_and(o.oprnamespace = 'pg_catalog'::regnamespace) FROM pg_operator o
         WHERE o.oid = ANY (c.conpfeqop)) AND
       (SELECT bool_and(coalesce(b.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace)
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)
         WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
            OR a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey)) AS builtin,
       ARRAY(SELECT f.attname::text FROM unnest(c.conkey) WITH ORDINALITY u (number, place)
               JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = u.number ORDER BY u.place) AS columns,
       ARRAY(SELECT f.atttypid::int8 FROM unnest(c.conkey) WITH ORDINALITY u (number, place)
               JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = u.number ORDER BY u.place) AS column_oids,
       ARRAY(SELECT p.attname::text FROM unnest(c.confkey) WITH ORDINALITY u (number, place)
               JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = u.number ORDER BY u.place) AS key,
       ARRAY(SELECT format_type(coalesce(nullif(t.typbasetype, 0), t.oid),
                                CASE WHEN t.typbasetype = 0 THEN a.atttypmod ELSE t.typtypmod END)
               FROM unnest(c.confkey || c.conkey) WITH ORDINALITY u (number, place)
               JOIN pg_attribute a ON a.attnum = u.number AND a.attrelid =
                    CASE WHEN u.place <= cardinality(c.confkey) THEN c.confrelid ELSE c.conrelid END
               JOIN pg_type t ON t.oid = a.atttypid ORDER BY u.place) AS types,
       (SELECT bool_and(f.attcollation = p.attcollation) FROM ROWS FROM (unnest(c.conkey), unnest(c.confkey)) u (f, p)
          JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = u.f
          JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = u.p) AS collated_alike,
       EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.conrelid AND x.indisvalid AND x.indpred IS NULL
                AND (x.indkey::int2[])[0 : cardinality(c.conkey) - 1] @> c.conkey) AS indexed
  FROM pg_constraint c JOIN pg_class r ON r.oid = c.confrelid JOIN pg_namespace n ON n.oid = r.relnamespace
 WHERE c.conrelid = %(oid)s AND c.contype = 'f' AND c.conparentid = 0
 ORDER BY r.relname, c.conname
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key."""

    name: str
    table: TableName
    """That it refers to."""
    oid: int
    """Of that table."""
    columns: tuple[str, ...]
    column_oids: tuple[int, ...]
    """Oids of the types of ``columns``."""
    key: tuple[str, ...]
    """The columns that it refers to, in the same order."""
    key_types: tuple[str, ...]
    indexed: bool
    """An index serves to find the rows that refer to a given one."""
    obstacle: str
    """Why a text cannot be found by it; empty where it can."""


def references(conn: Connection[Any], oid: int) -> tuple[Reference, ...]:
    """The foreign keys of a table."""
    return tuple(
        Reference(
            row["name"],
            TableName(row["schema"], row["relation"]),
            row["oid"],
            tuple(row["columns"]),
            tuple(row["column_oids"]),
            tuple(row["key"]),
            tuple(row["types"][: len(row["key"])]),
            row["indexed"],
            _obstacle(row),
        )
        for row in read_all(conn, _REFERENCES, {"oid": oid})
    )


def _obstacle(row: dict[str, Any]) -> str:
    if row["to_itself"]:
        return "it refers to the table itself"
    if not row["plain"]:
        return "what it refers to is partitioned, or a partition: rows that move between partitions could not be told"
    if not row["enforced"]:
        return "it is not valid, so there may be rows that refer to none: ALTER TABLE … VALIDATE CONSTRAINT first"
    if row["period"]:
        return "it goes by a period of time: several rows have the text"
    if not row["builtin"] or not row["collated_alike"]:
        return "its columns are of a type that is not PostgreSQL's own, or of two collations"
    return ""
