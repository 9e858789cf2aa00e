"""What may be shown or written down: text without secrets and control characters.

A secret is kept out by value where it is known, by its look where it is not.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

SHORT, LONG = 4, 8
"""Characters. A shorter secret is never looked for by value (`k` made "to***ens" of "tokens"), one between them only as
a word of its own."""
WORD = 16
"""A secret of letters alone that is shorter than this may be an ordinary word (`postgres`): not looked for by value."""
PARTLY = 24
"""Parts of a secret at least so long are hidden as well: some providers repeat half a key."""
RUN = 12
"""Characters that such a part has at least."""

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


def remember(*secrets: str) -> None:
    """From now on :func:`redact` hides these secrets, also in their URL-decoded form; :func:`hide` says which are not.

    One shorter than SHORT would hide half of every text, and is left out.
    """
    with _lock:
        _known.update(form for each in secrets for form in (each, unquote(each)) if len(form) >= SHORT)


def secrets_of(environ: Mapping[str, str], variables: Iterable[str] = ()) -> Iterator[str]:
    """The secrets in an environment: by variables' names, by ``variables``, and passwords in connection strings."""
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
