"""The whole way of a table while the real library that made it writes: init, plan, run, compare, both flips, cleanup.

At its end every row has the new model's vector of the very text that the library had embedded, and no row of another
collection has been written. What is not installed is skipped; see ``test_libraries.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from psycopg import sql

from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.presets.frameworks import LLAMA_INDEX_TEXT
from embedtui.errors import Interrupted
from embedtui.model import Phase, Side
from tests.frameworks.libraries import DIMENSIONS, LIBRARIES
from tests.frameworks.test_presets import MADE_BY, NAMES
from tests.kits.cli_kit import InProcess
from tests.kits.support import NEW, OLD, connect, wait_for

old_vectors, new_vectors = hash_model(DIMENSIONS), hash_model(16)
OVERRIDE = dict.fromkeys(("gate", "not_null", "soak", "listeners", "sync", "queue"), "test")


class Embedded:
    """The old model, which remembers what it was asked."""

    def __init__(self) -> None:
        self.texts: dict[bytes, str] = {}

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        found = old_vectors(list(texts), None).astype(np.float32)
        self.texts |= {vector.tobytes(): text for vector, text in zip(found, texts, strict=True)}
        return [vector.tolist() for vector in found]

    def text(self, stored: Sequence[float]) -> str:
        return self.texts[np.array(stored, np.float32).tobytes()]


class Writing:
    """The library adds a text again and again."""

    def __init__(self, add: Callable[[str], object]) -> None:
        self.add, self.count, self.failed, self.stop = add, 0, list[str](), threading.Event()
        self.thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self.stop.wait(0.05):
            try:
                self.add(f"The {self.count}th text that was added.")
                self.count += 1
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}"[:300])

    def __enter__(self) -> Writing:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def some_more(self) -> None:
        before = self.count
        wait_for(lambda: self.failed or self.count > before + 2, "nothing is written")
        assert not self.failed


def flags_of(dsn: str, name: str) -> tuple[list[str], str]:
    """What `init` is told beside the table and the models, and the condition of rows that are not to be touched."""
    with connect(dsn) as conn:
        if name == "llama_index":
            conn.execute(LLAMA_INDEX_TEXT.replace("{schema}", "public"))  # type: ignore[arg-type]
            return ["--content-sql", "public.llama_index_text(text, metadata_::json)"], "false"
        if name == "langchain_pgvector":
            row = conn.execute("SELECT uuid::text FROM langchain_pg_collection WHERE name = 'handbook'").fetchone()
            assert row is not None
            return ["--where", f"collection_id = '{row[0]}'"], f"collection_id <> '{row[0]}'"
    return (["--content", "body"] if name == "django" else []), "false"


def untouched(dsn: str, table: str, columns: Sequence[str], condition: str) -> list[tuple[object, ...]]:
    with connect(dsn) as conn:
        return conn.execute(
            sql.SQL("SELECT ctid, xmin, ROW({})::text FROM {} WHERE {} ORDER BY 1").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(table), sql.SQL(condition)
            )
        ).fetchall()


@pytest.mark.filterwarnings("ignore")  # what a library leaves open is its own affair
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_whole_way_while_the_library_writes(
    name: str,
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    distribution, work = LIBRARIES[name]
    embedded = Embedded()
    try:
        version(distribution)
        table, add = work(database, embedded)
    except (PackageNotFoundError, ImportError) as missing:
        pytest.skip(f"{distribution} is not installed: {missing}")
    preset = NAMES.get(str(MADE_BY[name]))
    vector, unlike = (preset.vector, preset.unlike) if preset else ("embedding", "")
    told, others = flags_of(database, name)
    with connect(database) as conn:
        columns = [
            column
            for (column,) in conn.execute(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", [table]
            )
        ]
    before = untouched(database, table, columns, others)

    environ = {"DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
    shell = InProcess(tmp_path, environ, monkeypatch, capsys)
    models = ["--old-model", OLD, "--new-model", NEW, "--dimensions", "16", "--placement", "column"]
    done = shell("init", "--table", table, *models, *told)
    assert done.code == 0, done.err
    settings = load_settings({}, environ=environ, cwd=tmp_path)
    with closing(Engine(database, None, settings)) as engine, Writing(add) as writing:
        with connect(database, read_only=True) as conn:
            checks = make_plan(conn, settings, check_provider=True).checks
        assert [check for check in checks if check.result == "fail"] == []
        stop, ended = threading.Event(), list[BaseException]()
        following = threading.Thread(target=_follow, args=(engine, stop, ended))
        following.start()
        wait_for(lambda: ended or _phase(engine) is Phase.VALIDATE, "no index")
        writing.some_more()
        engine.compare()
        for act in (lambda: engine.cutover(override=OVERRIDE), engine.rollback):
            act()
            writing.some_more()
        engine.cutover(override=OVERRIDE)
        writing.some_more()
        writing.stop.set()
        writing.thread.join()
        wait_for(lambda: ended or engine.snapshot().sync.queued == 0, "the queue is worked off")
        assert engine.snapshot().route.active is Side.NEW
        ours = f"NOT ({others})" + (f" AND NOT ({unlike})" if unlike else "")
        texts = _texts(database, table, _key(name), vector, ours, embedded)
        if others == "false":
            engine.cleanup(table.rpartition(".")[2], override=OVERRIDE)
            column = vector
        else:
            engine.cleanup(table, override=OVERRIDE, keep_old=True, rename=False)
            column = engine.require().new_column
        stop.set()
        following.join()
    assert not writing.failed
    assert not ended
    assert len(texts) > writing.count >= 9
    with connect(database) as conn:
        rows = conn.execute(
            sql.SQL("SELECT {}, t.{}::real[] FROM {} t").format(_key(name), sql.Identifier(column), sql.SQL(table))
        ).fetchall()
    found = dict(rows)
    for key, text in texts.items():
        np.testing.assert_allclose(found[key], new_vectors([text], None)[0], atol=1e-5)
    assert others == "false" or untouched(database, table, columns, others) == before


def _key(name: str) -> sql.Composed:
    preset = NAMES.get(str(MADE_BY[name]))
    columns = sql.SQL(", ").join(map(sql.Identifier, preset.key if preset else ("id",)))
    return sql.SQL("concat_ws('/', {})").format(columns)


def _phase(engine: Engine) -> Phase | None:
    migration = engine.snapshot().migration
    return migration.phase if migration else None


def _texts(dsn: str, table: str, key: sql.Composed, vector: str, condition: str, embedded: Embedded) -> dict[str, str]:
    """By the row's key: the text of which the library stored the old vector."""
    with connect(dsn) as conn:
        rows = conn.execute(
            sql.SQL("SELECT {}, {}::real[] FROM {} WHERE {}").format(
                key, sql.Identifier(vector), sql.SQL(table), sql.SQL(condition)
            )
        ).fetchall()
    return {found: embedded.text(stored) for found, stored in rows}


def _follow(engine: Engine, stop: threading.Event, ended: list[BaseException]) -> None:
    try:
        engine.run(stop, follow=True)
    except Interrupted:
        pass
    except BaseException as error:
        ended.append(error)
