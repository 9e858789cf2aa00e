"""Every provider by name against the loopback server with its manners: clean, each fault, each limit.

python -m benchmarks.contract [--rows 120] [--provider voyage]

Prints per run the requests, those refused, and the share of texts that were computed for nothing. Ends with 1 where a
row is missing, has another's vector, or was blamed without guilt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.common import database, fresh, machine
from embedtui.demo.api import MANNERS
from tests.kits.contract import each_fault, fulfil


def main() -> int:
    """Run all, and say what broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--provider", choices=list(MANNERS), action="append")
    options = parser.parse_args()
    broken = 0
    print(machine())
    with database() as server, tempfile.TemporaryDirectory() as folder:
        for provider in options.provider or MANNERS:
            dsn = fresh(server, f"contract_{provider}")
            for number, case in enumerate(each_fault()):
                outcome = fulfil(dsn, provider, case, Path(folder), rows=options.rows, table=f"t{number}")
                print(outcome, flush=True)
                broken += bool(outcome.wrong)
    print(f"{broken} broken" if broken else "all kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
