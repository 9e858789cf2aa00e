"""Exceptions in words that may be written down: where it happened and why, without secrets or documents."""

from __future__ import annotations

import dataclasses
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from embedtui.redaction import without_secrets

_QUOTED = re.compile(r"(?<!\w)(['\"])((?:\\.|(?!\1).)*)\1(?!\w)")
_PLAIN_NAME = re.compile(r"[\w.$:/<>-]{0,80}")

MESSAGE = 300
"""Characters of an exception's message that are written down."""
FRAGMENT = 12
"""Characters that a message and a text in the traceback's variables share for it to count as taken from there."""
LOOKED_AT = 2_000_000
"""Characters of texts in a traceback's variables that are looked at: about a second's work."""


def described(error: BaseException) -> str:
    """An exception as one line that quotes no data: its kind and what is left of its message's first line.

    Left out are quoted values that are no names (``invalid input: "…"``), and whatever the message shares with texts in
    the variables of the traceback: that is how a document gets into a message.
    """
    primary = getattr(getattr(error, "diag", None), "message_primary", None)  # the rest of psycopg's quotes the row
    lines = (primary or str(error)).strip().splitlines()
    message = (lines[0] if lines else "")[:MESSAGE]
    message = _QUOTED.sub(lambda it: it[0] if _PLAIN_NAME.fullmatch(it[2]) else f"{it[1]}…{it[1]}", message)
    message = without_secrets(_without(message, _texts(error)))
    return f"{type(error).__name__}: {message}".rstrip(": ")


def formatted(error: BaseException) -> str:
    """The whole traceback of an exception and of those that led to it, redacted; each as :func:`described` says it."""
    return without_secrets("".join(_chain(error, set())))


def _before(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _chain(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = _before(error)
    if before is not None and id(before) not in seen:
        yield from _chain(before, seen)
        yield (
            "\nThe above exception was the direct cause of the following exception:\n\n"
            if error.__cause__
            else ("\nDuring handling of the above exception, another exception occurred:\n\n")
        )
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{described(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            if id(each) not in seen:
                yield from ("\n", *_chain(each, seen))


def _texts(error: BaseException | None) -> Iterator[str]:
    """Texts (with white space, so no names) in the variables of the frames that the exception came through."""
    left = LOOKED_AT
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__", "").startswith("psycopg"):
                continue  # these hold the server's message itself; a row that it quotes is in our frames, too
            for value in list(frame.f_locals.values()):
                for text in _strings(value, depth=4):
                    left -= len(text)
                    if left < 0:
                        return
                    yield text
        error = _before(error)


def _strings(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) >= FRAGMENT and any(map(str.isspace, value)):
            yield value
    elif depth and isinstance(value, Mapping):
        for each in list(value.values()):
            yield from _strings(each, depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for each in list(value):
            yield from _strings(each, depth - 1)
    elif depth and dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            yield from _strings(getattr(value, each.name, None), depth - 1)


def _without(message: str, texts: Iterable[str]) -> str:
    """``message`` without the runs of at least ``FRAGMENT`` characters that it shares with a text."""
    places: dict[str, list[int]] = {}
    for at in range(len(message) - FRAGMENT + 1):
        places.setdefault(message[at : at + FRAGMENT], []).append(at)
    shared = [False] * len(message)
    for text in texts if places else ():
        for at in range(len(text) - FRAGMENT + 1):
            for found in places.get(text[at : at + FRAGMENT], ()):
                shared[found : found + FRAGMENT] = [True] * FRAGMENT
    kept = (("…" if at == 0 or not shared[at - 1] else "") if hit else message[at] for at, hit in enumerate(shared))
    return "".join(kept)
