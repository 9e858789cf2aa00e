"""Turning rows into vectors: paced requests, patience with the provider, and a fair hearing for suspected texts."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from embedtui.arrays import np
from embedtui.engine.backfill.pacing import Pacer, PlaceGivenUp, Slot
from embedtui.engine.backfill.packing import UNCALIBRATED
from embedtui.engine.backfill.sizing import RequestSize
from embedtui.engine.backfill.suspect_vectors import INNOCENT, ROUNDS, Answer, examine
from embedtui.errors import Interrupted, ProviderError
from embedtui.model import EmbeddingModel, FaultClass, Key
from embedtui.postgres.sides.protocol import SourceRow, Vectors
from embedtui.providers import BadVectors, Embedder, EmbedReply, Kind, ProviderFault
from embedtui.providers.replies import usable

PIECES = 4
"""A suspected request is split in so many: as many requests as by halves, and half as many of them refused."""
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


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows for one request."""

    rows: tuple[SourceRow, ...]
    before: str = ""
    """Code with which a larger request failed that these rows were part of."""
    since: float = 0.0
    """When that was."""


def _split(rows: tuple[SourceRow, ...]) -> list[tuple[SourceRow, ...]]:
    """In PIECES of about equal size, none empty."""
    bounds = [number * len(rows) // PIECES for number in range(PIECES + 1)]
    return [rows[first:end] for first, end in itertools.pairwise(bounds) if first < end]


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
        held: Callable[[], bool] = lambda: False,
        on_fault: Callable[[ProviderFault], None],
        on_remark: Callable[[str], None] = lambda _: None,
        urgent: bool = False,
        half: bool = False,
        kind: Kind = "document",
        size: RequestSize | None = None,
    ) -> None:
        """``gate`` waits while the work is ``held``: what is not sent by then is not sent before.

        Without a pacer there is no patience with the provider: an outage raises NoAnswer.

        ``half``: the vectors are stored with 16 bits a number; those that these cannot hold are unusable. ``kind``
        decides the prefix. ``size`` may be shared with other embedders of the model.
        """
        self.model = model
        self._embedder, self._pacer, self._gate, self._on_fault = embedder, pacer, gate, on_fault
        self._on_remark, self._held = on_remark, held
        self._remarks: set[str] = set()
        self._urgent, self._half, self._kind = urgent, half, kind
        self._size = size or RequestSize(model)
        self._well_at = -math.inf
        """When a request was last answered, by the monotonic clock."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the provider's idle connections."""
        self._embedder.close()

    def embed(self, rows: Sequence[SourceRow], stop: threading.Event) -> Iterator[Outcome]:
        """Yield an outcome as soon as it is known, so that what is paid for can be stored at once.

        A request that fails, whatever the status, while an innocent text fares well is split until the text that makes
        it fail stands alone; that one is heard last, so that no other waits for it. Where only some vectors of a reply
        can be used, these are stored, and the other texts are examined.

        Raises:
            ConfigurationFault: the key, the model or the account is at fault.
            NoAnswer: the provider is down, and there is no pacer to wait it out.
            Interrupted: ``stop`` was set.
        """
        parts = [_Part(tuple(rows))]
        accused: list[tuple[SourceRow, ProviderFault]] = []
        refused: list[tuple[SourceRow, ...]] = []
        while parts:
            part = parts.pop()
            settled: set[Key] = set()
            try:
                with self._size.turn(part.rows, self._characters_per_token, stop) as most:
                    if most < len(part.rows):
                        parts.append(replace(part, rows=part.rows[most:]))
                        part = replace(part, rows=part.rows[:most])
                    texts = [row.text for row in part.rows]
                    answer = self._request(texts, stop, before=part.before, since=part.since)
                for outcome in self._judge(part.rows, answer, stop):
                    settled.update(row.key for row in outcome.rows)
                    yield outcome
            except ProviderFault as fault:
                left = tuple(row for row in part.rows if row.key not in settled)
                if len(left) == 1:
                    accused.append((left[0], fault))
                    continue
                if fault.refused and not settled:
                    if fault.told == (None, None):
                        refused.append(left)
                        self._size.refused(len(left))
                    else:
                        self._size.told(*fault.told, len(left))
                        parts.append(replace(part, rows=left))
                        continue
                since = part.since or time.monotonic()
                parts += [_Part(piece, fault.code, since) for piece in reversed(_split(left))]
        guilty = {row.key for row, _ in accused}
        for rows in reversed(refused):
            self._size.settled(
                len(rows),
                sum(row.characters for row in rows),
                guilty=not guilty.isdisjoint(row.key for row in rows),
                characters_per_token=self._characters_per_token,
            )
        yield from self._hear(accused, stop)

    @property
    def _characters_per_token(self) -> float:
        return UNCALIBRATED if self._pacer is None else self._pacer.characters_per_token

    def _hear(self, accused: Sequence[tuple[SourceRow, ProviderFault]], stop: threading.Event) -> Iterator[Outcome]:
        """Texts that failed alone: to blame is what fails ROUNDS times in a row, while innocent ones fare well."""
        rounds = {row.key: ROUNDS if fault.refused else 0 for row, fault in accused}
        waiting = list(accused)
        while waiting:
            to_blame = [one for one in waiting if rounds[one[0].key] >= ROUNDS]
            for row, fault in to_blame:
                yield Outcome((row,), np.empty((0, self.model.dimensions), np.float32), 0, fault.reason)
            waiting = [one for one in waiting if one not in to_blame]
            if waiting and not all(self._fares_well(text, stop) for text in INNOCENT):
                rounds = dict.fromkeys(rounds, 0)  # or a provider that fails at random would get there in the end
                continue
            for one in list(waiting):
                row, _ = one
                answer = self._attempt([row.text], stop)
                if isinstance(answer, ProviderFault):
                    rounds[row.key] += answer.suspicious
                    continue
                with contextlib.suppress(ProviderFault):  # of a second thought
                    yield from self._judge((row,), answer, stop)
                    waiting.remove(one)

    def _judge(self, rows: tuple[SourceRow, ...], answer: Answer, stop: threading.Event) -> Iterator[Outcome]:
        good, vectors, suspects = answer.split(rows)
        if good:
            yield Outcome(good, vectors, answer.tokens)
        if not suspects:
            return
        ask, pause = functools.partial(self._ask_beside, stop), functools.partial(self._pause, stop)
        for verdict in examine(suspects, ask, pause, self._size.inputs):
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

    # ------------------------------------------------------------------------------------------------------ requests

    def _request(
        self,
        texts: Sequence[str],
        stop: threading.Event,
        innocent: frozenset[int] = frozenset(),
        *,
        before: str = "",
        since: float = 0.0,
    ) -> Answer:
        """One request, tried again until it is answered, or found to be itself the cause of its failure.

        ``innocent``: positions of such texts. ``before``: how a larger request failed that began at ``since`` and had
        these texts, too; the provider has been seen to be well after that.

        Raises:
            ProviderFault: it failed, twice in the same way where that may be chance, and an innocent text fares well.
        """
        since = since or time.monotonic()
        while True:
            answer = self._attempt(texts, stop, innocent)
            if isinstance(answer, Answer):
                return answer
            if not answer.suspicious:
                continue
            if answer.code == "timeout" and len(texts) > 1:  # too much, or too slow: less is asked for next
                raise answer
            chance = answer.fault_class is FaultClass.PROVIDER and answer.code != "timeout"
            if chance and answer.code != before and self._pacer is not None:
                before = answer.code
                continue
            if len(innocent) == len(texts):
                self._require_well(answer)
            elif self._well_at >= since or self._fares_well(INNOCENT[0], stop):
                raise answer
            before = ""

    def _fares_well(self, text: str, stop: threading.Event) -> bool:
        """Whether an innocent text gets a vector now.

        Raises:
            ConfigurationFault: it is refused as well.
            NoAnswer: the provider is down, and there is no pacer to wait it out.
        """
        answer = self._attempt([text], stop, frozenset((0,)))
        if isinstance(answer, Answer):
            return not answer.bad
        self._require_well(answer)
        return False

    def _require_well(self, fault: ProviderFault) -> None:
        """Raise what it means that even an innocent text met ``fault``, unless that can be waited out."""
        if fault.refused:
            raise ConfigurationFault(
                f"{self.model.name} rejects every text: {fault.reason}.",
                hint="Check model, dimensions and prefixes; then resume.",
            )
        if fault.fault_class is FaultClass.CONFIGURATION:
            raise ConfigurationFault(fault.reason, hint=fault.hint)
        if self._pacer is None:
            raise NoAnswer(fault.reason, hint=fault.hint)

    def _attempt(
        self, texts: Sequence[str], stop: threading.Event, innocent: frozenset[int] = frozenset()
    ) -> Answer | ProviderFault:
        """One request; the fault with which it failed is told to the pacer, and waited out by the next."""
        if self._pacer is None:
            self._gate(stop)
            return self._send(texts, stop, innocent, None)
        characters = sum(map(len, set(texts)))  # identical texts are sent once
        while True:
            self._gate(stop)
            with (
                contextlib.suppress(PlaceGivenUp),
                self._pacer.slot(characters, len(texts), stop, urgent=self._urgent, held=self._held) as slot,
            ):
                return self._send(texts, stop, innocent, slot)

    def _send(
        self, texts: Sequence[str], stop: threading.Event, innocent: frozenset[int], slot: Slot | None
    ) -> Answer | ProviderFault:
        if stop.is_set():
            raise Interrupted("Stopped.", hint="Run again to go on.")
        began = time.monotonic()
        try:
            reply, bad, what = self._ask(texts, stop)
        except ProviderFault as fault:
            fault.seconds = time.monotonic() - began
            if slot is not None:
                slot.failed(fault)
            if fault.code == "timeout":
                self._size.timed_out(len(texts))
            if stop.is_set() and fault.fault_class is FaultClass.PROVIDER:
                raise Interrupted("Stopped.", hint="Run again to go on.") from None  # it was not waited for
            self._on_fault(fault)
            if fault.suspicious:
                return fault
            if fault.fault_class is FaultClass.CONFIGURATION:
                raise ConfigurationFault(fault.reason, hint=fault.hint) from None
            if slot is None:
                raise NoAnswer(fault.reason, hint=fault.hint) from None
            return fault
        seen = BadVectors(reply, bad, what)
        if bad and (not innocent or len(bad) == len(texts)):
            self._on_fault(seen)
        if slot is None and not innocent.isdisjoint(bad):
            raise NoAnswer(seen.reason, hint=seen.hint)
        if len(bad) == len(texts):
            if slot is not None:
                slot.failed(seen)
        else:  # some are good: it is alive, and what is left is asked for again
            seconds = time.monotonic() - began
            if slot is not None:
                slot.done(reply.tokens, reply.limits, seconds, measured=reply.measured)
            if not innocent:
                self._size.answered(len(texts), sum(map(len, texts)), seconds)
            self._well_at = time.monotonic()
        return Answer(reply.vectors, reply.tokens, bad, what)

    def _ask(self, texts: Sequence[str], stop: threading.Event) -> tuple[EmbedReply, tuple[int, ...], str]:
        """The reply, positions of vectors that cannot be used, and what is the matter with them."""
        bad: tuple[int, ...] = ()
        what = ""
        try:
            reply = self._embedder.embed(texts, kind=self._kind, stop=stop)
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
