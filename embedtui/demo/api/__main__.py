"""A loopback embedding API in a process of its own."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from embedtui.demo.api import DEFAULT_KEY, LoopbackServer, ModelFunction, hash_model


def _model_argument(value: str) -> tuple[str, ModelFunction]:
    """``NAME=hash:DIMENSIONS`` or ``hash:DIMENSIONS`` (which is its own name)."""
    name, _, kind = value.rpartition("=")
    method, _, dimensions = kind.partition(":")
    if method != "hash" or not dimensions.isdigit() or int(dimensions) < 1:
        raise argparse.ArgumentTypeError(f"{value}: want [NAME=]hash:DIMENSIONS")
    return name or kind, hash_model(int(dimensions), salt=name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the first line on stdout is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m embedtui.demo.api", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default=DEFAULT_KEY)
    parser.add_argument("--model", type=_model_argument, action="append", help="[NAME=]hash:DIMENSIONS, repeatable")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per request")
    parser.add_argument("--tokens-per-minute", type=float)
    parser.add_argument("--requests-per-minute", type=float)
    parser.add_argument("--burst-seconds", type=float, default=60.0, help="how much of its budget a bucket holds")
    parser.add_argument("--no-rate-headers", action="store_true")
    options = parser.parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with LoopbackServer(
        dict(options.model or [_model_argument("hash:768")]),
        key=options.key,
        port=options.port,
        latency=options.latency,
        tokens_per_minute=options.tokens_per_minute,
        requests_per_minute=options.requests_per_minute,
        burst_seconds=options.burst_seconds,
        rate_headers=not options.no_rate_headers,
    ) as server:
        sys.stdout.write(server.base_url + "\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
