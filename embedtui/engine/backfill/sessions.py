"""The server's sessions of one worker process, and which of them were last refused a lock."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator

from embedtui.postgres.connect import Link


class Sessions:
    """Of one job; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._refused: set[Link] = set()

    def add(self, link: Link) -> None:
        """Count a connection among them."""
        with self._lock:
            self._links.add(link)

    def pids(self) -> list[int]:
        """The server's processes that serve them."""
        with self._lock:
            return [link.pid for link in self._links if link.pid is not None]

    @contextlib.contextmanager
    def trying(self, link: Link) -> Iterator[Callable[[], None]]:
        """Inside, work is tried until it is done; what this yields is called where a lock was refused."""

        def refused() -> None:
            with self._lock:
                self._refused.add(link)

        try:
            yield refused
        finally:
            with self._lock:
                self._refused.discard(link)

    def locked_out(self, link: Link | None = None) -> bool:
        """Whether a statement (of ``link``) was refused a lock, and is tried again."""
        with self._lock:
            return bool(self._refused) if link is None else link in self._refused
