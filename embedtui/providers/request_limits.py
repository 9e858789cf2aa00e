"""Reads from a refusal's words how much a request may hold; every server has its own."""

from __future__ import annotations

import re

FAR = 60
"""Characters between the word for a limit and its number."""

_NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:[,_]\d{3})+|\d+)(?![\w]|\.\d)")
_LIMIT = re.compile(
    r"max\w*|\bmost\b|\blimit\w*|\bup to\b|\ballowed\b|\b(?:larger|more|greater|longer|fewer|less|higher) than\b"
    r"|\bexceed\w*|\bbetween \d+ and\b|[<>≤>]=?",
    re.IGNORECASE,
)
_INPUTS = re.compile(
    r"\b(?:inputs?|texts?|documents?|items?|instances?|elements?|strings?|contents?|prompts?|sentences?|array|list)\b"
    r"|\bbatch(?:[ _-]?size)?\b|input_?count",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"tokens?\b", re.IGNORECASE)
_WHOLE = re.compile(r"\b(?:batch|request|total|sum|submitted|overall|all)\b", re.IGNORECASE)
_ONE = re.compile(
    r"context|input length|sequence|\b(?:each|single)\b|\bper (?:input|text|document|item)|input\[", re.IGNORECASE
)


def told_limits(message: str, sent: int) -> tuple[int | None, int | None]:
    """(inputs, tokens) that a request may hold by the refusal of one with ``sent`` inputs; None: not said.

    What is said of a single input is no limit of a request.
    """
    found = _told(message, sent)
    if found is None:
        return None, None
    if _TOKENS.search(message):
        whole = _WHOLE.search(message) and not _ONE.search(message)
        return None, (found if whole and found > sent else None)
    return (found if _INPUTS.search(message) and found < sent else None), None


def _told(message: str, sent: int) -> int | None:
    """The number that stands next after a word for a limit, with no other number between them."""
    best: tuple[int, int] | None = None
    before = 0
    for number in _NUMBER.finditer(message):
        value = int(re.sub(r"\D", "", number[0]))
        words = list(_LIMIT.finditer(message, before, number.start()))
        before = number.end()
        if words and 0 < value < 10**9 and value != sent:
            distance = number.start() - words[-1].end()
            if distance <= FAR and (best is None or distance < best[0]):
                best = (distance, value)
    return best[1] if best else None
