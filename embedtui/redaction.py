"""What may be shown or written down: text without secrets and control characters, tracebacks without documents.

A secret is kept out by value where it is known, by its look where it is not.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

SHORT, LONG = 4, 8
"""Characters. A shorter secret is never looked for by value (`k` made "to***ens" of "tokens"), one between them only as
a word of its own."""
WORD = 16
"""A secret of letters alone that is shorter than this may be an ordinary word (`postgres`): not looked for by value."""
RUN, PARTLY = 12, 24
"""Of a secret at least so long (the second), runs of the first are hidden as well: some providers repeat half a key."""

# The scheme and its slashes may be mistyped, and the password may hold anything: up to the last @ of the word.
_URL = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*:?//?/?[^\s:/@]*:)\S+(?=@)", re.IGNORECASE)
_PARAMETER = re.compile(
    r"(?P<head>\b(?:password|sslpassword|passwd|pwd|api_?key|access_token|client_secret)\s*=\s*)"
    r"(?:'(?:[^'\\]|\\.)*(?:'|$)|[^\s&]+)",
    re.IGNORECASE,
)
_KEY = re.compile(r"\b(?:sk|pk|rk|key)-[\w*.-]{4,}|\bAIza[\w-]{10,}")
_BEARER = re.compile(r"(?P<head>\bBearer\s+)[^\s\"',]+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")

_known: set[str] = set()
_lock = threading.Lock()

# not PWD and OLDPWD, which every shell has: they are folders, and stand in every traceback
_SECRET_VARIABLE = re.compile(r"(?i)(key|token|secret|password|passwd|_pwd|credentials?)\d*$")
_PASSWORD = re.compile(r"\w+://[^\s:/@]*:([^\s@]+)@|\bpassword\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s'&]+))")
_QUOTED = re.compile(r"(?<!\w)(['\"])((?:\\.|(?!\1).)*)\1(?!\w)")
_PLAIN_NAME = re.compile(r"[\w.$:/<>-]{0,80}")

MESSAGE = 300
"""Characters of an exception's message that are written down."""
FRAGMENT = 12
"""Characters that a message and a text in the traceback's variables share for it to count as taken from there."""
LOOKED_AT = 2_000_000
"""Characters of texts in a traceback's variables that are looked at: about a second's work."""


def remember(*secrets: str) -> None:
    """From now on :func:`redact` hides these secrets wherever they stand, also in their URL-decoded form."""
    with _lock:
        _known.update(form for each in secrets for form in (each, unquote(each)) if len(form) >= SHORT)


def secrets_of(environ: Mapping[str, str], variables: Iterable[str] = ()) -> Iterator[str]:
    """The secrets in an environment: by their variables' names, by ``variables``, and passwords in URLs."""
    named = set(variables)
    for name, value in environ.items():
        passwords = [each for found in _PASSWORD.findall(value) for each in found if each]
        yield from passwords
        if (name in named or _SECRET_VARIABLE.search(name)) and not passwords:
            yield value.strip()


def redact(text: str) -> str:
    """``text`` with passwords, API keys and control characters (ANSI escapes, bidi overrides) taken out."""
    text = _CONTROL.sub("", text)
    with _lock:
        known = sorted(_known, key=len, reverse=True)
    for secret in known:
        text = hide(text, secret)
    text = _URL.sub(r"\g<head>***", text)
    text = _PARAMETER.sub(r"\g<head>***", text)
    text = _KEY.sub("***", text)
    return _BEARER.sub(r"\g<head>***", text)


def without_secrets(text: str) -> str:
    """As :func:`redact`, and without this process's own secrets, whatever they look like.

    For what is written down or unforeseen; in what is said on purpose, the password ``postgres`` would hide a name.
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, "***")
    return redact(text)


def hide(text: str, secret: str) -> str:
    """``text`` without ``secret``; what may be an ordinary word stays, see the constants above."""
    if len(secret) < SHORT or (len(secret) < WORD and secret.isalpha()):
        return text
    if len(secret) < LONG:
        return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    text = text.replace(secret, "***")
    return hide_runs(text, secret, RUN) if len(secret) >= PARTLY else text


def hide_runs(text: str, secret: str, least: int) -> str:
    """``text`` without any run of ``least`` characters that ``secret`` has as well."""
    runs = {secret[start : start + least] for start in range(len(secret) - least + 1)}
    parts: list[str] = []
    hidden_to = shown_from = 0
    for start in range(len(text) - least + 1):
        if text[start : start + least] in runs:
            if start > hidden_to or not parts:
                parts.append(text[shown_from:start])
            hidden_to = shown_from = start + least
    return "***".join([*parts, text[shown_from:]])


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
