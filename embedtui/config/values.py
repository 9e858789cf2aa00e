"""How a single value is read; each function raises ValueError with what would be right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from embedtui.model import Distance, IndexMethod, PlacementKind
from embedtui.model.migration import USES


def text(value: object) -> str:
    """A text that says something."""
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def any_text(value: object) -> str:
    """A text, also an empty one."""
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")
    return value


def names(value: object) -> tuple[str, ...]:
    """Column names, or SQL in their place: a list, or one text with commas, which within SQL divide nothing."""
    parts = at_commas(value) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts or not all(isinstance(part, str) and part for part in parts):
        raise ValueError('must be a list of column names, e.g. ["title", "body"]')
    if len(set(parts)) != len(parts):
        raise ValueError("names a column twice")
    return tuple(parts)


def at_commas(text: str) -> list[str]:
    """The parts between commas that are in no quotes and no parentheses; between all where those do not close."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "," and depth == 0:
            parts.append("")
            continue
        else:
            depth += (char in "([") - (char in ")]")
        parts[-1] += char
    return [part.strip() for part in (text.split(",") if quote or depth else parts)]


def roles(value: object) -> tuple[str, ...]:
    """Names of roles: a list, or one text with commas."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) and part for part in parts):
        raise ValueError('must be a list of roles, e.g. ["product"]')
    return tuple(parts)


def accept(value: object) -> tuple[str, ...]:
    """Names of the plan's checks that may be accepted: a list, or one text with commas."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError('must be a list, e.g. ["publications"]')
    return tuple(one_of("publications", "proof", "event triggers")(part) for part in parts)


def whole(low: int, high: int) -> Callable[[object], int]:
    """A whole number from ``low`` to ``high``."""

    def parse(value: object) -> int:
        number = number_of(value)
        if number is None or number != int(number) or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low:,} to {high:,}")
        return int(number)

    return parse


def number(low: float, high: float, *, above: bool = False) -> Callable[[object], float]:
    """A number from ``low`` (with ``above``: not ``low`` itself) to ``high``."""

    def parse(value: object) -> float:
        number = number_of(value)
        if number is None or not low <= number <= high or (above and number == low):
            if high == float("inf"):
                raise ValueError(f"must be a number {'above' if above else 'of at least'} {low:g}")
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return number

    return parse


def number_of(value: object) -> float | None:
    """A number, or the number that a text spells; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def yes(value: object) -> bool:
    """A truth value, or one of the words that variables have for it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "1", "0", "on", "off"):
        return value.lower() in ("true", "yes", "1", "on")
    raise ValueError("must be true or false")


def memory(value: object) -> str:
    """A size as PostgreSQL writes it."""
    if not isinstance(value, str) or not re.fullmatch(r"[1-9]\d*(kB|MB|GB|TB)", value):
        raise ValueError("must be a size such as 512MB or 4GB")
    return value


def or_off(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    """``false`` switches the reason off."""
    return lambda value: None if value is False or value == "false" else parse(value)


def one_of(*choices: str) -> Callable[[object], str]:
    """One of these words."""

    def parse(value: object) -> str:
        if value not in choices:
            close = get_close_matches(str(value), choices, n=1)
            raise ValueError(f"must be {', '.join(choices)}" + (f"; did you mean {close[0]}?" if close else ""))
        return str(value)

    return parse


def placement(value: object) -> PlacementKind | None:
    """``auto`` is None: as the plan recommends."""
    found = one_of("auto", "column", "table")(value)
    return None if found == "auto" else PlacementKind(found)


def distance(value: object) -> Distance:
    """A distance by its short name."""
    return Distance(one_of(*(each.value for each in Distance))(value))


def method(value: object) -> IndexMethod:
    """A method of the approximate index."""
    return IndexMethod(one_of(*(each.value for each in IndexMethod))(value))


_LONG_WORD = re.compile(r"[A-Za-z0-9]{20,}")
MOST_DIGITS = 2
"""Of a long word of a name, as in ``OPENAIPRODUCTIONKEY2``: a key of that length has more, or letters of both cases."""


def _of_a_key(word: str) -> bool:
    digits = sum(each.isdigit() for each in word)
    return digits > MOST_DIGITS or (digits > 0 and not word.isupper() and not word.islower())


def variable(value: object) -> str:
    """The name of an environment variable."""
    named = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value)
    if not isinstance(value, str) or not named or any(map(_of_a_key, _LONG_WORD.findall(value))):
        raise ValueError("must be the name of an environment variable, never the secret itself")
    return value


