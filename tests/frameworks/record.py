"""Records what the installed libraries issue, as the fixtures of ``test_presets.py``.

Run it with the libraries installed and a database server with pgvector that may be filled with scratch databases:
``python -m tests.frameworks.record 'host=… user=postgres dbname=postgres' [NAME …]``. It writes ``tables/NAME.sql``:
the library's own statements, its rows, and as comments the text that it had embedded for each row.
"""

from __future__ import annotations

import datetime
import json
import sys
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.frameworks.libraries import LIBRARIES, Recorder, issued, watch

TABLES = Path(__file__).parent / "tables"


def rows_of(conn: psycopg.Connection, oid: int, table: str) -> list[str]:
    """A table's rows as INSERT statements; generated columns are left to it."""
    names = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' ORDER BY attnum",
        [oid],
    ).fetchall()
    columns = sql.SQL(", ").join(sql.Identifier(name) for (name,) in names)
    values = sql.SQL(" || ', ' || ").join(
        sql.SQL("quote_nullable({}::text)").format(sql.Identifier(n)) for (n,) in names
    )
    rows = conn.execute(sql.SQL("SELECT {} FROM {} ORDER BY 1").format(values, sql.SQL(table)))
    return [f"INSERT INTO {table} ({columns.as_string(conn)}) VALUES ({row});" for (row,) in rows]


def record(dsn: str, name: str) -> None:
    """Let a library work in a database of its own and write down what it did."""
    distribution, work = LIBRARIES[name]
    scratch = f"recorded_{name}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {scratch} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {scratch}")
    mine = make_conninfo(dsn, dbname=scratch)
    watch(mine)
    recorder = Recorder()
    table, _ = work(mine, recorder)
    with psycopg.connect(mine, autocommit=True) as conn:
        key, vector = conn.execute(
            "SELECT ARRAY(SELECT a.attname::text FROM pg_index x, unnest(x.indkey::int2[]) WITH ORDINALITY k (n, p)"
            " JOIN pg_attribute a ON a.attnum = n WHERE x.indrelid = c.oid AND a.attrelid = c.oid AND x.indisprimary"
            " ORDER BY p),"
            " (SELECT a.attname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
            "  WHERE a.attrelid = c.oid AND t.typname = 'vector')"
            " FROM pg_class c WHERE c.oid = %s::regclass",
            [table],
        ).fetchone()
        first = sql.SQL("split_part(trim('[' from {}::text), ',', 1)").format(sql.Identifier(vector))
        keys = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(each)) for each in key)
        texts = [
            f"-- embedded: {json.dumps({'key': list(found), 'text': recorder.texts[number]}, ensure_ascii=False)}"
            for number, *found in conn.execute(sql.SQL("SELECT {}, {} FROM {}").format(first, keys, sql.SQL(table)))
        ]
        others = conn.execute(
            "SELECT oid::int8, oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace IN"
            " (SELECT oid FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%%'"
            "  AND nspname NOT IN ('information_schema', 'watching'))"
            " ORDER BY EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.conrelid = pg_class.oid), 1"
        ).fetchall()
        inserts = [line for number, other in others for line in rows_of(conn, number, other)]
    statements = [each for each in issued(mine) if "CREATE EXTENSION" not in each]
    head = [
        f"-- {distribution} {version(distribution)}, {datetime.date.today().isoformat()}: its own statements and rows,"
        " recorded by tests/frameworks/record.py.",
        f"-- table: {table}",
    ]
    body = [each + ";" for each in statements]
    TABLES.joinpath(f"{name}.sql").write_text("\n".join([*head, *texts, *body, *inserts]) + "\n")


if __name__ == "__main__":
    for chosen in sys.argv[2:] or LIBRARIES:
        record(sys.argv[1], chosen)
        sys.stdout.write(f"{chosen}\n")
