"""Turning rows into vectors: paced requests, patience with the provider, and a fair hearing for suspected texts."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from embedtui.arrays import np
from embedtui.engine.backfill.pacing import Pacer, Slot
from embedtui.engine.backfill.suspicion import INNOCENT, Answer, examine
from embedtui.errors import Interrupted, ProviderError
from embedtui.model import EmbeddingModel, FaultClass, Key
from embedtui.postgres.sides.protocol import SourceRow, Vectors
from embedtui.providers import BadVectors, Embedder, EmbedReply, ProviderFault
from embedtui.providers.replies import usable

# Texts rejected one after the other, with none accepted in between, before it is taken for a wrong setting.
REJECTIONS_BEFORE_FIRST_SUCCESS = 4
REJECTIONS_IN_A_ROW = 64
MOST_REMARKS = 8
"""Remarks of a provider that are passed on: one that says something else each time is not listened to for ever."""
UNFIT = "too large or too small for halfvec"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reply settled: rows with their vectors, or one row with its fault."""

    rows: tuple[SourceRow, ...]
    vectors: Vectors
    tokens: int = 0
    fault: str = ""
    """Reason why the single row in ``rows`` was rejected."""


class ConfigurationFault(ProviderError):
    """The provider refuses us as configured; no row is to blame."""


class NoAnswer(ProviderError):
    """The provider is down or too busy; raised only by an embedder without patience."""


