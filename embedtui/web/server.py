"""Serves the dashboard by textual-serve, to the one browser that opened the link.

textual-serve starts a process for each page and carries its keys and cells; it knows no visitors. Here every request
has to come from the browser that spent a one-time link, and from a page of ours.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp_jinja2
from aiohttp import web
from textual_serve.server import Server

MAX_PAGES = 8
"""Dashboards at a time; each is a process with connections of its own."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")

LEAVE_SECONDS = 1.0
"""For open pages to end by themselves on SIGINT; then they are closed."""

_PAGES = web.AppKey("pages", set)
_log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DashboardServer(Server):  # type: ignore[misc, unused-ignore]
    """One dashboard for whoever opens :attr:`link`, which is another after each use."""

    def __init__(
        self, command: str, host: str, port: int, announce: Callable[[str], None], *, public_url: str | None = None
    ) -> None:
        """Nothing is listened on yet.

        Args:
            command: shell command of the dashboard; it gets keys on stdin, and answers in textual-serve's packets.
            host: address to listen on.
            port: port to listen on.
            announce: told each link as it begins to open the dashboard.
            public_url: where browsers reach it, if that is somewhere else: ``https://…`` of a proxy.
        """
        named = f"[{host}]" if ":" in host else host
        super().__init__(
            command,
            host,
            port,
            title="embedtui",
            public_url=(public_url or f"http://{named}:{port}").rstrip("/"),
            templates_path=Path(__file__).parent,
        )
        self._announce = announce
        self._token = secrets.token_urlsafe(32)
        self._visitors: set[str] = set()
        self._cookie = f"embedtui_{port}"  # browsers share cookies between the ports of a host

    @property
    def link(self) -> str:
        """The address that opens the dashboard once."""
        return f"{self.public_url}/?token={self._token}"

    def initialize_logging(self) -> None:
        """Keep textual-serve from logging to the terminal, with local variables."""

    async def on_startup(self, _app: web.Application) -> None:
        """Say nothing: the command does."""

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; the first link is announced once we listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # its lines hold links
        web.run_app(
            self.application(),
            host=self.host,
            port=self.port,
            print=lambda *_: self._announce(self.link),
            access_log=None,
            shutdown_timeout=LEAVE_SECONDS,
        )

    async def application(self) -> web.Application:
        """textual-serve's application behind our guard."""
        app: web.Application = await self._make_app()

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        app.middlewares.append(guard)
        app[_PAGES] = set()
        app.on_response_prepare.append(_closed_to_others)
        return app

    # ------------------------------------------------------------------------------------------------- who may

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host not in self._hosts():
            raise web.HTTPForbidden(text=f"embedtui is not served as {request.host}.")  # a foreign name for our address
        token = request.query.get("token", "")
        if request.path == "/" and token and hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            return await self._welcome(request, handler)
        if request.cookies.get(self._cookie) not in self._visitors:
            raise web.HTTPForbidden(text="This link was used, or is none. `embedtui serve` prints one that opens once.")
        if request.path == "/ws":
            return await self._page(request, handler)
        return await handler(request)

    async def _welcome(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._token = secrets.token_urlsafe(32)
        visitor = secrets.token_urlsafe(32)
        self._visitors.add(visitor)
        response = await handler(request)
        secure = self.public_url.startswith("https")
        response.set_cookie(self._cookie, visitor, httponly=True, samesite="Strict", secure=secure, path="/")
        _log.info("opened by %s", request.remote)
        self._announce(self.link)
        return response

    async def _page(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # browsers name the page that asks, and let any page ask
        if urlsplit(request.headers.get("Origin", "")).netloc != request.host:
            raise web.HTTPForbidden(text="Only embedtui's own page may ask for this.")
        pages = request.app[_PAGES]
        if len(pages) >= MAX_PAGES:
            raise web.HTTPServiceUnavailable(text=f"{MAX_PAGES} dashboards are open already.")
        page = object()
        pages.add(page)
        try:
            return await handler(request)
        finally:
            pages.discard(page)

    def _hosts(self) -> set[str]:
        """Names under which browsers may ask for us; another one is a page that rebinds its name to our address."""
        hosts = {urlsplit(self.public_url).netloc}
        if self.host in LOOPBACK:
            hosts |= {f"{name}:{self.port}" for name in ("127.0.0.1", "[::1]", "localhost")}
        return hosts

    @aiohttp_jinja2.template("page.html")
    async def handle_index(self, request: web.Request) -> dict[str, object]:
        """The page, for the name by which it was asked for."""
        secure = self.public_url.startswith("https")
        request["nonce"] = secrets.token_urlsafe(16)
        return {
            "application": {"name": self.title},
            "app_websocket_url": f"{'wss' if secure else 'ws'}://{request.host}/ws",
            "font_size": 16,
            "nonce": request["nonce"],
        }


async def _closed_to_others(request: web.Request, response: web.StreamResponse) -> None:
    """Nothing is loaded from elsewhere, kept, framed, or told to other sites."""
    response.headers.update(
        {
            "Content-Security-Policy": "default-src 'none'; script-src 'self'"
            f" 'nonce-{request.get('nonce', secrets.token_urlsafe(16))}'; style-src 'self' 'unsafe-inline';"
            " img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
            " frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
    )
