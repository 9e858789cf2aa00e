"""What an embedding provider is to the rest: an embedder, its replies, and the one fault it raises."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from embedtui.arrays import np
from embedtui.errors import ProviderError
from embedtui.model import FaultClass

Kind = Literal["document", "query"]
"""Which of a model's prefixes a text gets."""

NOT_ABOUT_TEXTS = frozenset(
    {"401", "402", "429", "insufficient_quota", "missing_key", "no_endpoint", "not_local", "tls"}
)
"""Codes of faults that no text can cause; for any other, nobody but an innocent text can tell."""

BAD_VECTOR = "bad_vector"
"""Code of a fault about some vectors of a reply: not finite, or zero."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a reply's ``x-ratelimit-*`` headers say; None where one is absent. Resets in seconds."""

    limit_requests: float | None = None
    """Requests per minute."""
    limit_tokens: float | None = None
    """Tokens per minute."""
    remaining_requests: float | None = None
    remaining_tokens: float | None = None
    reset_requests: float | None = None
    """Seconds until the whole limit is there again."""
    reset_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class EmbedReply:
    """Checked vectors of one request."""

    vectors: np.ndarray
    """float32 (n, d), C-contiguous, in the order of the texts, finite and not zero."""
    tokens: int
    """Tokens the provider counted; estimated where ``measured`` is false."""
    limits: RateLimits | None
    """None: the reply carries no rate headers."""
    seconds: float
    """From sending to the whole reply."""
    measured: bool = True
    """Whether ``tokens`` is the provider's own count."""
    remarks: tuple[str, ...] = ()
    """What is odd about the reply and no reason to refuse it; the same words each time."""


class ProviderFault(ProviderError):
    """A request failed; the class says whose fault it is and so what to do (invariant 4).

    ``reason`` is one short line without secrets or control characters, ``code`` a stable word for it (``401``,
    ``insufficient_quota``, ``timeout``, ``connection``, ``bad_reply``, ``bad_vector``, ``dimensions``, …), ``hint`` the
    mend, ``retry_after`` seconds that the provider asked for, ``told`` inputs and tokens that a request may hold.
    """

    seconds = 0.0
    """From when the request was sent, where that is known."""

    def __init__(
        self,
        fault_class: FaultClass,
        code: str,
        reason: str,
        *,
        hint: str = "",
        retry_after: float | None = None,
        limits: RateLimits | None = None,
        told: tuple[int | None, int | None] = (None, None),
    ) -> None:
        super().__init__(reason, hint=hint)
        self.fault_class = fault_class
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.limits = limits
        self.told = told

    @property
    def suspicious(self) -> bool:
        """Whether the request itself may be the cause, whatever the status: its texts, or how many they are."""
        return self.code not in NOT_ABOUT_TEXTS and not (len(self.code) == 3 and self.code.startswith("3"))

    @property
    def refused(self) -> bool:
        """Whether the request was looked at and refused, so that asking the same again makes no sense."""
        return self.fault_class is FaultClass.ROW or (
            self.fault_class is FaultClass.CONFIGURATION and self.code in ("400", "413", "422")
        )


class BadVectors(ProviderFault):
    """Some vectors of a reply cannot be used: not finite, zero, or of a length that is no number.

    ``reply`` is the whole reply, paid for; ``bad`` are the positions of those vectors. Whose fault it is, a text's or
    the provider's, only asking again beside other texts can tell.
    """

    def __init__(self, reply: EmbedReply, bad: tuple[int, ...], what: str = "zero or not finite") -> None:
        reason = f"Broken reply: {len(bad)} of {len(reply.vectors)} vectors are {what}."
        hint = "Wait: the request is tried again by itself."
        super().__init__(FaultClass.PROVIDER, BAD_VECTOR, reason, hint=hint, limits=reply.limits)
        self.reply = reply
        self.bad = bad
        self.what = what


class Embedder(Protocol):
    """Turns texts into vectors with one model; thread-safe."""

    def embed(self, texts: Sequence[str], *, kind: Kind, stop: threading.Event | None = None) -> EmbedReply:
        """Embed ``texts`` in one request; raises ProviderFault. The model's prefix for ``kind`` is put before each.

        The caller keeps within the model's inputs and tokens per request. Once ``stop`` is set, the reply is waited
        for a few seconds more and then abandoned, as a fault ``timeout``.
        """
        ...

    def close(self) -> None:
        """Close idle connections; the embedder is not used afterwards."""
        ...
