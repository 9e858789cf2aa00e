"""How often each row was embedded of late: a trigger that touches the content at every write must not cost for ever."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

from embedtui.model import Key

EMBEDS_PER_KEY = 6
"""A row is embedded again at most so often …"""
WINDOW_SECONDS = 60.0
"""… in so many seconds."""


class RecentlyEmbedded:
    """Moments at which rows were embedded, by key; of one thread, and in memory only."""

    def __init__(self) -> None:
        """None so far."""
        self._moments: dict[Key, list[float]] = defaultdict(list)

    def add(self, keys: Iterable[Key]) -> None:
        """These rows were embedded now."""
        moment = time.monotonic()
        for key in keys:
            self._moments[key].append(moment)

    def too_often(self, key: Key) -> bool:
        """Whether the row has to wait until it may be embedded again."""
        earliest = time.monotonic() - WINDOW_SECONDS
        return sum(at > earliest for at in self._moments.get(key, ())) >= EMBEDS_PER_KEY

    def trim(self) -> None:
        """Forget what no longer counts."""
        earliest = time.monotonic() - WINDOW_SECONDS
        recent = {key: [at for at in moments if at > earliest] for key, moments in self._moments.items()}
        self._moments = defaultdict(list, {key: moments for key, moments in recent.items() if moments})

    def clear(self) -> None:
        """Forget all."""
        self._moments.clear()
