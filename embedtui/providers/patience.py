"""How an endpoint is asked beside the work: whoever waits may leave at any time, and is told while nothing comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from embedtui.errors import Interrupted, ProviderError
from embedtui.model import EmbeddingModel
from embedtui.providers import make_embedder, shown_endpoint
from embedtui.providers.base import Embedder, EmbedReply, Kind

SLOW_SECONDS = 3.0
"""An answer that takes longer is named: a healthy one takes a second, a cold server some."""
TIMEOUT_SECONDS = 20.0
"""For a few words, or some rows."""
GIVE_UP_SECONDS = 120.0
"""For the next answer of many, asked for again and again at the migration's pace: a minute's budget may run out."""
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

    @contextmanager
    def answers(self, model: EmbeddingModel, environ: Mapping[str, str], why: Callable[[], str]) -> Iterator[Answers]:
        """Watch over requests that are tried again by themselves; ``why`` tells what they wait for.

        Raises:
            ProviderError: nothing came for GIVE_UP_SECONDS.
        """
        watched, over = Answers(), threading.Event()
        who = f"{model.called} at {shown_endpoint(model, environ)}"
        thread = threading.Thread(target=self._watch, args=(watched, over, who, why), name="answers", daemon=True)
        thread.start()
        try:
            yield watched
        except Interrupted:
            if not watched.gave_up:
                raise
            raise ProviderError(
                f"Gave up after {GIVE_UP_SECONDS:g} s: {watched.gave_up}.",
                hint="Nothing was changed. Try again once it answers; without a sample nobody is asked.",
            ) from None
        finally:
            over.set()
            thread.join()

    def _watch(self, watched: Answers, over: threading.Event, who: str, why: Callable[[], str]) -> None:
        told = 0.0
        while not over.wait(LOOK_SECONDS):
            waited = time.monotonic() - watched.last
            reason = why().rstrip(".")
            said = f"{who} does not answer since {watched.since:%H:%M:%S} UTC" + (f" ({reason})" if reason else "")
            if waited >= SLOW_SECONDS and told != watched.last:
                told = watched.last
                self.say(f"{said}; given up after {GIVE_UP_SECONDS:g} s.")
            if waited >= GIVE_UP_SECONDS:
                watched.gave_up = said
            if watched.gave_up or self.stop.is_set():
                return watched.stop.set()
        return None


@dataclass(slots=True)
class Answers:
    """Of whom many answers are awaited, one after the other."""

    stop: threading.Event = field(default_factory=threading.Event)
    """Set where nothing is waited for any more."""
    gave_up: str = ""
    """Why, where nobody asked to stop."""
    last: float = field(default_factory=time.monotonic)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    def came(self) -> None:
        """There is one."""
        self.last, self.since = time.monotonic(), datetime.now(UTC)


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
