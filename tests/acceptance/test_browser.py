"""The dashboard in a browser: nothing without the link, once with it, no keys that change anything; real Chromium."""

from __future__ import annotations

import http.client
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.engine.validate.report import to_html
from embedtui.model import QueryComparison, RankedRow
from tests.kits.cli_kit import Shell, rows
from tests.kits.support import make_documents, settings_for, wait_for
from tests.unit.engine.test_report import COMPARISON, MIGRATION

pytest.importorskip("textual_serve")

CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
HEADERS = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
CLOSED = "WebSocket is already in CLOSING or CLOSED state"  # a key into a page that was closed
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'embedtui%' AND datname = current_database()"
)
KEY = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}


class Served:
    """`embedtui serve` as a process, and what it prints."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def link(self) -> str:
        """The newest link that it printed."""
        assert self.process.stderr is not None
        while select.select([self.process.stderr], [], [], 20)[0] and (line := self.process.stderr.readline()):
            if found := re.search(r"http://\S+token=\S+", line):
                return found[0]
        raise AssertionError("no link was printed")

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Status, headers and body of a GET."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as conn:
            conn.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            reply = conn.getresponse()
            upgraded = reply.status == 101
            return reply.status, dict(reply.getheaders()), "" if upgraded else reply.read().decode(errors="replace")

    def upgraded(self, cookie: str, origin: str) -> int:
        """Status of a page's request for its channel."""
        return self.get("/ws", **HEADERS, **KEY, Cookie=cookie, **({"Origin": origin} if origin else {}))[0]


@pytest.fixture
def migrated(database: str, api: LoopbackServer, tmp_path: Path) -> dict[str, str]:
    """A table whose new side is full, and the environment of a command for it."""
    make_documents(database, 120)
    with closing(Engine(database, None, settings_for(database, api, tmp_path))) as engine:
        engine.run(threading.Event())
    return {"DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}


@contextmanager
def serving(folder: Path, environ: dict[str, str], *options: str) -> Iterator[Served]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    process = Shell(folder, environ).start("serve", "--port", str(port), *options)
    try:
        yield Served(process, port)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode in (0, 130)


def test_nothing_without_the_link(migrated: dict[str, str], tmp_path: Path) -> None:
    with serving(tmp_path, migrated) as served:
        link = served.link()
        path = link.split(str(served.port))[1]
        assert link.startswith("http://127.0.0.1:")
        for refused in ("/", "/?token=", "/?token=x", "/ws", "/static/js/textual.js", "/download/x", path[:-1]):
            assert served.get(refused)[0] == 403, refused
        assert served.get(path, Host=f"evil.example:{served.port}")[0] == 403, "a name rebound to our address"

        status, headers, page = served.get(path)
        assert status == 200
        assert "https://" not in page, "nothing is loaded from elsewhere"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
        assert served.get(path)[0] == 403, "it opens once"

        cookie, here = headers["Set-Cookie"].split(";")[0], f"http://127.0.0.1:{served.port}"
        assert served.get("/", Cookie=cookie)[0] == 200
        assert served.get("/static/js/textual.js", Cookie=cookie)[0] == 200
        for foreign in ("", "http://127.0.0.1:1", "https://evil.example", "null"):
            assert served.upgraded(cookie, foreign) == 403, foreign
        assert served.upgraded("embedtui=x", here) == 403
        assert served.upgraded(cookie, here) == 101

        second = served.link()  # printed when the first was spent
        assert second != link and served.get(second.split(str(served.port))[1])[0] == 200


def test_addresses_that_cannot_be_served_are_refused(migrated: dict[str, str], tmp_path: Path) -> None:
    shell = Shell(tmp_path, migrated)
    shell.spawn("serve", "--host", "0.0.0.0").refused(2, "--public-url")
    shell.spawn("serve", "--public-url", "https://db.example/embedtui").refused(2, "root")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        shell.spawn("serve", "--port", str(taken.getsockname()[1])).refused(2, "--port")
    Shell(tmp_path, {}).spawn("serve").refused(2, "DATABASE_URL")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.mark.parametrize("write", [False, True], ids=["to watch", "with every key"])
def test_in_a_browser(browser: Any, migrated: dict[str, str], tmp_path: Path, write: bool) -> None:
    dsn = migrated["DATABASE_URL"]
    with serving(tmp_path, migrated, *["--write"] * write) as served:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        page = context.new_page()
        complaints: list[str] = []
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type == "error" and CLOSED not in said.text else None,
        )
        foreign: list[str] = []
        page.on("request", lambda asked: foreign.append(asked.url) if "127.0.0.1" not in asked.url else None)
        page.goto(served.link())
        page.wait_for_selector("body.-first-byte")
        assert "token" not in page.url
        page.wait_for_timeout(3000)
        page.keyboard.press("p")  # pause
        page.wait_for_timeout(500)
        page.keyboard.press("Enter")
        if write:
            wait_for(lambda: rows(dsn, "SELECT desired FROM embedtui.migration") == [("pause",)])
        else:
            page.wait_for_timeout(2000)
            assert rows(dsn, "SELECT desired FROM embedtui.migration") != [("pause",)]
        if folder := os.environ.get("EMBEDTUI_TEST_PICTURES"):
            page.screenshot(path=Path(folder) / f"browser-{'write' if write else 'watch'}.png")
        page.keyboard.press("q")
        page.wait_for_selector("body.-closed")
        page.get_by_role("link", name="Open it again").click()
        page.wait_for_selector("body.-first-byte")
        assert not complaints and not foreign
        wait_for(lambda: rows(dsn, SESSIONS)[0][0] > 0)
        context.close()
        wait_for(lambda: rows(dsn, SESSIONS) == [(0,)], "a closed page leaves its dashboard behind")


