"""The HTTP client under openai's, bounded: a deadline for the whole request, a size for its reply, no redirects."""

from __future__ import annotations

import functools
import importlib
import os
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

LOOK_SECONDS = 0.25
"""Between looks at the stop signal while nothing arrives."""
GRACE_SECONDS = 5.0
"""How long a reply is waited for once work is to stop: it is paid for, but a stop has to be prompt."""

# openai is built on httpx2, or, before its version 3, on httpx; both have these by the same names.
_HTTPX: Any = importlib.import_module(
    next(
        kind.__module__.partition(".")[0]
        for kind in openai.DefaultHttpxClient.__mro__
        if kind.__module__.startswith("httpx")
    )
)
_TIMED_OUT: Any = importlib.import_module(_HTTPX.__name__.replace("httpx", "httpcore")).TimeoutException


class TooLate(Exception):
    """The reply is not complete in time."""


class TooLong(Exception):
    """The reply is longer than any good one, or packed in a way that was not asked for."""


class _Bounds:
    """What one request may take."""

    def __init__(self, seconds: float, most: int, stop: threading.Event | None) -> None:
        self._deadline = time.monotonic() + seconds
        self._stop = stop
        self.most = most
        """Bytes of the reply, unpacked."""

    def left(self) -> float:
        """Seconds, more than 0; raises TooLate."""
        now = time.monotonic()
        if self._stop is not None and self._stop.is_set():
            self._stop, self._deadline = None, min(self._deadline, now + GRACE_SECONDS)
        if now >= self._deadline:
            raise TooLate
        return self._deadline - now


class _Present(threading.local):
    bounds: _Bounds | None = None


_present = _Present()
"""The bounds of the calling thread's request: a connection serves many, one after the other."""


@contextmanager
def bounded(seconds: float, most: int, stop: threading.Event | None) -> Iterator[None]:
    """Requests of this thread end within ``seconds``, and soon after ``stop`` is set; replies have ``most`` bytes.

    Raises:
        TooLate, TooLong: they did not.
    """
    _present.bounds = _Bounds(seconds, most, stop)
    try:
        yield
    finally:
        _present.bounds = None


class _Stream:
    """A connection whose every wait ends by the deadline; the library's own time-outs begin anew with each byte."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        bounds = _present.bounds
        while bounds is not None:
            try:
                return self._inner.read(max_bytes, min(LOOK_SECONDS, bounds.left()))  # type: ignore[no-any-return]
            except _TIMED_OUT:
                continue
        return self._inner.read(max_bytes, timeout)  # type: ignore[no-any-return]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _within(timeout))

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _within(timeout)))


class _Network:
    """Opens such connections."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> _Stream:
        return _Stream(self._inner.connect_tcp(host, port, _within(timeout), **options))


def _within(timeout: float | None) -> float | None:
    bounds = _present.bounds
    if bounds is None:
        return timeout
    return bounds.left() if timeout is None else min(timeout, bounds.left())


class _Body(_HTTPX.SyncByteStream):  # type: ignore[misc]
    """A reply's body, unpacked by us: the library would unpack all of it before anybody could count."""

    def __init__(self, inner: Any, encoding: str) -> None:
        self._inner = inner
        self._encoding = encoding

    def __iter__(self) -> Iterator[bytes]:
        most = _present.bounds.most if _present.bounds is not None else sys.maxsize
        # 32: gzip or zlib, by their heads
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32) if self._encoding != "identity" else None
        size = 0
        for piece in self._inner:
            unpacked = piece if unpacker is None else _unpack(unpacker, piece, most - size + 1)
            size += len(unpacked)
            if size > most:
                raise TooLong(f"more than {most:,} bytes.")
            yield unpacked

    def close(self) -> None:
        self._inner.close()


def _unpack(unpacker: Any, piece: bytes, most: int) -> bytes:
    try:
        return unpacker.decompress(piece, most)  # type: ignore[no-any-return]
    except zlib.error as error:
        raise TooLong(f"it cannot be unpacked: {error}.") from None


def _take_over(response: Any) -> None:
    encoding = response.headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise TooLong("it is packed in a way that was not asked for.")
    if "content-encoding" in response.headers:
        del response.headers["content-encoding"]
    response.stream = _Body(response.stream, encoding)


@functools.lru_cache(maxsize=4)
def _certificates(*_of: object) -> ssl.SSLContext:
    """What servers are verified by, read once: hundreds of certificates take longer than all else of a client."""
    return _HTTPX.create_ssl_context()  # type: ignore[no-any-return]


def _verified_by() -> ssl.SSLContext:
    paths = ssl.get_default_verify_paths()  # SSL_CERT_FILE and SSL_CERT_DIR, where they are set
    named = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), paths.cafile, paths.capath)
    found = _certificates(*named, *(Path(each).stat().st_mtime for each in (paths.cafile, paths.capath) if each))
    # another kind asks the system, holding a lock while a handshake lasts: each client has its own
    return found if type(found) is ssl.SSLContext else _HTTPX.create_ssl_context()


def make_client() -> Any:
    """An HTTP client for openai; it is bounded inside :func:`bounded`."""
    # Texts and key go where the operator said and nowhere else. Proxies are the environment's, as ever.
    client = openai.DefaultHttpxClient(
        follow_redirects=False, event_hooks={"response": [_take_over]}, verify=_verified_by()
    )
    for transport in (client._transport, *client._mounts.values()):
        # There is no public way to a connection of a client that finds its proxies by itself; without these
        # attributes the library's own time-outs are left, which a drip of bytes never meets.
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_network_backend"):
            pool._network_backend = _Network(pool._network_backend)
    return client
