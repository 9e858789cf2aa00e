"""Turning rows into vectors: paced requests, patience with the provider, and bisection around a rejected text."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from embedtui.arrays import np
from embedtui.engine.backfill.pacing import Pacer
from embedtui.errors import Interrupted, ProviderError
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.postgres.sides.protocol import SourceRow, Vectors
from embedtui.providers import Embedder, ProviderFault

# Texts rejected one after the other, with none accepted in between, before it is taken for a wrong setting.
REJECTIONS_BEFORE_FIRST_SUCCESS = 4
REJECTIONS_IN_A_ROW = 64
INNOCENT = "The quick brown fox jumps over the lazy dog."
"""Asked for then: any model embeds it, unless a setting is wrong."""


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
        urgent: bool = False,
    ) -> None:
        """Without a pacer there is no patience either: a request is sent at once, and an outage raises NoAnswer."""
        self.model = model
        self._embedder, self._pacer, self._gate, self._on_fault = embedder, pacer, gate, on_fault
        self._urgent = urgent
        self._succeeded = False
        self._rejected = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the provider's idle connections."""
        self._embedder.close()

    def embed(self, rows: Sequence[SourceRow], stop: threading.Event) -> Iterator[Outcome]:
        """Yield an outcome as soon as it is known, so that what is paid for can be stored at once.

        A request rejected for one of its texts is halved until that text stands alone: about 2 log2(n) more requests.

        Raises:
            ConfigurationFault: the key, the model or the account is at fault.
            NoAnswer: the provider is down, and there is no pacer to wait it out.
            Interrupted: ``stop`` was set.
        """
        parts = [tuple(rows)]
        while parts:
            part = parts.pop()
            try:
                vectors, tokens = self._request([row.text for row in part], stop)
            except ProviderFault as fault:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                if fault.fault_class is not FaultClass.ROW:
                    parts.append(part)  # an innocent text fails as well: the provider's fault, slowed by the breaker
                    continue
                self._count_rejection(fault, stop)
                yield Outcome(part, np.empty((0, self.model.dimensions), np.float32), 0, fault.reason)
            else:
                yield Outcome(part, vectors, tokens)

    def _count_rejection(self, fault: ProviderFault, stop: threading.Event) -> None:
        with self._lock:
            self._rejected += 1
            limit = REJECTIONS_IN_A_ROW if self._succeeded else REJECTIONS_BEFORE_FIRST_SUCCESS
            if self._rejected < limit:
                return
            self._rejected = 0
        try:
            self._request([INNOCENT], stop)
        except ProviderFault:
            raise ConfigurationFault(
                f"{self.model.name} rejects every text: {fault.reason}.",
                hint="Check model, dimensions and prefixes; then resume.",
            ) from None

    def _request(self, texts: Sequence[str], stop: threading.Event) -> tuple[Vectors, int]:
        """One request, tried again for as long as the fault is the provider's."""
        if self._pacer is None:
            return self._request_once(texts, stop)
        characters = sum(map(len, set(texts)))  # identical texts are sent once
        while True:
            self._gate(stop)
            with self._pacer.slot(characters, len(texts), stop, urgent=self._urgent) as slot:
                if stop.is_set():
                    raise Interrupted("Stopped.", hint="Run again to go on.")
                began = time.monotonic()
                try:
                    reply = self._embedder.embed(texts, kind="document")
                except ProviderFault as fault:
                    slot.failed(fault)
                    self._on_fault(fault)
                    if fault.isolable:
                        raise
                    if fault.fault_class is FaultClass.CONFIGURATION:
                        raise ConfigurationFault(fault.reason, hint=fault.hint) from None
                else:
                    slot.done(reply.tokens, reply.limits, time.monotonic() - began, measured=reply.measured)
                    with self._lock:
                        self._succeeded, self._rejected = True, 0
                    return reply.vectors, reply.tokens

    def _request_once(self, texts: Sequence[str], stop: threading.Event) -> tuple[Vectors, int]:
        if stop.is_set():
            raise Interrupted("Stopped.", hint="Run again to go on.")
        try:
            reply = self._embedder.embed(texts, kind="document")
        except ProviderFault as fault:
            if fault.fault_class is FaultClass.CONFIGURATION:
                raise ConfigurationFault(fault.reason, hint=fault.hint) from None
            if fault.fault_class is FaultClass.PROVIDER:
                raise NoAnswer(fault.reason, hint=fault.hint) from None
            raise
        with self._lock:
            self._succeeded, self._rejected = True, 0
        return reply.vectors, reply.tokens
