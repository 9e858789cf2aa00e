"""The dashboard in a browser."""

from __future__ import annotations

import errno
import importlib.util
import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from embedtui.cli.common import ExampleCommand, settings_of
from embedtui.cli.output import note
from embedtui.cli.show import chosen
from embedtui.errors import ExitCode, SettingsError

_ENTRY = "from embedtui.cli import main; main()"


@click.command(cls=ExampleCommand, example="embedtui serve\nembedtui serve --port 8100 --name articles")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option("--public-url", metavar="URL", help="Where browsers reach it through a proxy: https://…")
@click.option("--readonly/--write", default=True, show_default=True, help="Only watch, or give every key.")
@click.option("--name", metavar="NAME", help="Route name of the migration to show.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file.")
def serve(
    host: str, port: int, public_url: str | None, *, readonly: bool, name: str | None, config: Path | None
) -> int:
    """Show the dashboard in a browser: on this machine, to watch.

    The link that is printed opens once, in one browser; then the next one is printed. Without it there is no page.
    """
    if importlib.util.find_spec("textual_serve") is None:
        raise SettingsError("textual-serve is not installed.", hint='Install it: pip install "embedtui[web]"')
    from embedtui.web.server import LOOPBACK, DashboardServer

    settings = settings_of({"name": name}, config=config)
    _ = settings.dsn  # a missing one is said here
    if not chosen(settings):
        raise SettingsError("No table is chosen.", hint="Choose one: `embedtui init`.")
    if host in ("0.0.0.0", "::") and not public_url:
        raise SettingsError(f"{host} is no address for a browser.", hint="Name it: --public-url https://…")
    if urlsplit(public_url or "").path.strip("/"):
        raise SettingsError("The dashboard is served at the root of a host.", hint="--public-url https://db.example")
    arguments = ["--readonly"] * readonly + ["--name", name or ""] * bool(name)
    arguments += ["--config", str(config)] if config is not None else []
    what = "to watch (--write gives every key)" if readonly else "with every key (keep the link to yourself)"
    command = shlex.join([sys.executable, "-c", _ENTRY, *arguments])
    server = DashboardServer(
        command, host, port, lambda link: note(f"Open once, {what}: {link}"), public_url=public_url
    )
    if host not in LOOPBACK and not (public_url or "").startswith("https"):
        note("Link and screen go over the network unencrypted. Safer: ssh -L, or a proxy with TLS.")
    try:
        server.run()
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise
        raise SettingsError(f"{host}:{port}: {error.strerror}.", hint="Choose another: --port.") from error
    return ExitCode.OK
