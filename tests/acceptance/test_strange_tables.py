"""Hostile content and names: nothing reaches terminal, SQL or log unescaped, and no secret reaches anything."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import FaultKind, LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.errors import DatabaseError, EmbedtuiError
from embedtui.model import Event, Phase
from embedtui.postgres.connect import redact
from tests.kits.cli_kit import InProcess
from tests.kits.support import connect, make_documents, settings_for

TEXTS = {
    1: "[/] [bold red]markup[/] [link=file:///etc/passwd]x[/link] [@click=app.quit]quit[/]",
    2: "\x1b[2J\x1b]0;title\x07\x1b[31mred\x9b1m and \r\n over",
    3: "\u202eright to left\u202c, zero\u200bwidth\u2060, \ufeffmark",
    4: "'; DROP TABLE documents; -- %s %(x)s {} {0} $1 \\copy \\N",
    5: "\U0001f9ea e\u0301 \u4f60\u597d " * 50,
}


def harmless(text: str) -> bool:
    return not any(
        (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202e\u200b\u2060\ufeff" for c in text
    )


@pytest.mark.parametrize("placement", ["column", "table"])
def test_hostile_texts_are_embedded_as_they_are_and_told_without_harm(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    placement: str,
) -> None:
    make_documents(database, 0)
    with psycopg.connect(database, autocommit=True) as conn:
        for number, text in TEXTS.items():
            conn.execute("INSERT INTO documents (id, content) VALUES (%s, %s)", [number, text])
        conn.execute("INSERT INTO documents (id, content) SELECT 6, repeat('ten megabytes ', 750000)")
    events: list[Event] = []
    settings = settings_for(database, api, tmp_path, {"placement": placement})
    engine = Engine(database, settings=settings, on_event=events.append)
    api.faults.add(FaultKind.REJECTED, containing="title\x07")
    snapshot = engine.run(threading.Event())
    assert snapshot.phase is Phase.VALIDATE
    faults = {fault.key: fault for fault in engine.faults()}
    assert set(faults) == {("2",), ("6",)}, "the ten megabytes are told without being sent"
    assert faults["6",].reason.startswith("10,500,000 characters: more than"), "not the provider's words"
    assert max(map(len, api.texts)) < 10_000
    assert all(harmless(event.text) for event in events)
    with psycopg.connect(database) as conn:
        column = "embedding_v2" if placement == "column" else "v.embedding"
        source = "documents" if placement == "column" else "documents JOIN documents_embedding_v2 v USING (id)"
        rows = conn.execute(f"SELECT id, content, {column}::real[] FROM {source} WHERE id <= 5 AND id <> 2").fetchall()
        assert len(rows) == 4
        for number, content, vector in rows:
            assert content == TEXTS[number]
            assert np.allclose(vector, hash_model(16)([content], None)[0], atol=1e-6)
    engine.truncate_faults([faults["6",].id])
    engine.run(threading.Event())
    assert engine.verify().embedded == 5
    engine.close()
    shell = InProcess(tmp_path, {"DATABASE_URL": database}, monkeypatch, capsys)
    for command in (("faults",), ("status",), ("log",)):
        told = shell(*command)
        assert harmless(told.out + told.err) and "\x1b" not in told.out


HOSTILE = 'bad"; DROP TABLE x; -- [/]%s{}\x1b[31m'


@pytest.mark.parametrize("placement", ["column", "table"])
def test_hostile_names_are_quoted_everywhere(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        name = psycopg.sql.Identifier(HOSTILE)
        conn.execute(
            psycopg.sql.SQL("CREATE TABLE {0} ({0} text PRIMARY KEY, body text, embedding vector(8))").format(name)
        )
        one, two = ([float(x) for x in vector] for vector in hash_model(8)(["one", "two"], None))
        conn.execute(
            psycopg.sql.SQL("INSERT INTO {} VALUES ('a''b%s', 'one', {}::real[]), ('[/]', 'two', {}::real[])").format(
                name, one, two
            )
        )
        flags = {
            "placement": placement,
            "table": '"' + HOSTILE.replace('"', '""') + '"',
            "content": ("body",),
            "name": "hostile",
        }
        engine = Engine(database, settings=settings_for(database, api, tmp_path, flags))
        engine.run(threading.Event())
        conn.execute(psycopg.sql.SQL("UPDATE {} SET body = 'edited ' || body").format(name))
        engine.run(threading.Event())
        report = engine.verify(sample=2)
        assert report.clean and report.embedded == 2
        assert len(engine.compare().queries) == 2
        engine.cutover(override={"gate": "test"})
        engine.rollback()
        engine.close()


def test_a_new_index_is_not_called_like_the_side_table(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 10)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE INDEX documents_embedding ON documents USING hnsw (embedding vector_cosine_ops)")
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {"placement": "table"}))
    assert engine.run(threading.Event()).index.valid
    engine.close()


SECRETS = ("s3cr3t-pass", "sk-abcdef1234567890")


def test_no_secret_is_told_by_errors_tracebacks_log_or_audit(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_documents(database, 10)
    password, key = SECRETS
    events: list[Event] = []
    engine = Engine(
        database, settings=settings_for(database, api, tmp_path, OPENAI_API_KEY=key), on_event=events.append
    )
    with pytest.raises(EmbedtuiError) as caught:
        engine.run(threading.Event())
    told = [str(caught.value), *(event.text for event in events), repr(caught.value)]
    engine.close()
    # from prepare on, the same key in the log and the state
    mended = Engine(database, settings=settings_for(database, api, tmp_path))
    mended.prepare()
    mended.pause(f"because of postgresql://u:{password}@h/db and {key}")
    told += [entry.detail for entry in mended.audit()] + [repr(mended.snapshot())]
    mended.close()
    bad = f"postgresql://user:{password}@127.0.0.1:1/nowhere"
    with pytest.raises(DatabaseError) as unreachable:
        connect(bad, name="test", connect_timeout=2)
    told += [str(unreachable.value), repr(unreachable.value)]
    shell = InProcess(tmp_path, {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": api.base_url}, monkeypatch, capsys)
    for dsn in (bad, f"host=127.0.0.1 port=1 password='{password}' dbname=x", f"postgresql://user:{password}@[bad/x"):
        result = shell("status", DATABASE_URL=dsn, EMBEDTUI_DEBUG="1")
        assert result.code != 0
        told += [result.out, result.err]
    everything = "\n".join(told)
    assert password not in everything
    assert key not in everything


def test_redaction_knows_every_way_a_secret_is_written() -> None:
    for text in (
        "postgresql://u:hush@h/d",
        "postgres://u:hush%40x@h/d?sslmode=require",
        "host=h password=hush user=u",
        "password = 'hu sh hush' host=h",
        "postgresql://h/d?user=u&password=hush",
        "Authorization: Bearer hush-hush",
        json.dumps({"error": "Incorrect API key provided: sk-proj-hush1234567."}),
    ):
        assert "hush" not in redact(text), text


def test_what_is_logged_or_stored_as_a_reason_drives_no_terminal() -> None:
    for text in TEXTS.values():
        assert harmless(redact(text)), text
    assert redact(TEXTS[1]) == TEXTS[1], "markup is left alone: it is shown as plain text"
