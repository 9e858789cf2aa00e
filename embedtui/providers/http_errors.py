"""Tells whose fault a failed request is, and reads what a provider says about when to come back."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.base import ProviderFault, RateLimits
from embedtui.providers.request_limits import told_limits
from embedtui.redaction import hide, redact

REASON_LENGTH = 240
"""Characters of a reason at most."""

ECHO, SHORTEST_ECHO = 12, 4
"""Letters and digits that a message and a text share for the message to count as repeating it; of a text that is
shorter, all, but not of one that is next to nothing."""
_NO_LETTERS = re.compile(r"[\W_]+")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\[nrt]")
_NAME = re.compile(r"[A-Za-z][\w.:-]{0,59}")

ROW_HINT = "Skip, shorten or mend the text."

LONGEST_WAIT = 3600.0
"""Seconds. Who is told to come back later asks again after these: one request an hour costs nothing, and what was told
may be broken (infinity, the year 9999)."""
MOST_TOLD = 1e12
"""Requests or tokens a minute; a limit above is none."""

EXHAUSTED = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Error codes that say that waiting will not help: the account is empty."""

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
_TRY_AGAIN = re.compile(r"(?:try again|retry) in ((?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+)", re.IGNORECASE)
_ABOUT_INPUT = re.compile(r"(?:maximum|too).{0,40}(?:length|long|tokens)|empty string", re.IGNORECASE)


def clean(text: str, secret: str = "") -> str:
    """One short line without secrets: ``secret`` and what looks like a key starred out, control characters dropped."""
    # category C: controls, escapes, bidirectional marks, surrogates; a terminal must not meet any
    text = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in text[:4000])
    text = redact(hide(" ".join(text.split()), secret))
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def repeats(message: str, texts: Sequence[str]) -> bool:
    """Whether an error's ``message`` repeats some of the ``texts`` that were sent, however it is quoted or escaped.

    That is, ECHO letters and digits in a row of one of them, or the whole of a shorter text.
    """
    said, words = _letters(html.unescape(_ESCAPED.sub(_unescape, message))), f" {' '.join(message.split())} "
    plain = [_letters(text) for text in texts]
    everything = "\n".join(plain)
    return any(said[at : at + ECHO] in everything for at in range(len(said) - ECHO + 1)) or any(
        SHORTEST_ECHO <= len(one) < ECHO and (one == said or _stands_in(text, words))
        for one, text in zip(plain, texts, strict=True)
    )


def _letters(text: str) -> str:
    return _NO_LETTERS.sub("", text).casefold()


def _unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else " "


def _stands_in(text: str, words: str) -> bool:
    text = " ".join(text.split())
    return any(f"{before}{text}{after}" in words for before, after in ((" ", " "), ("'", "'"), ('"', '"'), ("`", "`")))


def parse_duration(text: str) -> float | None:
    """Seconds of ``12ms``, ``1s``, ``6m0s``, ``1h2m`` or a bare number of seconds; None where it is none of these."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        # endless digits make an infinity that no word tells
        seconds = _number(str(sum(float(number) * _UNITS[unit] for number, unit in parts)))
    else:
        seconds = _number(text)
    return None if seconds is None or seconds < 0 else seconds


def _wait(text: str) -> float | None:
    seconds = parse_duration(text)
    return None if seconds is None else min(seconds, LONGEST_WAIT)


def _number(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _limit(text: str | None) -> float | None:
    number = _number(text)
    return number if number is not None and 1 <= number <= MOST_TOLD else None


def _remaining(text: str | None) -> float | None:
    # some gateways count below zero
    number = _number(text)
    return None if number is None else min(max(0.0, number), MOST_TOLD)


def parse_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """The x-ratelimit-* headers of a reply; None where there are none, or none that can be true."""
    limits = RateLimits(
        limit_requests=_limit(headers.get("x-ratelimit-limit-requests")),
        limit_tokens=_limit(headers.get("x-ratelimit-limit-tokens")),
        remaining_requests=_remaining(headers.get("x-ratelimit-remaining-requests")),
        remaining_tokens=_remaining(headers.get("x-ratelimit-remaining-tokens")),
        reset_requests=_wait(headers.get("x-ratelimit-reset-requests", "")),
        reset_tokens=_wait(headers.get("x-ratelimit-reset-tokens", "")),
    )
    return None if limits == RateLimits() else limits


def parse_retry_after(headers: Mapping[str, str], message: str = "", now: datetime | None = None) -> float | None:
    """Seconds to wait before the next try, LONGEST_WAIT at most; None where the provider does not say.

    In this order: ``retry-after-ms``, ``Retry-After`` (seconds or an HTTP date), "try again in …" of the message, and
    the resets of the exhausted limits (of any, where none is said to be exhausted).
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None and milliseconds >= 0:
        return min(milliseconds / 1000, LONGEST_WAIT)
    header = headers.get("retry-after")
    if header is not None:
        seconds = _wait(header)
        if seconds is not None:
            return seconds
        try:
            date = parsedate_to_datetime(header)
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            seconds = (date - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, OverflowError):
            seconds = None
        if seconds is not None:
            return min(max(0.0, seconds), LONGEST_WAIT)
    told = _TRY_AGAIN.search(message)
    if told:
        return _wait(told[1])
    limits = parse_limits(headers)
    if limits is None:
        return None
    pairs = [
        (limits.remaining_requests, limits.reset_requests),
        (limits.remaining_tokens, limits.reset_tokens),
    ]
    resets = [reset for left, reset in pairs if reset is not None and left is not None and left <= 0]
    resets = resets or [reset for _, reset in pairs if reset is not None]
    return max(resets, default=None)


