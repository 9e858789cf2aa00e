"""What the loopback API can be told to do wrong, and the faults in force."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

Spoil = Callable[[bytes], Iterable["bytes | float"]]
"""Body of a good reply -> what goes over the wire instead, head included; a number is a pause in seconds."""


class FaultKind(StrEnum):
    """What the server can be told to do wrong (or oddly, but within the protocol)."""

    UNAUTHORIZED = "unauthorized"
    """401."""
    FORBIDDEN = "forbidden"
    """403."""
    MODEL_NOT_FOUND = "model_not_found"
    """404."""
    RETIRED = "retired"
    """404 (or 410 through ``status``): the model was shut down."""
    RATE_LIMITED = "rate_limited"
    """429, with Retry-After when ``retry_after`` is given."""
    INSUFFICIENT_QUOTA = "insufficient_quota"
    """429 whose code says that the account is empty."""
    SERVER_ERROR = "server_error"
    """500."""
    UNAVAILABLE = "unavailable"
    """503."""
    HANG = "hang"
    """No answer for ``seconds`` (or until the server stops), then the connection closes."""
    RESET = "reset"
    """The connection is reset (RST) instead of an answer."""
    HALF_REPLY = "half_reply"
    """Half of the announced body, then the connection closes."""
    NOT_JSON = "not_json"
    """200 with a page of HTML."""
    NO_DATA = "no_data"
    """200 with an empty ``data``."""
    FEWER = "fewer"
    """One vector less than texts."""
    SHUFFLED = "shuffled"
    """Items in another order, each with its right ``index``: legitimate."""
    DUPLICATE_INDEX = "duplicate_index"
    """Two items claim the same ``index`` (needs two texts; a single text gets two items)."""
    WRONG_DIMENSIONS = "wrong_dimensions"
    """Vectors one component short."""
    NAN = "nan"
    """The first vector holds a NaN, or those of the texts that the fault is about."""
    ZERO = "zero"
    """The first vector is zero, or those of the texts that the fault is about."""
    FLOATS = "floats"
    """Floats although base64 was asked: legitimate for compatible servers."""
    NO_BASE64 = "no_base64"
    """400 while the request names ``encoding_format``."""
    NO_DIMENSIONS = "no_dimensions"
    """400 while the request names ``dimensions``."""
    NO_USAGE = "no_usage"
    """A reply without ``usage``: compatible servers may leave it out."""
    BAD_REQUEST = "bad_request"
    """400 that does not say what it is about."""
    FIREWALL = "firewall"
    """403 with the page of a firewall, which never lets the request through; give ``containing`` as with the next."""
    REJECTED = "rejected"
    """400 for the whole request; give ``containing`` so that it is about particular texts."""
    SPOILED = "spoiled"
    """What ``spoil`` makes of a good reply, see :mod:`embedtui.demo.hostile`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A standing order to misbehave."""

    kind: FaultKind
    times: int | None = None
    """For how many matching requests; None: until cleared."""
    containing: str | None = None
    """Only requests with a text that contains this."""
    predicate: Callable[[str], bool] | None = None
    """Only requests with a text for which this holds."""
    model: str | None = None
    """Only requests for this model."""
    retry_after: str | None = None
    """Value of the Retry-After header: seconds or an HTTP date."""
    seconds: float | None = None
    """How long a hang lasts."""
    status: int | None = None
    """Another HTTP status than the kind's own."""
    spoil: Spoil | None = None
    """What is sent instead of a good reply."""

    def matches(self, model: str, texts: Sequence[str]) -> bool:
        """Whether a request for ``texts`` meets this fault."""
        return self.model in (None, model) and (len(texts) == 0 or bool(self.met(texts)))

    def met(self, texts: Sequence[str]) -> list[int]:
        """Positions of the texts that it is about."""
        return [
            position
            for position, text in enumerate(texts)
            if (self.containing is None or self.containing in text) and (self.predicate is None or self.predicate(text))
        ]


class Faults:
    """The faults in force; thread-safe, changeable while the server runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: list[tuple[Fault, int | None]] = []

    def add(
        self,
        kind: FaultKind | str,
        *,
        times: int | None = None,
        containing: str | None = None,
        predicate: Callable[[str], bool] | None = None,
        model: str | None = None,
        retry_after: float | str | None = None,
        seconds: float | None = None,
        status: int | None = None,
        spoil: Spoil | None = None,
    ) -> Fault:
        """Put a fault in force (fields of :class:`Fault`); raises ValueError for an unknown kind."""
        header = (
            None if retry_after is None else f"{retry_after:g}" if not isinstance(retry_after, str) else retry_after
        )
        fault = Fault(FaultKind(kind), times, containing, predicate, model, header, seconds, status, spoil)
        with self._lock:
            self._active.append((fault, times))
        return fault

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._active.clear()

    def remove(self, fault: Fault) -> None:
        """End one fault; nothing happens if it is over already."""
        with self._lock:
            self._active = [entry for entry in self._active if entry[0] is not fault]

    @property
    def active(self) -> tuple[Fault, ...]:
        """The faults in force."""
        with self._lock:
            return tuple(fault for fault, _ in self._active)

    def take(self, model: str, texts: Sequence[str], applies: Callable[[Fault], bool]) -> Fault | None:
        """The first fault that this request meets, counted down."""
        with self._lock:
            for position, (fault, left) in enumerate(self._active):
                if fault.matches(model, texts) and applies(fault):
                    if left == 1:
                        del self._active[position]
                    elif left is not None:
                        self._active[position] = (fault, left - 1)
                    return fault
        return None
