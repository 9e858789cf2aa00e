"""Output files of batch jobs with faults in any combination: each row embedded rightly, each answer counted once."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.api.batches import Order
from embedtui.engine import Engine
from embedtui.engine.backfill.batch.filling import LINE_INPUTS
from embedtui.providers.replies import plausible_tokens
from tests.kits.support import make_documents, settings_for

ROWS = 700
TEXT = "row {n} " + "x" * 60
EXAMPLES = int(os.environ.get("EMBEDTUI_BATCH_FILES", "5"))
_numbers = itertools.count(1)

Line = dict[str, Any]


def _body(line: Line) -> Line:
    body = (line.get("response") or {}).get("body")
    return body if isinstance(body, dict) else {}


def wrong_status(line: Line) -> None:
    line["response"] = {"status_code": 503, "body": {"error": {"message": "overloaded"}}}


def refused(line: Line) -> None:
    line["response"] = {"status_code": 400, "body": {"error": {"message": "row 3 is bad"}}}


def no_response(line: Line) -> None:
    line["response"], line["error"] = None, {"code": "batch_expired"}


def another_id(line: Line) -> None:
    line["custom_id"] = f"other-{line.get('custom_id')}"


def beyond(line: Line) -> None:
    line["custom_id"] = f"{str(line.get('custom_id')).rpartition('-')[0]}-{10**8}"


def short_vector(line: Line) -> None:
    for item in _body(line).get("data", [])[:1]:
        item["embedding"] = str(item["embedding"])[4:]


def zero_vector(line: Line) -> None:
    for item in _body(line).get("data", [])[-1:]:
        item["embedding"] = [0.0] * 16


def fewer(line: Line) -> None:
    if "data" in _body(line):
        _body(line)["data"].pop()


def same_index(line: Line) -> None:
    for item in _body(line).get("data", []):
        item["index"] = 0


def no_usage(line: Line) -> None:
    _body(line).pop("usage", None)


def mad_usage(line: Line) -> None:
    _body(line)["usage"] = {"total_tokens": 10**30}


ONE = (
    wrong_status, refused, no_response, another_id, beyond, short_vector, zero_vector, fewer, same_index, no_usage,
    mad_usage,
)  # fmt: skip
MANY = ("drop", "double", "cut", "garbage", "last first")

Fault = tuple[int, "str | Callable[[Line], None]"]


def spoiled(faults: list[Fault], lines: list[bytes]) -> list[bytes]:
    for place, fault in faults:
        if not lines:
            return lines
        at = place % len(lines)
        if callable(fault):
            try:
                line = json.loads(lines[at])
            except ValueError:
                continue
            fault(line)
            lines[at] = json.dumps(line).encode()
        else:
            cut = lines[at][: place % (len(lines[at]) + 1)]
            lines = {
                "drop": [*lines[:at], *lines[at + 1 :]],
                "double": [*lines, lines[at]],
                "cut": [*lines[:at], cut, *lines[at + 1 :]],
                "garbage": [*lines[:at], b"\xff<html>\x00", *lines[at:]],
                "last first": lines[::-1],
            }[fault]
    return lines


def counted(files: list[list[bytes]], rows: dict[str, list[str]]) -> int:
    """Tokens that these output files say were paid, by the first good line of each id."""
    total = 0
    seen: set[str] = set()
    for raw in itertools.chain(*files):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        response, name = line["response"] or {}, line["custom_id"]
        if response.get("status_code") != 200 or name in seen or name not in rows:
            continue
        seen.add(name)
        size = sum(len(text.encode()) for text in rows[name])
        usage = response["body"].get("usage", {}).get("total_tokens")
        told = plausible_tokens(usage, len(rows[name]), size)
        total += size // 4 + len(rows[name]) if told is None else told
    return total


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from([*ONE, *MANY])), max_size=6), max_size=2))
def test_whatever_the_output_says_each_row_is_embedded_and_each_answer_counted_once(
    database: str, api: LoopbackServer, tmp_path: Path, plans: list[list[Fault]]
) -> None:
    table = f"documents_{next(_numbers)}"
    make_documents(database, ROWS, table=table, text=TEXT)
    files: list[list[bytes]] = []

    def order(faults: list[Fault]) -> Order:
        def spoil(lines: list[bytes]) -> list[bytes]:
            files.append(spoiled(faults, lines))
            return files[-1]

        return Order(spoil=spoil)

    api.batches.orders.clear()
    api.batches.orders += [order(faults) for faults in plans] + [order([]) for _ in range(20)]
    rows: dict[str, list[str]] = {}
    keep = api.batches._validate

    def validate(job: Any) -> None:
        rows.update({line["custom_id"]: line["body"]["input"] for line in api.batches._lines(job)})
        keep(job)

    api.batches._validate = validate  # type: ignore[method-assign]
    flags = {"table": table, "new_model.batch": True, "new_model.batch_inputs": 500, "old_model.retired": True}
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {**flags, "index.method": "none"}))
    try:
        snapshot = engine.run(threading.Event())
    finally:
        engine.close()
        api.batches._validate = keep  # type: ignore[method-assign]
    with psycopg.connect(database) as conn:
        found = conn.execute(f"SELECT content, embedding_v2::real[] FROM {table}").fetchall()
    want = hash_model(16)([content for content, _ in found], None)
    assert np.allclose(np.array([vector for _, vector in found]), want, atol=1e-5)
    assert snapshot.batch.tokens == counted(files, rows)
    assert snapshot.faulty == 0
    paid = sum(map(len, rows.values()))
    assert paid <= ROWS + LINE_INPUTS * sum(map(len, plans))
