"""Django's connections follow the route of their context; in a process of its own, since its settings are global."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.demo.database import EmbeddedServer
from tests.integration.integrations.test_follow import MODELS, Site
from tests.kits.pooling import needs_pgbouncer, pooled

APPLICATION = """
import sys
import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

info = conninfo_to_dict(sys.argv[1])
database = {"ENGINE": "django.db.backends.postgresql", "NAME": info["dbname"], "USER": info.get("user", "postgres"),
            "HOST": info["host"], "PORT": info.get("port", "")}
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=[], DEFAULT_AUTO_FIELD="django.db.models.AutoField")
django.setup()
from django.db import connection, models, transaction
from embedtui.integrations import Routing
from embedtui.integrations.django import follow
from embedtui.router import Router
from tests.integration.integrations.test_follow import embed

class Document(models.Model):
    content = models.TextField()
    class Meta:
        app_label, db_table, managed = "app", "documents", False

def nearest(vector):
    return Document.objects.raw(
        "SELECT *, embedding <=> %s::vector AS d FROM documents ORDER BY d LIMIT 1", [vector])[0]

connection.ensure_connection()
with Router(sys.argv[1]) as router:
    routing = Routing(router, "documents")
    follow("default", routing)
    for line in sys.stdin:
        wanted = int(line)
        while router.route("documents").epoch < wanted:
            pass
        with routing.use() as route, transaction.atomic():
            text = "document number 5"
            found = nearest(embed(route.model, text))
            try:
                with transaction.atomic():
                    connection.cursor().execute("SELECT 1 / 0")
            except Exception:
                pass
            again = nearest(embed(route.model, text))
            assert Document.objects.filter(content=text).update(content=text) == 1
            print(route.side.value, found.content == again.content == text, found.d < 1e-5, again.d < 1e-5, flush=True)
        with routing.use() as route:
            try:
                print("found", nearest(embed(route.model, text)).d < 1e-5, flush=True)
            except Exception as error:
                print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize("mode", ["", pytest.param("transaction", marks=needs_pgbouncer)])
def test_djangos_statements_follow_the_route(database: str, tmp_path: Path, server: EmbeddedServer, mode: str) -> None:
    """Behind a pooler in transactions alone: outside of them no search path holds."""
    pytest.importorskip("django")
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(LoopbackServer(MODELS))
        site = stack.enter_context(contextlib.closing(Site(database, api, tmp_path)))
        name = str(psycopg.conninfo.conninfo_to_dict(database)["dbname"])
        dsn = stack.enter_context(pooled(server, name, mode)) if mode else database
        root = str(Path(__file__).parents[3])
        with subprocess.Popen(
            [sys.executable, "-c", APPLICATION, dsn],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": root},
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for act in ("", "flip", "back", "flip"):
                if act:
                    getattr(site, act)()
                process.stdin.write(f"{site.router.route('documents').epoch}\n")
                process.stdin.flush()
                side = "new" if act == "flip" else "old"
                assert process.stdout.readline() == f"{side} True True True\n"
                outside = process.stdout.readline()
                assert outside == "found True\n" if side == "old" or not mode else "in none" in outside
            process.stdin.close()
    assert process.returncode == 0
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM documents").fetchone() == (20,)