def _other_key(variable: str, file: str) -> str:
    """What to do where a key is refused: only ``.env`` is read again, and the environment comes before it."""
    if file:
        return f"{variable} is read from {file}: put a valid key there, and resume."
    return f"{variable} is of the environment, which comes before .env: set a valid key there, and start again."


def classify(
    status: int,
    message: str,
    *,
    error_code: str | None,
    error_type: str | None,
    param: str | None,
    headers: Mapping[str, str],
    texts: Sequence[str],
    model: EmbeddingModel,
    secret: str,
    key_file: str = "",
) -> ProviderFault:
    """The fault of an error reply to a request for ``texts``.

    The class is a first guess by status and words, which may be those of a text: while the fault is ``suspicious``, the
    caller has to find out whether an innocent text fares the same. The reason repeats none of the texts. ``key_file``:
    the ``.env`` that the key is from; empty: the environment.
    """
    if repeats(clean(message, secret), texts):
        names = [each for each in (error_type, error_code) if each and _NAME.fullmatch(each)]
        message = " ".join([*(names if not repeats(" ".join(names), texts) else []), "(its words repeat a text)"])
        told: tuple[int | None, int | None] = (None, None)
    else:
        told = told_limits(clean(message, secret), len(texts)) if len(texts) > 1 else (None, None)
    reason = clean(f"{status}: {message}" if message else f"HTTP status {status}", secret)
    limits = parse_limits(headers)
    variable = model.key_variable or "the key's variable"

    def configuration(code: str, hint: str) -> ProviderFault:
        return ProviderFault(FaultClass.CONFIGURATION, code, reason, hint=hint, limits=limits)

    if {error_code, error_type} & EXHAUSTED or status == 402:
        return configuration("insufficient_quota", "Add credit to the provider's account or raise its limit.")
    if status == 401 or "api key not valid" in message.lower():
        return configuration("401", _other_key(variable, key_file))
    if status == 403:
        source = key_file or "the environment"
        mend = f"Give the key in {variable} (from {source}) the right to use the model {model.name}."
        return configuration("403", mend)
    if status in (404, 410):
        mend = f"Check the model's name ({model.name}) and base URL; if it was shut down, mark it as retired."
        return configuration(str(status), mend)
    if status in (408, 409, 424, 425, 429) or status >= 500:
        wait = parse_retry_after(headers, message)
        hint = "Wait, or lower the pace." if status == 429 else "Wait: the provider is tried again by itself."
        return ProviderFault(FaultClass.PROVIDER, str(status), reason, hint=hint, retry_after=wait, limits=limits)
    if status in (400, 413, 422):
        if param == "dimensions" or "dimensions" in message.lower():
            mend = f"Set dimensions that {model.name} can give, or set send_dimensions = false."
            return configuration("dimensions", mend)
        if param == "model":
            return configuration("400", f"Check the model's name ({model.name}).")
        if len(texts) > 1 or param == "input" or _ABOUT_INPUT.search(message):
            return ProviderFault(FaultClass.ROW, str(status), reason, hint=ROW_HINT, limits=limits, told=told)
    return configuration(
        str(status),
        "The provider rejects the request itself: check base URL, model, and what it wants to be told (extra_body).",
    )
