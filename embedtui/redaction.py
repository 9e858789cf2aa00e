"""Keeps secrets and control characters out of every text: by value where a secret is known, by its look where not."""

from __future__ import annotations

import re
import threading

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


def remember(secret: str) -> None:
    """From now on :func:`redact` hides this secret wherever it stands."""
    with _lock:
        _known.add(secret)


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
