"""Applications at work on threads while something is done to their table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from tests.kits.applications import Found
from tests.kits.support import wait_for


class Searches(Protocol):
    """What finds a text's nearest row."""

    def nearest(self, text: str) -> Found: ...


def unfound(application: Searches, text: str) -> str:
    """What is found instead of a text that is there, by its own model; empty where it is found."""
    found, distance = application.nearest(text)
    return "" if found == text and distance <= 1e-4 else f"{text!r} found {found!r} at {distance}"


class Traffic:
    """Each part on a thread, called with its turn again and again until the block ends; it says what is wrong."""

    def __init__(self, *parts: Callable[[int], str], leave: Callable[[], object] = lambda: None) -> None:
        """``leave`` is called by each thread at its end."""
        self.failed, self.leave = list[str](), leave
        self._stop, self._done = threading.Event(), [0 for _ in parts]
        self._threads = [threading.Thread(target=self._work, args=each) for each in enumerate(parts)]

    def _work(self, number: int, part: Callable[[int], str]) -> None:
        turn = 0
        while not self._stop.wait(0.05):
            turn += 1
            try:
                wrong = part(turn)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            self.failed += [f"{number} {turn}: {wrong}"[:400]] if wrong else []
            self._done[number] += 1
        self.leave()

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def some_more(self, turns: int = 1) -> None:
        before = list(self._done)
        wait_for(lambda: self.failed or all(now >= then + turns for now, then in zip(self._done, before, strict=True)))
        assert not self.failed, "; ".join(self.failed)
