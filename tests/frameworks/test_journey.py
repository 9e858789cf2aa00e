"""The whole way with tables that real libraries made, while rows are written as the library writes them."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.presets.checks import text_sql
from embedtui.model import Phase, Side
from embedtui.postgres.catalog.inspect import inspect_table
from embedtui.postgres.names import relation
from tests.frameworks.test_presets import MADE_BY, NAMES, TABLES, load
from tests.kits.support import connect, settings_for, vector_literal

NEW_TEXTS = ("Bread is baked at five.", "The library closes at noon on Sundays.")


def written_again(name: str, text: str, former: str, key: str) -> str:
    """The library's own INSERT of a row, with another key and text."""
    recorded = (TABLES / f"{name}.sql").read_text()
    statement = next(
        each for each in re.findall(r"^INSERT INTO .*?\);$", recorded, re.MULTILINE | re.DOTALL) if former in each
    )
    old_key = re.search(r'"key": \["([^"]+)"\], "text": "(?:[^"]*\\n\\n)?' + re.escape(former), recorded)
    assert old_key is not None
    return statement.replace(former, text).replace(f"'{old_key[1]}'", f"'{key}'", 1)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("langchain_pgvector", "11111111-1111-4111-8111-11111111111"),
        ("langchain_pgvectorstore", "11111111-1111-4111-8111-11111111111"),
        ("mem0", "11111111-1111-4111-8111-11111111111"),
        ("haystack", "another-"),
        ("llama_index", "90"),
    ],
)
def test_a_librarys_table_goes_the_whole_way(
    database: str, api: LoopbackServer, tmp_path: Path, name: str, key: str
) -> None:
    preset = NAMES[str(MADE_BY[name])]
    with connect(database) as conn:
        recorded = load(conn, name)
        facts = inspect_table(conn, recorded.table, None)
        table = relation(facts.table).as_string(conn)
        flags: dict[str, object] = {"table": recorded.table, "placement": "column", "accept": []}
        text_of = preset.content[0] if preset.content else text_sql(facts, preset)
        if preset.function:
            conn.execute(preset.function.replace("{schema}", "public"))  # type: ignore[arg-type]
            flags["content_sql"] = text_of
        # as if the old model had made them: the recorder numbered its texts
        for found, text in recorded.texts.items():
            vector = vector_literal(hash_model(8)([text], None)[0])
            conn.execute(
                sql.SQL("UPDATE {} SET {} = {} WHERE {}::text = {}").format(
                    relation(facts.table),
                    sql.Identifier(preset.vector),
                    vector,
                    sql.Identifier(preset.key[0]),
                    found[0],
                )
            )
    settings = settings_for(database, api, tmp_path, flags)
    with connect(database, read_only=True) as conn:
        checks = {check.name: check for check in make_plan(conn, settings, check_provider=True).checks}
    proof = checks["proof"]
    assert "fail" not in {check.result for check in checks.values()}, checks
    # of LlamaIndex's five texts one cannot be made
    assert (proof.result, "4 of 5" in proof.detail) == (("warn", True) if name == "llama_index" else ("pass", False))
    engine = Engine(database, settings=settings)

    def write(text: str, place: int) -> None:
        with psycopg.connect(database, autocommit=True) as application:
            application.execute(written_again(name, text, "Refunds are paid within five days.", f"{key}{place}"))  # type: ignore[arg-type]

    def all_new() -> bool:
        with psycopg.connect(database) as reading:
            query = f'SELECT {text_of}, "{migration.new_column}"::real[] FROM {table}'
            rows = reading.execute(query).fetchall()  # type: ignore[arg-type]
        return all(
            vector is not None and np.allclose(vector, hash_model(16)([text], None)[0], atol=1e-5)
            for text, vector in rows
        )

    migration = engine.prepare()
    write(NEW_TEXTS[0], 1)
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert all_new()
    engine.compare()
    passed = {"gate": "a few rows"}
    if name == "langchain_pgvectorstore":  # whose column is NOT NULL: it always writes both columns, or the old one
        passed["not_null"] = "the library writes the old column"
    engine.cutover(override=passed)
    write(NEW_TEXTS[1], 2)
    engine.run(threading.Event())
    assert all_new()
    engine.rollback()
    assert engine.snapshot().route.active is Side.OLD
    engine.cutover(override=passed)
    engine.close()