def variables(value: object) -> tuple[str, ...]:
    """Names of environment variables: a list, or a text with commas."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError('must be a list of environment variables, e.g. ["KUBECONFIG"]')
    return tuple(variable(part) for part in parts)


def variable_or_none(value: object) -> str:
    """The name of an environment variable, or empty for none."""
    return "" if value == "" else variable(value)


def url(value: object) -> str:
    """The address of a service, without credentials."""
    given = text(value).strip()
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL like https://api.example.com/v1")
    if parts.username or parts.password:
        raise ValueError("must not carry a key or password; the key's own variable holds it")
    if any(SECRET_NAME.search(name) for name, _ in parse_qsl(parts.query)):
        raise ValueError("must not carry a key in its query; a header that names a variable may (headers)")
    return given


SECRET_NAME = re.compile(r"(?i)(^|[-_])(api[-_]?key|key|token|secret|password|passwd|authorization|cookie|sig)$")
"""Of a header, field or parameter whose value is a secret."""
SECRET_VALUE = re.compile(
    r"^(sk|pk|rk)-[\w-]{8,}|^AIza[\w-]{20,}|^[a-z][a-z0-9+]*:?//?/?[^/\s]*:\S*@|\bpassword\s*=\s*\S"
)
_HEADER = re.compile(r"[!#$%&'*+.^`|~\w-]+", re.ASCII)
_OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
    | {"x-stainless-raw-response"}
)
VARIABLE_IN = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
"""Where a header's value names an environment variable: ``$NAME`` or ``${NAME}``."""


def _by_use(value: object, entry: Callable[[str, object], object]) -> dict[str, Any]:
    """A table whose entries ``entry`` checks, those in tables for one use as well."""
    if not isinstance(value, Mapping):
        raise ValueError('must be a table, e.g. { user = "embedtui", query = { purpose = "search" } }')
    found: dict[str, Any] = {}
    for name, each in value.items():
        if name in USES and isinstance(each, Mapping):
            found[name] = {inner: entry(inner, deep) for inner, deep in each.items()}
        else:
            found[name] = entry(name, each)
    return found


def body(value: object) -> dict[str, Any]:
    """Further fields of a request: plain values, lists and tables."""

    def plain(name: str, each: object) -> object:
        if name in ("model", "input", "texts"):
            raise ValueError(f"{name} is not to be set here")
        if SECRET_NAME.search(name) and isinstance(each, str):
            raise ValueError(f"{name} looks like a secret; a header that names a variable may carry it (headers)")
        if isinstance(each, Mapping):
            return {inner: plain(inner, deep) for inner, deep in each.items()}
        if isinstance(each, list | tuple):
            return [plain(name, one) for one in each]
        if not isinstance(each, str | int | float | bool):
            raise ValueError(f"{name} must be a text, a number, true or false, a list or a table")
        return each

    return _by_use(value, plain)


def headers(value: object) -> dict[str, Any]:
    """Further headers of a request; a value may name environment variables, and a secret one has to."""

    def header(name: str, each: object) -> str:
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise ValueError(f"{name} is no header that can be set")
        if not isinstance(each, str) or not each.isascii() or not each.isprintable():
            raise ValueError(f"{name} must be a text without line breaks")
        plain = VARIABLE_IN.sub("", each).strip()
        if SECRET_VALUE.search(plain) or (SECRET_NAME.search(name) and plain == each.strip()):
            raise ValueError(f'{name} looks like a secret: name the variable that holds it, e.g. "$GATEWAY_TOKEN"')
        return each

    return _by_use(value, header)
