"""HTTP around the loopback API."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

from embedtui.demo.api.protocol import Refusal, Reply, no_model

if TYPE_CHECKING:
    from embedtui.demo.api.server import LoopbackServer

BATCHES = ("/v1/files", "/v1/batches")
"""What :class:`~embedtui.demo.api.batches.Batches` answers."""


class ApiServer(ThreadingHTTPServer):
    """Knows its LoopbackServer, and its connections so that a stop can cut them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], api: LoopbackServer) -> None:
        self.api = api
        self._connections: set[socket.socket] = set()
        self._ended = threading.Condition()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a new connection, and remember it."""
        with self._ended:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and forget it."""
        super().shutdown_request(request)
        with self._ended:
            self._connections.discard(request)
            self._ended.notify_all()

    def close_connections(self) -> None:
        """Cut all connections and wait until their threads have closed them."""
        with self._ended:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._ended.wait_for(lambda: not self._connections, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here; anything else is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive around LoopbackServer."""

    protocol_version = "HTTP/1.1"
    server_version = "embedtui-loopback"
    disable_nagle_algorithm = True
    wbufsize = 65536
    """Buffered, so that head and small bodies leave in one packet."""

    def setup(self) -> None:
        """Know the API."""
        super().setup()
        self.api = cast(ApiServer, self.server).api

    def do_GET(self) -> None:
        """The models, and the state of the server."""
        try:
            self.api.authorize(self.headers.get("Authorization", ""))
            if self.path == "/control":
                self._send(200, json.dumps(self.api.control({})).encode())
            elif self.path == "/v1/models":
                items = [{"id": name, "object": "model", "owned_by": "loopback"} for name in sorted(self.api.models)]
                self._send(200, json.dumps({"object": "list", "data": items}).encode())
            elif self.path.startswith(BATCHES):
                self._reply(self.api.batches.answer("GET", self.path, self.headers.get("Content-Type", ""), b""))
            elif self.path.removeprefix("/v1/models/") in self.api.models:
                name = self.path.removeprefix("/v1/models/")
                self._send(200, json.dumps({"id": name, "object": "model", "owned_by": "loopback"}).encode())
            elif self.path.startswith("/v1/models/"):
                raise no_model(self.path.removeprefix("/v1/models/"))
            else:
                raise Refusal(404, f"Invalid URL (GET {self.path})")
        except Refusal as refusal:
            self._send(refusal.status, refusal.body, refusal.headers)

    def do_POST(self) -> None:
        """Embeddings, and orders to the server."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization", "")
        try:
            if self.api.manners.speaks(self.path):
                headers = {name.lower(): value for name, value in self.headers.items()}
                self._reply(self.api.embeddings(self.api.manners.key(headers), body, headers))
            elif self.path.startswith(BATCHES):
                self.api.authorize(authorization)
                self._reply(self.api.batches.answer("POST", self.path, self.headers.get("Content-Type", ""), body))
            elif self.path == "/control":
                self.api.authorize(authorization)
                try:
                    state = self.api.control(json.loads(body))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise Refusal(400, f"{type(error).__name__}: {error}") from error
                self._send(200, json.dumps(state).encode())
            else:
                raise Refusal(404, f"Invalid URL (POST {self.path})")
        except Refusal as refusal:
            self._send(refusal.status, refusal.body, refusal.headers)

    def do_DELETE(self) -> None:
        """Files of the batch API."""
        try:
            self.api.authorize(self.headers.get("Authorization", ""))
            self._reply(self.api.batches.answer("DELETE", self.path, self.headers.get("Content-Type", ""), b""))
        except Refusal as refusal:
            self._send(refusal.status, refusal.body, refusal.headers)

    def _reply(self, reply: Reply) -> None:
        if reply.cut == "reset":
            # linger 0 makes close() send RST; detached, so that no orderly shutdown comes before it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            socket.close(self.connection.detach())
        elif reply.cut == "close":
            self.close_connection = True
        elif reply.raw is not None:
            self.close_connection = True
            for piece in reply.raw:
                if isinstance(piece, bytes):
                    self.wfile.write(piece)
                    self.wfile.flush()
                elif self.api._stopping.wait(piece):
                    return
        else:
            self._send(200, reply.body, reply.headers, half=reply.cut == "half")

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None, half: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        self.wfile.flush()
        if half:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: stderr belongs to the dashboard."""