def test_the_report_is_searched_without_a_network(browser: Any, tmp_path: Path) -> None:
    queries = tuple(
        QueryComparison(
            number,
            f"question {number} about {subject}",
            old=(RankedRow((str(number),), 1, 0.1, f"answer {number}"),),
            new=(RankedRow(("9",), 1, 0.1, "nothing", missed=number == 3),),
            overlap=overlap,
            rbo=overlap,
            top1_kept=False,
            ndcg_old=0.5,
            ndcg_new=ndcg,
            verdict="old" if number == 2 else "",
        )
        for number, subject, overlap, ndcg in ((1, "tides", 0.2, 0.9), (2, "Moons", 0.9, 0.1), (3, "tides", 0.5, 0.5))
    )
    file = tmp_path / "report.html"
    file.write_text(to_html(replace(COMPARISON, queries=queries), MIGRATION), encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.goto(file.as_uri())

    def shown() -> list[str]:
        found = page.locator("#queries details:visible .text").all_inner_texts()
        return [re.sub(r"\D", "", each) for each in found]

    assert shown() == ["1", "2", "3"]
    page.keyboard.press("/")
    page.keyboard.type("MOONS answer")
    assert shown() == ["2"] and page.inner_text("#count") == "1 of 3"
    page.keyboard.press("Escape")
    assert shown() == ["1", "2", "3"]
    for order, expected in (
        ("overlap", "132"),
        ("kept", "231"),
        ("worse", "231"),
        ("better", "132"),
        ("contrast", "123"),
    ):
        page.select_option("#order", order)
        assert "".join(shown()) == expected, order
    for chosen, expected in (
        ("low", "1"),
        ("worse", "2"),
        ("better", "1"),
        ("missed", "3"),
        ("open", "13"),
        ("decided", "2"),
    ):
        page.select_option("#filter", chosen)
        assert "".join(shown()) == expected, chosen
    page.select_option("#filter", "open")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    page.keyboard.press("o")
    assert page.locator("details[open] .text").all_inner_texts() == ["question 2 about Moons"]
    if folder := os.environ.get("EMBEDTUI_TEST_PICTURES"):
        page.locator("#controls").scroll_into_view_if_needed()
        page.screenshot(path=Path(folder) / "report.png")
    assert not complaints
    context.close()


def test_ctrl_c_ends_what_is_open(browser: Any, migrated: dict[str, str], tmp_path: Path) -> None:
    with serving(tmp_path, migrated) as served:
        page = browser.new_page()
        page.goto(served.link())
        page.wait_for_selector("body.-first-byte")
        wait_for(lambda: rows(migrated["DATABASE_URL"], SESSIONS)[0][0] > 0)
    page.wait_for_selector("body.-closed")
    wait_for(lambda: rows(migrated["DATABASE_URL"], SESSIONS) == [(0,)])
