"""Chance of our own: an application that has the Router in it may have seeded the one of module ``random``."""

from __future__ import annotations

import random

chance = random.Random()
"""May be used from any thread."""
