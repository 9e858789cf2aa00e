"""Whatever bytes a terminal sends, the dashboard lives, and the next key counts."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from embedtui.tui.driver import _pasting, _remember
from tests.tui.test_terminal import Terminal

ODD = {
    "a byte that no text has": b"\xff",
    "half a letter": b"\xc3",
    "half a letter, then another": b"\xe2\x82X",
    "surrogates": b"\xed\xa0\x80",
    "overlong": b"\xc0\xaf\xf8\x88\x80\x80\x80",
    "Latin-1, pasted": b"\x1b[200~caf\xe9 \xe4\xf6\xfc\xdf\x1b[201~",
    "Latin-1, pasted, long": b"\x1b[200~" + b"r\xe9D" * 5000 + b"\x1b[201~",
    "the end of a paste alone": b"\x1b[201~",
    "a key beyond Unicode": b"\x1b[99999999999u",
    "a key below it": b"\x1b[1114112;5u\x1b[55296u",
    "a size without numbers": b"\x1b[48;;;;t\x1b[48;x;y;1;1t",
    "a place without end": b"\x1b[" + b"9" * 20 + b";1R",
    "a mouse far away": b"\x1b[<0;99999999999999999999;-5M",
    "an old mouse": b"\x1b[M\xff\xff\xff",
    "a mode of its own": b"\x1b[?2048;9$y",
    "NUL": b"\x00\x00",
    "half a sequence": b"\x1b[",
    "an answer nobody asked for": b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\\x1bP1$r0m\x1b\\",
}


def leaves(terminal: Terminal) -> None:
    """Ctrl-Q still does its work."""
    time.sleep(0.3)  # a lone escape has to be over: what comes with it would belong to it
    os.write(terminal.master, b"\x11")
    assert terminal.ended() == 0
    assert b"Traceback" not in terminal.output, terminal.output[-3000:]
    assert b"closed" in terminal.output


@pytest.mark.parametrize("sent", ODD.values(), ids=ODD)
@pytest.mark.variants(9)
def test_it_lives(tmp_path: Path, sent: bytes) -> None:
    terminal = Terminal(tmp_path)
    try:
        terminal.wait_for(b"documents")
        os.write(terminal.master, sent[:4000])
        if len(sent) > 4000:
            time.sleep(0.2)
            os.write(terminal.master, sent[4000:7500] + b"\x1b[201~")
        leaves(terminal)
    finally:
        terminal.close()


def test_a_paste_that_lost_its_end_ends(tmp_path: Path) -> None:
    """Until then what is typed belongs to it, for it may be a slow paste."""
    terminal = Terminal(tmp_path)
    try:
        terminal.wait_for(b"documents")
        os.write(terminal.master, b"\x1b[200~some text")
        deadline = time.monotonic() + 60
        while terminal.process.poll() is None:
            assert time.monotonic() < deadline, "the keyboard is dead"
            time.sleep(4.0)
            os.write(terminal.master, b"\x11")
            terminal._read(0.5)
        assert terminal.process.returncode == 0
    finally:
        terminal.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.variants(1)
def test_it_lives_through_noise(tmp_path: Path, seed: int) -> None:
    """Random bytes around escapes; no letter that is a key of ours, and no paste."""
    chance = random.Random(seed)
    pieces = [b"\x1b[", b"\x1bO", b"\x1b", b";", b"<", b"?", b"u", b"~", b"M", b"R", b"t", b"$y"]
    terminal = Terminal(tmp_path, EMBEDTUI_TEST="1")
    try:
        terminal.wait_for(b"documents")
        for _ in range(40):
            noise = b"\x1b[" + b"".join(
                chance.choice([*pieces, b"%d" % chance.randrange(10**12), bytes([chance.randrange(128, 256)])])
                for _ in range(chance.randrange(1, 8))
            )
            os.write(terminal.master, noise.replace(b"200~", b"") + b"\x1b\x1b")
            terminal._read(0.02)
        time.sleep(0.5)
        assert terminal.process.poll() is None or b"Traceback" not in terminal.output
        os.write(terminal.master, b"\x1b")
        leaves(terminal)
    finally:
        terminal.close()


@pytest.mark.parametrize(
    "environ",
    [
        {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"LANG": "C", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1:strict"},
    ],
    ids=str,
)
def test_a_locale_of_ascii_shows_the_same_screen(tmp_path: Path, environ: dict[str, str]) -> None:
    terminal = Terminal(tmp_path, **environ)
    try:
        terminal.wait_for(b"documents")
        terminal.wait_for("─".encode())
        leaves(terminal)
        assert b"\\u2" not in terminal.output
    finally:
        terminal.close()


def test_where_a_paste_is_open_is_known_across_pieces() -> None:
    text = "abc\x1b[200~def\x1b[201~g\x1b[200~" + "x" * 50 + "\x1b[201~h\x1b[200~tail"
    expected = [text[: end + 1].rfind("\x1b[200~") > text[: end + 1].rfind("\x1b[201~") for end in range(len(text))]
    tail, found = "", []
    for letter in text:
        tail = _remember(tail + letter)
        found.append(_pasting(tail))
        assert len(tail) <= 12
    assert found == expected