class RowEmbedder:
    """Embeds rows with one model; shared by threads."""

    def __init__(
        self,
        model: EmbeddingModel,
        embedder: Embedder,
        pacer: Pacer | None,
        *,
        gate: Callable[[threading.Event], None],
        on_fault: Callable[[ProviderFault], None],
        on_remark: Callable[[str], None] = lambda _: None,
        urgent: bool = False,
        half: bool = False,
    ) -> None:
        """Without a pacer there is no patience either: a request is sent at once, and an outage raises NoAnswer.

        ``half``: the vectors are stored with 16 bits a number; those that these cannot hold are unusable.
        """
        self.model = model
        self._embedder, self._pacer, self._gate, self._on_fault = embedder, pacer, gate, on_fault
        self._on_remark = on_remark
        self._remarks: set[str] = set()
        self._urgent, self._half = urgent, half
        self._succeeded = False
        self._rejected = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the provider's idle connections."""
        self._embedder.close()

    def embed(self, rows: Sequence[SourceRow], stop: threading.Event) -> Iterator[Outcome]:
        """Yield an outcome as soon as it is known, so that what is paid for can be stored at once.

        A request rejected for one of its texts is halved until that text stands alone: about 2 log2(n) more requests.
        Where only some vectors of a reply can be used, these are stored, and the other texts are examined.

        Raises:
            ConfigurationFault: the key, the model or the account is at fault.
            NoAnswer: the provider is down, and there is no pacer to wait it out.
            Interrupted: ``stop`` was set.
        """
        parts = [tuple(rows)]
        while parts:
            part = parts.pop()
            settled: set[Key] = set()
            try:
                for outcome in self._settle(part, stop):
                    settled.update(row.key for row in outcome.rows)
                    yield outcome
            except ProviderFault as fault:
                left = tuple(row for row in part if row.key not in settled)
                if len(left) > 1:
                    middle = len(left) // 2
                    parts += [left[middle:], left[:middle]]
                else:
                    self._count_rejection(fault, stop)
                    yield Outcome(left, np.empty((0, self.model.dimensions), np.float32), 0, fault.reason)

    def _settle(self, rows: tuple[SourceRow, ...], stop: threading.Event) -> Iterator[Outcome]:
        answer = self._request([row.text for row in rows], stop)
        good, vectors, suspects = answer.split(rows)
        if good:
            yield Outcome(good, vectors, answer.tokens)
        if not suspects:
            return
        ask, pause = functools.partial(self._ask_beside, stop), functools.partial(self._pause, stop)
        for verdict in examine(suspects, ask, pause, self.model.max_inputs):
            if not verdict.reason:
                yield Outcome(verdict.rows, verdict.vectors, verdict.tokens)
            for row in verdict.rows if verdict.reason else ():
                yield Outcome((row,), verdict.vectors, 0, verdict.reason)

    def _ask_beside(self, stop: threading.Event, texts: Sequence[str], innocent: frozenset[int]) -> Answer:
        answer = self._request(texts, stop, innocent)
        if innocent and answer.what == UNFIT and innocent.issubset(answer.bad):
            raise ConfigurationFault(
                f"The vectors of {self.model.name} are {UNFIT} (65,504 at most).",
                hint="Set halfvec = false, which takes a new column: `embedtui abort`, then run again.",
            )
        return answer

    def _pause(self, stop: threading.Event, seconds: float) -> None:
        if stop.wait(seconds):
            raise Interrupted("Stopped.", hint="Run again to go on.")

    def _count_rejection(self, fault: ProviderFault, stop: threading.Event) -> None:
        with self._lock:
            self._rejected += 1
            limit = REJECTIONS_IN_A_ROW if self._succeeded else REJECTIONS_BEFORE_FIRST_SUCCESS
            if self._rejected < limit:
                return
            self._rejected = 0
        try:
            self._request([INNOCENT[0]], stop)
        except ProviderFault:
            raise ConfigurationFault(
                f"{self.model.name} rejects every text: {fault.reason}.",
                hint="Check model, dimensions and prefixes; then resume.",
            ) from None

    # ------------------------------------------------------------------------------------------------------ requests

    def _request(self, texts: Sequence[str], stop: threading.Event, innocent: frozenset[int] = frozenset()) -> Answer:
        """One request, tried again while the fault is the provider's; ``innocent``: positions of such texts."""
        answer = None
        while answer is None:
            if self._pacer is None:
                answer = self._request_once(texts, stop, innocent, None)
            else:
                self._gate(stop)
                characters = sum(map(len, set(texts)))  # identical texts are sent once
                with self._pacer.slot(characters, len(texts), stop, urgent=self._urgent) as slot:
                    answer = self._request_once(texts, stop, innocent, slot)
        return answer

    def _request_once(
        self, texts: Sequence[str], stop: threading.Event, innocent: frozenset[int], slot: Slot | None
    ) -> Answer | None:
        """None: the fault is the provider's, and it may be asked again."""
        if stop.is_set():
            raise Interrupted("Stopped.", hint="Run again to go on.")
        began = time.monotonic()
        try:
            reply, bad, what = self._ask(texts, stop)
        except ProviderFault as fault:
            if slot is not None:
                slot.failed(fault)
            if stop.is_set() and fault.fault_class is FaultClass.PROVIDER:
                raise Interrupted("Stopped.", hint="Run again to go on.") from None  # it was not waited for
            self._on_fault(fault)
            if fault.isolable:
                raise
            if fault.fault_class is FaultClass.CONFIGURATION:
                raise ConfigurationFault(fault.reason, hint=fault.hint) from None
            if slot is None:
                raise NoAnswer(fault.reason, hint=fault.hint) from None
            return None
        seen = BadVectors(reply, bad, what)
        if bad and (not innocent or len(bad) == len(texts)):
            self._on_fault(seen)
        if slot is None and not innocent.isdisjoint(bad):
            raise NoAnswer(seen.reason, hint=seen.hint)
        if len(bad) == len(texts):
            if slot is not None:
                slot.failed(seen)
        else:  # some are good: it is alive, and what is left is asked for again
            if slot is not None:
                slot.done(reply.tokens, reply.limits, time.monotonic() - began, measured=reply.measured)
            with self._lock:
                self._succeeded, self._rejected = True, 0
        return Answer(reply.vectors, reply.tokens, bad, what)

    def _ask(self, texts: Sequence[str], stop: threading.Event) -> tuple[EmbedReply, tuple[int, ...], str]:
        """The reply, positions of vectors that cannot be used, and what is the matter with them."""
        bad: tuple[int, ...] = ()
        what = ""
        try:
            reply = self._embedder.embed(texts, kind="document", stop=stop)
        except BadVectors as fault:
            reply, bad, what = fault.reply, fault.bad, fault.what
        for remark in reply.remarks:
            self._pass_on(remark)
        if self._half:
            with np.errstate(over="ignore", under="ignore"):
                stored = reply.vectors.astype(np.float16).astype(np.float32)
            unfit = tuple(int(place) for place in np.flatnonzero(~usable(stored)))
            bad, what = (unfit, UNFIT) if len(unfit) > len(bad) else (bad, what)
        return reply, bad, what

    def _pass_on(self, remark: str) -> None:
        with self._lock:
            if remark in self._remarks or len(self._remarks) >= MOST_REMARKS:
                return
            self._remarks.add(remark)
        self._on_remark(remark)
