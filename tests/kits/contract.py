"""The contract of a provider: whatever it does, all rows get their vectors, and no innocent row is blamed.

Used by the suite (short form) and by `python -m benchmarks.contract` (each fault of its own).
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from embedtui.config import load_settings
from embedtui.demo.api import MANNERS, FaultKind, LoopbackServer, Manners, hash_model
from embedtui.engine import Engine
from embedtui.model import Phase
from tests.kits.support import NEW, OLD, make_documents

WIDTH = 16
PASSING: Sequence[tuple[FaultKind, Mapping[str, Any]]] = (
    (FaultKind.RATE_LIMITED, {"retry_after": 0.05}),
    (FaultKind.SERVER_ERROR, {}),
    (FaultKind.UNAVAILABLE, {"status": 424}),
    (FaultKind.RESET, {}),
    (FaultKind.HANG, {"seconds": 0.05}),
    (FaultKind.HALF_REPLY, {}),
    (FaultKind.NOT_JSON, {}),
    (FaultKind.NO_DATA, {}),
    (FaultKind.FEWER, {}),
    (FaultKind.DUPLICATE_INDEX, {}),
    (FaultKind.NAN, {}),
    (FaultKind.ZERO, {}),
    (FaultKind.SHUFFLED, {}),
    (FaultKind.FLOATS, {}),
    (FaultKind.NO_USAGE, {}),
)
"""What a provider does once, and not again."""
GUILTY = (400, 422, 500)
"""Statuses with which a text of its own is refused, always."""


@dataclass(frozen=True)
class Case:
    """What a provider is told to do."""

    name: str
    passing: Sequence[tuple[FaultKind, Mapping[str, Any]]] = ()
    """Each once, at a request of its own."""
    guilty: Sequence[int] = ()
    """Statuses, each always, for a row of its own."""
    most: int | None = None
    """Fewer texts a request than it documents."""
    settings: Mapping[str, object] = field(default_factory=dict)


SMALL = {"new_model.max_inputs": 4, "pacing.max_concurrency": 2}
CLEAN = Case("clean")
LIMITS = Case("limits", most=10)
FAULTS = Case("faults", PASSING, GUILTY, settings=SMALL)


def each_fault() -> Iterator[Case]:
    """The long form."""
    yield CLEAN
    for most in (1, 10, 16):
        yield Case(f"{most} texts a request", most=most)
    for kind, options in PASSING:
        yield Case(kind.value, ((kind, options),) * 3, settings=SMALL)
    for status in (400, 403, 413, 422, 424, 500):
        yield Case(f"a text refused with {status}", guilty=(status,), settings=SMALL)
    yield FAULTS


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    provider: str
    case: str
    rows: int
    wrong: tuple[str, ...]
    """What breaks the contract."""
    requests: int
    refused: int
    """Requests answered with 400, 413 or 422."""
    vain: float
    """Share of the computed texts that were computed for nothing."""

    def __str__(self) -> str:
        broken = f"  {'; '.join(self.wrong)}" if self.wrong else ""
        return (
            f"{self.provider:9} {self.case:26} {self.rows:5} rows {self.requests:4} requests {self.refused:3} refused"
            f" {self.vain:6.1%} in vain{broken}"
        )


def fulfil(dsn: str, provider: str, case: Case, folder: Path, *, rows: int = 60, table: str = "documents") -> Outcome:
    """Migrate a table of its own to a model at this provider's server, and look at every row."""
    make_documents(dsn, rows, table=table, text="document {n} of many.")
    manners: Manners = MANNERS[provider]
    if case.most is not None:
        manners = replace(manners, most=min(case.most, manners.most))
    guilty = {str(11 + 7 * number): status for number, status in enumerate(case.guilty)}
    with LoopbackServer({NEW: hash_model(WIDTH)}, manners=manners) as api:
        flags = {
            "table": table,
            "placement": "table",
            "old_model.name": OLD,
            "old_model.retired": True,
            "new_model.name": NEW,
            "new_model.dimensions": WIDTH,
            "new_model.provider": provider,
            "new_model.base_url": api.base_url,
            "new_model.key_variable": "K",
            "index.method": "none",
            **case.settings,
        }
        settings = load_settings(flags, environ={"DATABASE_URL": dsn, "K": api.key}, cwd=folder)
        with closing(Engine(dsn, settings=settings)) as engine:
            engine.prepare()
            with psycopg.connect(dsn) as conn:  # what an earlier case has taught is not to help this one
                conn.execute("UPDATE embedtui.model SET learnt_inputs = NULL, learnt_tokens = NULL")
            # first: a request meets one fault, and these are always met
            for key, status in guilty.items():
                api.faults.add(FaultKind.REJECTED, containing=f"document {key} of", status=status)
            for number, (kind, options) in enumerate(case.passing):
                # every other request meets one, whatever the order in which the table is read
                api.faults.add(kind, times=1, predicate=_once_after(api, 2 + 2 * number), **options)
            phase = engine.run(threading.Event()).phase
            blamed = {row.key[0] for row in engine.faults()}
            left = [fault.kind.value for fault in api.faults.active if fault.times]
        wrong = [] if phase is Phase.VALIDATE else [f"it ended in phase {phase}"]
        wrong += [f"never met: {', '.join(left)}"] if left else []
        if blamed != set(guilty):
            wrong.append(f"blamed {sorted(blamed)}, guilty {sorted(guilty)}")
        stored = _stored(dsn, table)
        expected = hash_model(WIDTH)([f"document {n} of many." for n in range(1, rows + 1)], WIDTH)
        for number in range(1, rows + 1):
            found = stored.get(str(number))
            if (found is None) != (str(number) in guilty):
                wrong.append(f"row {number} has {'no' if found is None else 'a'} vector")
            elif found is not None and not np.allclose(found, expected[number - 1], atol=1e-5):
                wrong.append(f"row {number} has another's vector")
        vain = max(0, api.inputs - len(stored) - 2) / max(1, api.inputs)  # two are the check at the start
        return Outcome(provider, case.name, rows, tuple(wrong), api.requests, api.refused, vain)


def _once_after(api: LoopbackServer, requests: int) -> Callable[[str], bool]:
    """Holds for about every other text once so many requests have come: a reply may be bad in part."""
    return lambda text: api.requests >= requests and zlib.crc32(text.encode()) % 2 == 0


def _stored(dsn: str, table: str) -> dict[str, np.ndarray]:
    with psycopg.connect(dsn) as conn:
        name = sql.Identifier(f"{table}_embedding_v2")
        rows = conn.execute(sql.SQL("SELECT id, embedding::text FROM {} WHERE embedding IS NOT NULL").format(name))
        return {str(key): np.fromstring(text.strip("[]"), sep=",", dtype=np.float32) for key, text in rows}
