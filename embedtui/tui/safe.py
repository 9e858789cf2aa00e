"""Makes untrusted text harmless on a screen: no control characters, no bidirectional or invisible ones."""

from __future__ import annotations

import re
import unicodedata

_SPACES = re.compile(r"[\t\n\r\v\f\x85\u2028\u2029]+")
_MARK = "\N{MIDDLE DOT}"
# Format characters (category Cf) hold the bidirectional overrides and the zero-width ones. ZWJ inside an emoji goes
# too: terminals disagree about the width of joined emoji, and a wrong width breaks every line after it.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn"))
_VARIATION = frozenset(map(chr, range(0xFE00, 0xFE10)))
# More combining marks than this on one letter ("zalgo") are not writing in any script.
_MAX_MARKS = 3


def line(text: str, limit: int = 4000) -> str:
    """``text`` as one harmless line of at most ``limit`` characters: runs of line breaks and tabs become one space."""
    return _neutral(_SPACES.sub(" ", text[: limit + 1]), limit)


def block(text: str, limit: int = 100_000) -> str:
    """``text`` with its line breaks kept, tabs as four spaces, all else as in :func:`line`."""
    lines = text[: limit + 1].replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ").split("\n")
    return "\n".join(_neutral(each, limit) for each in lines)


def _neutral(text: str, limit: int) -> str:
    if text.isascii() and text.isprintable():
        return text if len(text) <= limit else text[: limit - 1] + "…"
    out: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        if character in _VARIATION:
            continue
        if category in _HIDDEN:
            if category != "Cf":
                out.append(_MARK)
            continue
        if category in ("Mn", "Me"):
            marks += 1
            if marks > _MAX_MARKS:
                continue
        else:
            marks = 0
        out.append(character)
    harmless = "".join(out)
    return harmless if len(harmless) <= limit else harmless[: limit - 1] + "…"
