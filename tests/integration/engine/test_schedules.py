"""The pointer as a state machine under two and three operators, killed anywhere: see ``tests/kits/schedules.py``."""

from __future__ import annotations

import os
import sys
import time

from tests.kits.schedules import World, quick_waits

SCHEDULES = int(os.environ.get("EMBEDTUI_SCHEDULES", "60"))
"""``EMBEDTUI_SCHEDULES=10000`` for a night; each is decided by its number, ``EMBEDTUI_SCHEDULE=n`` runs that one."""
FIRST = int(os.environ.get("EMBEDTUI_SCHEDULE", "0"))


def test_the_serving_side_is_never_dropped_and_nobody_is_stuck(database: str) -> None:
    world = World(database)
    began = time.monotonic()
    numbers = [FIRST] if FIRST else range(1, SCHEDULES + 1)
    try:
        with quick_waits():
            for number in numbers:
                world.schedule(number)
                if number % 500 == 0:
                    rate = number / (time.monotonic() - began)
                    sys.stderr.write(f"{number:,} schedules, {rate:.1f}/s: {dict(sorted(world.counts.items()))}\n")
    finally:
        world.close()
    if len(numbers) >= 50:  # they met what they are for
        assert world.counts["crash kill"] and world.counts["crash cut"]
        assert world.counts["cleanup: done"] and world.counts["rollback: done"] and world.counts["abort: done"]
        assert world.counts["cleanup: Refused"] and world.counts["cutover: done"]
