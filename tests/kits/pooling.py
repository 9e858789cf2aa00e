"""A database behind PgBouncer, for tests of what pooling takes away."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedtui.demo.database import EmbeddedServer

needs_pgbouncer = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed")


@contextmanager
def pooled(server: EmbeddedServer, database: str, mode: str) -> Iterator[str]:
    """DSN of a database of this server through PgBouncer, with ``mode`` ``transaction`` or ``session``."""
    folder = Path(tempfile.mkdtemp(prefix="embedtui-bouncer-"))
    folder.chmod(0o777)
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={server.path} user=postgres\n[pgbouncer]\n"
        f"listen_addr =\nunix_socket_dir = {folder}\n"
        f"listen_port = 6432\nauth_type = any\npool_mode = {mode}\nauth_file = {folder}/users.txt\n"
        "ignore_startup_parameters = extra_float_digits,options\n"
    )
    owner = server.path.stat()
    account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    bouncer = subprocess.Popen(
        ["pgbouncer", str(folder / "ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account
    )
    try:
        end = time.monotonic() + 60
        while not (folder / ".s.PGSQL.6432").exists():
            assert time.monotonic() < end, "pgbouncer does not start"
            time.sleep(0.05)
        yield f"postgresql://postgres@/{database}?host={folder}&port=6432"
    finally:
        bouncer.kill()  # asked politely, newer ones wait for their clients
        bouncer.wait()
        shutil.rmtree(folder, ignore_errors=True)
