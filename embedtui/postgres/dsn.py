"""Connection strings: what can be told of one that is mistyped, without telling any of it."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
from psycopg import conninfo

from embedtui.redaction import hide_runs

EXAMPLE = (
    "Example: postgresql://user:password@host:5432/database; in the password, a blank is written %20, "
    "and % / : ? # @ are written %25 %2F %3A %3F %23 %40."
)
SECRET = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
"""Parameters whose value is a secret."""
SHARED = 4
"""A run of so many characters that the server's or the library's words share with a mistyped string is hidden."""
_USER = re.compile(r"[\w.@$+-]*")
_DEMO = re.compile(r"^/(.*/)?(embedtui(-demo-[0-9a-f]{12})?/demo|embedtui-[0-9a-f]{12})/?$")
"""Folders of a demo's socket, by their names: nothing may be left of it."""


def read(dsn: str) -> dict[str, str] | None:
    """The parameters of a connection string; None where it cannot be read, or a part of the password may be elsewhere.

    That is so where an @ or / in it was not written as %40 or %2F, or where a / stands for the @ after it: the
    password is then read as a port.
    """
    try:
        found = {name: str(value) for name, value in conninfo.conninfo_to_dict(dsn).items() if value is not None}
    except (psycopg.Error, ValueError):
        return None
    open_ones = [value for name, value in found.items() if name not in ("user", *SECRET)]
    sound = (
        not any("@" in value for value in open_ones)
        and _are_ports(found.get("port", ""))
        and ("password" in found or "/" not in found.get("dbname", ""))
        and _USER.fullmatch(found.get("user", ""))
    )
    return found if sound else None


def _are_ports(text: str) -> bool:
    """Whether this may be a port, or several for as many hosts: an empty one is the usual one."""
    return all(not port or (port.isdecimal() and 0 < int(port) < 65_536) for port in text.split(","))


def secrets(dsn: str) -> tuple[str, ...]:
    """The secrets in a connection string that can be read."""
    found = read(dsn) or {}
    return tuple(found[name] for name in SECRET if found.get(name))


def where(dsn: str) -> str:
    """Host and port, or what can be said of them."""
    found = read(dsn)
    if found is None:
        return "the address in DATABASE_URL"
    host = found.get("host") or found.get("hostaddr") or "the local socket"
    return f"{host}:{found['port']}" if found.get("port") else host


def demo(dsn: str) -> str:
    """The folder of the demo whose own PostgreSQL it names, at work or not; empty where it names none."""
    host = (read(dsn) or {}).get("host", "")
    return host if _DEMO.search(host) or (host.startswith("/") and any(Path(host).glob("demo*.toml"))) else ""


def without_it(text: str, dsn: str) -> str:
    """``text`` of the server or the library; of a string that is mistyped, it must not repeat anything."""
    return text if read(dsn) is not None else hide_runs(text, dsn, SHARED)


def mistake(dsn: str) -> str:
    """What is wrong with a connection string that cannot be read: our words, for the library's would repeat it."""
    is_url = re.match(r"\s*postgres(?:ql)?://", dsn) is not None
    if not is_url and ("=" not in dsn or re.match(r"\s*postgres\w*\s*[:/]", dsn)):
        return "it begins neither with postgresql:// nor with name=value"
    if is_url and re.search(r"%(?![0-9A-Fa-f]{2})", dsn):
        return "a % in it is not followed by two hexadecimal digits"
    if is_url and re.search(r"\s", dsn.strip()):
        return "there is a blank in it"
    if not is_url and dsn.count("'") % 2:
        return "a quote in it is not closed"
    return "it cannot be read" if is_url else "a name=value in it cannot be read; a value with blanks wants quotes"
