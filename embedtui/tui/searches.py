"""How many searches each side serves: rates from the Routers' own counters, which they report every few seconds."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from embedtui.model import ListenerStatus, Snapshot

WINDOW_SECONDS = 8.0
"""Routers report every two seconds, each at its own time: rates are those of about four reports."""

Rates = tuple[float, float]
"""Searches a second of the old side and of the new one."""

_Counters = dict[tuple[str, int, str], tuple[int, int]]
_Epochs = dict[tuple[str, int, str], int]


class SearchMeter:
    """Rates over the last seconds, anew from a flip and when a Router follows it: none of before it is among them.

    A Router that comes or goes changes nothing: only its own counters are compared.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.counting = True
        """The newest snapshot gave no rates."""
        self._samples: deque[tuple[datetime, _Counters]] = deque()
        self._epoch, self._epochs = 0, _Epochs()

    def add(self, snapshot: Snapshot) -> Rates | None:
        """The rates as of ``snapshot``; None while there is nothing to compare with."""
        found = self._add(snapshot)
        self.counting = found is None
        return found

    def _add(self, snapshot: Snapshot) -> Rates | None:
        counters = {_identity(each): (each.searches_old, each.searches_new) for each in snapshot.route.listeners}
        now, samples = snapshot.as_of, self._samples
        epoch, epochs = snapshot.route.epoch, {_identity(each): each.epoch for each in snapshot.route.listeners}
        if epoch != self._epoch or any(self._epochs.get(each, at) != at for each, at in epochs.items()):
            samples.clear()
        self._epoch, self._epochs = epoch, epochs
        # only readings that tell something new: between two reports of a Router its counters stand still
        if not samples or samples[-1][1] != counters:
            samples.append((now, counters))
        while len(samples) > 1 and (now - samples[1][0]).total_seconds() > WINDOW_SECONDS:
            samples.popleft()
        (began, before), (ended, after) = samples[0], samples[-1]
        if not counters or (now - began).total_seconds() < WINDOW_SECONDS / 2:
            return None
        if (now - ended).total_seconds() > WINDOW_SECONDS / 2:
            return 0.0, 0.0
        old, new = (
            sum(max(0, after[each][side] - before[each][side]) for each in after.keys() & before.keys())
            for side in (0, 1)
        )
        seconds = (ended - began).total_seconds()
        return old / seconds, new / seconds


def new_share(rates: Rates) -> float | None:
    """The new side's share of the searches, 0..1; None where there are none."""
    return rates[1] / sum(rates) if sum(rates) else None


def _identity(listener: ListenerStatus) -> tuple[str, int, str]:
    return listener.host, listener.pid, listener.application
