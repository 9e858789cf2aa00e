"""Settings of a database or role under which literals, keys and statements mean something else: never to us."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.postgres.connect import connect
from tests.kits.support import make_documents, settings_for

ODD = {
    "literals with backslashes": ("standard_conforming_strings = off",),
    "functions that raise": ("plpgsql.extra_errors = 'all'", "plpgsql.variable_conflict = use_column"),
    "arrays, nulls and plans": (
        "array_nulls = off",
        "transform_null_equals = on",
        "plan_cache_mode = force_generic_plan",
    ),
    "short time-outs": ("idle_session_timeout = '200ms'", "lock_timeout = '5ms'"),
}


@pytest.mark.parametrize("placement", ["column", "table"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_settings_of_a_database_change_nothing(
    database: str, api: LoopbackServer, tmp_path: Path, odd: str, placement: str
) -> None:
    make_documents(database, 30, text=r"a \n {n} \'s text", index=True)
    scope = r"content ~ '\sx?\d+\s' OR content = 'C:\new\'"
    with psycopg.connect(database, autocommit=True) as conn:
        for setting in ODD[odd]:
            conn.execute(f"ALTER DATABASE {conn.info.dbname} SET {setting}")
    with closing(
        Engine(database, settings=settings_for(database, api, tmp_path, {"placement": placement, "scope": scope}))
    ) as engine:
        engine.run(threading.Event())
        assert engine.verify().embedded == 30
        with psycopg.connect(database, autocommit=True) as conn:  # one that has the settings
            conn.execute(r"UPDATE documents SET content = content || ' ' || id || E'\\ d' WHERE id <= 10")
            conn.execute(r"INSERT INTO documents (id, content) VALUES (99, E'C:\\new\\')")
        engine.run(threading.Event())
        report = engine.verify(sample=40)
        assert report.clean and report.embedded == report.sampled == 31


def test_no_time_out_of_the_role_ends_a_session_that_waits(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        newer = conn.info.server_version >= 170000
        names = ["idle_session_timeout", "statement_timeout", *(["transaction_timeout"] if newer else [])]
        for name in names:
            conn.execute(f"ALTER DATABASE {conn.info.dbname} SET {name} = '300ms'")
    with connect(database, name="test") as ours:
        time.sleep(0.5)
        with ours.transaction():
            ours.execute("SELECT pg_catalog.pg_sleep(0.5)")
