"""The real libraries, where they are installed: their tables today are still known, and their texts still theirs.

``pip install langchain-postgres llama-index-vector-stores-postgres pgvector-haystack mem0ai agno django pgvector
langgraph-checkpoint-postgres psycopg2-binary``, then ``pytest tests/frameworks/test_libraries.py``.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import psycopg
import pytest

from embedtui.engine.plan.presets import recognise
from embedtui.postgres.catalog.inspect import inspect_table
from tests.frameworks.libraries import LIBRARIES, Recorder
from tests.frameworks.test_presets import MADE_BY, Recorded, texts_of
from tests.kits.support import connect


@pytest.mark.filterwarnings("ignore")  # what a library leaves open is its own affair
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_library_itself(database: str, name: str) -> None:
    distribution, work = LIBRARIES[name]
    try:
        version(distribution)
        recorder = Recorder()
        table, _ = work(database, recorder)
    except (PackageNotFoundError, ImportError) as missing:
        pytest.skip(f"{distribution} is not installed: {missing}")
    with connect(database) as conn:
        found = recognise(inspect_table(conn, table, None))
        assert (found.name if found else None) == MADE_BY[name]
        if found is None or found.refused:
            return
        made = texts_of(conn, Recorded(table, {}), found)
        first = psycopg.sql.SQL("split_part(trim('[' from {}::text), ',', 1)").format(
            psycopg.sql.Identifier(found.vector)
        )
        keys = psycopg.sql.SQL(", ").join(
            psycopg.sql.SQL("{}::text").format(psycopg.sql.Identifier(key)) for key in found.key
        )
        query = psycopg.sql.SQL("SELECT {}, ARRAY[{}] FROM {}").format(first, keys, psycopg.sql.SQL(table))
        embedded = {tuple(key): recorder.texts[number] for number, key in conn.execute(query)}
        assert made == {key: text for key, text in embedded.items() if key in made}
        assert len(made) >= 3
