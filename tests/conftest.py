"""A real PostgreSQL with pgvector, and an embedding API, for every test that needs one."""

from __future__ import annotations

import atexit
import contextlib
import gc
import itertools
import os
import shutil
import signal
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from tests.kits.support import NEW, OLD

_numbers = itertools.count(1)

# Started in the background by a script, we would hand our ignored SIGINT on to the programs that tests interrupt.
with contextlib.suppress(ValueError):  # not in the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Our own logs and what the screen remembers: never those of whoever runs the tests.
_state = tempfile.mkdtemp(prefix="embedtui-state-")
atexit.register(shutil.rmtree, _state, ignore_errors=True)
os.environ["XDG_STATE_HOME"] = _state
os.environ.pop("EMBEDTUI_LOG", None)

POSTGRES = int(os.environ.get("EMBEDTUI_TEST_POSTGRES", "18"))

# Tests do not survive a power cut; production settings stay as they are. WAL is kept short, for it may be in memory.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "120",
    "max_wal_size": "256MB",
}

YOUNG = (5_000, 20, 20)
"""The garbage collector's thresholds (Python's: 700, 10, 10); a process of tests may have some memory."""

ROOMY = 8 * 2**30
"""Bytes of free memory with which the servers' data are kept there: about 500 MB for each of pytest's processes."""


VARIANTS = os.environ.get("EMBEDTUI_VARIANTS", "few")
"""``all``, or of the variants of a test that takes long only so many as its mark ``variants`` says."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out variants; the files that take longest begin first, or the last of them has the machine to itself."""
    if VARIANTS != "all":
        left_out = _left_out(items)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]
    items.sort(key=lambda item: "test_journey.py" not in item.nodeid)


def _left_out(items: list[pytest.Item]) -> set[str]:
    """Ids of the variants that are not among the few: the same at every run, and of every dimension by chance."""
    tests: dict[str, list[str]] = defaultdict(list)
    few: dict[str, int] = {}
    for item in items:
        if mark := item.get_closest_marker("variants"):
            test = item.nodeid.split("[")[0]
            tests[test].append(item.nodeid)
            few[test] = mark.args[0]
    return {each for test, ids in tests.items() for each in sorted(ids, key=_by_chance)[few[test] :]}


def _by_chance(nodeid: str) -> int:
    return zlib.crc32(nodeid.encode())


def pytest_collection_finish() -> None:
    """The collector need not walk what thousands of tests are made of: that took a third of the processor's time."""
    gc.freeze()
    gc.set_threshold(*YOUNG)


def _in_memory() -> Path | None:
    """A folder in memory, where a database for each test costs a third or less to make and drop; None: no room."""
    memory = Path("/dev/shm")
    try:
        known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(known["MemAvailable"].removesuffix("kB")) * 1024
        return memory if min(available, shutil.disk_usage(memory).free) >= ROOMY else None
    except OSError:  # not Linux
        return None


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """PostgreSQL of version EMBEDTUI_TEST_POSTGRES (default 18), shared by the session."""
    folder = Path(tempfile.mkdtemp(prefix="embedtui-test-", dir=_in_memory()))
    folder.chmod(0o711)  # as root another account runs the server
    with EmbeddedServer(folder / "pg", version=POSTGRES, settings=FAST) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder for a server of a test's own: pytest makes the parents of ``tmp_path`` private at every start, and then
    a server that runs as another user cannot reach its data."""
    with tempfile.TemporaryDirectory(prefix="embedtui-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def fresh_database(server: EmbeddedServer, template: str) -> Iterator[str]:
    name = f"t{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.dsn(name)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def empty_database(server: EmbeddedServer) -> Iterator[str]:
    """DSN of a fresh database without pgvector."""
    with fresh_database(server, "template1") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def with_pgvector(server: EmbeddedServer) -> str:
    """Name of a database to copy, with pgvector in it."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE with_pgvector")
    with psycopg.connect(server.dsn("with_pgvector"), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
    return "with_pgvector"


@pytest.fixture
def database(server: EmbeddedServer, with_pgvector: str) -> Iterator[str]:
    """DSN of a fresh database with pgvector."""
    with fresh_database(server, with_pgvector) as dsn:
        yield dsn


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    """An embedding API that answers for the models of the kits, and keeps the texts that it was sent."""
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}, log_texts=100_000) as server:
        yield server
