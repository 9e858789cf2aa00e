"""What may be shown or written down: text without passwords and keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

_DSN_PASSWORD = re.compile(r"(?P<head>\w+://[^\s:/@]*:)[^\s@]*(?=@)")
_DSN_PARAMETER = re.compile(
    r"(?P<head>\b(?:password|sslpassword|passwd|pwd)\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE
)
_KEY = re.compile(r"\b(?:(?:sk|pk|rk|key)-[A-Za-z0-9_\-*]{6,}|AIza[\w-]{20,})")
_BEARER = re.compile(r"(?P<head>\bBearer\s+)\S+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")

# not PWD and OLDPWD, which every shell has: they are folders, and stand in every traceback
_SECRET_VARIABLE = re.compile(r"(?i)(key|token|secret|password|passwd|_pwd|credentials?)\d*$")
_PASSWORD = re.compile(r"\w+://[^\s:/@]*:([^\s@]+)@|\bpassword\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s'&]+))")

SHORTEST_SECRET = 4
"""Characters; a shorter value would be found in half the words of a text."""
_hidden: set[str] = set()


def remember(secret: str) -> None:
    """Have :func:`without_secrets` take this value out from now on, also in its URL-decoded form."""
    _hidden.update(form for form in (secret, unquote(secret)) if len(form) >= SHORTEST_SECRET)


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
    text = _DSN_PASSWORD.sub(r"\g<head>***", text)
    text = _DSN_PARAMETER.sub(r"\g<head>***", text)
    text = _KEY.sub("***", text)
    text = _BEARER.sub(r"\g<head>***", text)
    return _CONTROL.sub("", text)


def without_secrets(text: str) -> str:
    """As :func:`redact`, and without this process's own secrets, whatever they look like.

    For what is written down or unforeseen; in what is said on purpose, the password ``postgres`` would hide a name.
    """
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, "***")
    return redact(text)
