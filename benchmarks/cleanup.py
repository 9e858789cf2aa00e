"""Measures the cleanup under an application's writes: does it end in one try, how long does it take, is anything lost?

python benchmarks/cleanup.py [--rounds 20] [--rows 2000] [--writes 50]

Each round is a table of its own, taken through its migration up to the soak, with a worker (`run --follow`) at work and
an application that inserts and edits texts and knows nothing of vectors. The rounds go in turn through: a new column, a
side table that is folded, a side table that stays; each with and without an archive of the old vectors. After the
cleanup every row's vector is computed anew: what was written before change capture ended has to have its own. Leaves
with 1 where a cleanup failed, a vector is wrong or missing, or a statement of the application failed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import defaultdict

import psycopg

from benchmarks.common import database, fresh, machine
from embedtui.errors import EmbedtuiError
from tests.kits.busy import FOR, Journey, soaking

WAYS = ("column", "table, folded", "table, kept")


def clean_up(at: Journey, way: str, archive: str | None) -> tuple[float, str]:
    """Seconds, and how it failed (empty: it ended)."""
    began = time.monotonic()
    try:
        fold = {"table, folded": True, "table, kept": False}.get(way)
        at.engine.cleanup("documents", override=FOR, archive=archive, fold=fold)
    except EmbedtuiError as error:
        return time.monotonic() - began, str(error)
    return time.monotonic() - began, ""


def archived(dsn: str) -> tuple[int, int]:
    """Rows of the archive, and different keys among them."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT count(*), count(DISTINCT id) FROM old_vectors").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--writes", type=float, default=50.0, help="of the application, a second")
    options = parser.parse_args()
    print(machine())
    seconds, slowest = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    problems: list[str] = []
    written = checked = 0
    turns = itertools.cycle(itertools.product(WAYS, (None, "old_vectors")))
    with database() as server:
        for number, (way, archive) in zip(range(options.rounds), turns, strict=False):
            name = f"{way}, {'archive' if archive else 'no archive'}"
            dsn = fresh(server, "app")
            with soaking(dsn, placement=way.split(",")[0], rows=options.rows, rate=options.writes) as at:
                time.sleep(1.0)
                took, failure = clean_up(at, way, archive)
                time.sleep(0.5)
            seconds[name].append(took)
            slowest[name].append(at.busy.slowest)
            problems += [f"{number} {name}: {failure}"] if failure else []
            problems += [f"{number} {name}: application: {each}" for each in at.busy.failures[:3]]
            if not failure:
                found = at.busy.check(*(("documents_embedding_v2", "x") if way == "table, kept" else ()))
                written, checked = written + at.busy.writes, checked + found["rows"]
                wrong = {key: count for key, count in found.items() if key in ("wrong", "missing") and count}
                problems += [f"{number} {name}: {wrong}"] if wrong else []
                if archive:
                    rows, keys = archived(dsn)
                    problems += (
                        [f"{number} {name}: archive {rows}, {keys}"] if rows != keys or rows < options.rows else []
                    )
            print(f"{number + 1:>3} {name:<28} {took:5.1f} s", flush=True)
    print(f"\n{'':<28} {'seconds: median (min–max)':<28} longest write of the application")
    for name, each in seconds.items():
        shown = f"{statistics.median(each):.1f} ({min(each):.1f}–{max(each):.1f})"
        print(f"{name:<28} {shown:<28} {max(slowest[name]) * 1000:.0f} ms")
    print(f"{written:,} writes, {checked:,} rows checked")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
