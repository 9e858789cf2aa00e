"""Reads the arguments, takes the journey and prints what came of it."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import benchmarks.chaos
from benchmarks.chaos.journey import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=benchmarks.chaos.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="of chaos")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--placement", choices=("column", "table"), help="default: by the seed")
    jobs = parser.add_mutually_exclusive_group()
    jobs.add_argument(
        "--batch", action="store_true", default=None, help="the backfill by batch jobs; default: by the seed"
    )
    jobs.add_argument("--live", action="store_false", dest="batch", help="without batch jobs")
    parser.add_argument("--writes", type=float, default=40.0, help="of the application, transactions a second")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--folder", type=Path, help="for data and the workers' output, kept; default: a temporary one")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="embedtui-chaos-", ignore_cleanup_errors=True) as folder:
        summary, problems, logs = run(options, options.folder or Path(folder))
    width = max(len(name) for name in summary)
    for name, value in summary.items():
        print(f"{name:<{width}}  {value}")
    print()
    if problems:
        print(logs, file=sys.stderr)
        for problem in problems:
            print(f"PROBLEM: {problem}")
        sys.exit(1)
    print("Clean: verify and the independent check agree, nothing acknowledged was lost.")


if __name__ == "__main__":
    main()
