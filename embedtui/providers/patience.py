"""How an endpoint is asked beside the work: whoever waits may leave at any time, and is told while nothing comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from embedtui.errors import Interrupted
from embedtui.model import EmbeddingModel
from embedtui.providers import make_embedder, shown_endpoint
from embedtui.providers.base import Embedder, EmbedReply, Kind

SLOW_SECONDS = 3.0
"""An answer that takes longer is named: a healthy one takes a second, a cold server some."""
TIMEOUT_SECONDS = 20.0
"""For a few words, or some rows."""
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Asking:
    """Who waits for an answer."""

    say: Callable[[str], None] = lambda _: None
    """Told once that nothing comes: who does not answer, since when, and when it is given up."""
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def embedder(self, model: EmbeddingModel, environ: Mapping[str, str]) -> Iterator[Embedder]:
        """An embedder whose requests end at once with Interrupted where ``stop`` is set.

        Raises:
            ProviderFault: as ``make_embedder``.
        """
        with closing(make_embedder(model, timeout=TIMEOUT_SECONDS, environ=environ)) as inner:
            yield _Asked(inner, self, f"{model.called} at {shown_endpoint(model, environ)}")


@dataclass(frozen=True, slots=True)
class _Asked:
    inner: Embedder
    asking: Asking
    who: str

    def embed(self, texts: Sequence[str], *, kind: Kind, stop: threading.Event | None = None) -> EmbedReply:
        """As that of any embedder, on a thread that nobody has to wait for; stopped where the asking is."""
        stop, reply = self.asking.stop, Future[EmbedReply]()

        def ask() -> None:
            try:
                reply.set_result(self.inner.embed(texts, kind=kind, stop=stop))
            except BaseException as error:  # noqa: BLE001 (raised again by who waits)
                reply.set_exception(error)

        threading.Thread(target=ask, name="asking", daemon=True).start()
        began, since, told = time.monotonic(), datetime.now(UTC), False
        while not reply.done():
            if stop.is_set():
                raise Interrupted("Stopped while a provider was asked.", hint="Run again to go on.")
            if not told and time.monotonic() - began >= SLOW_SECONDS:
                told = True
                self.asking.say(
                    f"{self.who} does not answer since {since:%H:%M:%S} UTC; given up after {TIMEOUT_SECONDS:g} s."
                )
            wait([reply], LOOK_SECONDS)
        return reply.result()

    def close(self) -> None:
        """Whoever opened the other closes it."""
