"""The settings file, written with comments."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedtui.config.settings import Settings
from embedtui.config.specs import BY_PATH, SPECS, Spec
from embedtui.errors import SettingsError
from embedtui.model import Distance, IndexMethod, PlacementKind

_HEADINGS = {
    "": "Settings of embedtui. Flags and the environment come before this file.\n"
    "Secrets never stand here: DATABASE_URL and OPENAI_API_KEY belong into the environment or .env.",
    "old_model": "The model whose vectors are in the old column. The name may stay unset where nobody knows it.",
    "new_model": "The model to move to. EMBED_MODEL and EMBED_DIMENSIONS, where set, come before this.",
    "index": "The approximate index on the new side.",
    "pacing": "How fast the provider is asked. All of it can be changed while it runs.",
    "throttle": "What holds the backfill for production's sake; false switches off a reason that has a default.",
    "gate": "What a cutover asks of the comparison.",
    "cutover": "How production follows the switch.",
}


_SECRET_WITHIN = re.compile(r"(?i)\bBearer\s+[\w.~+/-]{16}|\b[a-z][a-z0-9+]*://[^/\s:@$]*:[^/\s@$]+@")
"""In a command, say; one that a variable holds is named with a dollar sign."""


@dataclass(frozen=True, slots=True)
class Unlooked:
    """Nobody has looked at what the file says."""


Seen = str | Unlooked | None
"""What the file said when it was read; None: there was none."""

_ITS_OWN = "OPENAI_BASE_URL"
"""The variable whose endpoint is an environment's own."""
_LEFT_OUT = "not written to the file: every process of this migration needs it in its environment"


def write_toml(path: Path, settings: Settings, *, after: str | None = None, seen: Seen = Unlooked()) -> None:
    """Write the settings that are set, with comments; the others stand commented out with their defaults.

    An existing file keeps its comments and order and has its values replaced. See :func:`replace_file`.

    Args:
        path: the file.
        settings: what it is to say.
        after: what it says to begin with; None: what it says now; empty: nothing.
        seen: what it said when it was read.

    Raises SettingsError: the folder cannot be written, or the file says something else than was ``seen``.
    """
    before = file_text(path)
    start = before if after is None or before is None else after
    text = _updated(start, settings) if start else _fresh(settings)
    replace_file(path, text, seen=seen)


def file_text(path: Path) -> str | None:
    """What the file says; None where there is none.

    Raises SettingsError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8") if path.exists() else None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} cannot be read: it is no UTF-8.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None


def replace_file(path: Path, text: str, *, seen: Seen = Unlooked()) -> None:
    """Have the file say ``text``: written beside it first and moved into place, so there is never half a file.

    A link goes on leading to the file, which keeps its mode and owner.

    Raises SettingsError: it cannot be written, or says something else than was ``seen``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.resolve()
        with _alone(target.parent):
            if not isinstance(seen, Unlooked) and file_text(path) != seen:
                raise SettingsError(
                    f"{path} was changed by somebody else meanwhile; nothing is written.",
                    hint="Look at it, and begin again.",
                )
            _replace(target, text)
    except (OSError, RuntimeError) as error:  # resolve() says so of links that lead in a circle
        why = error.strerror if isinstance(error, OSError) else "it is a link that leads to itself"
        raise SettingsError(f"{path} cannot be written: {why}.") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While nobody else of ours writes into ``folder``, where the file system can tell."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(target: Path, text: str) -> None:
    was = target.stat() if target.exists() else None
    if was is not None and not was.st_mode & 0o222:
        raise PermissionError(errno.EACCES, "it is read-only")
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            now = os.fstat(file.fileno())
            if was is not None and (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
                os.fchown(file.fileno(), was.st_uid, was.st_gid)  # who reads it by then is to read it still
        Path(temporary).chmod(0o644 if was is None else was.st_mode & 0o777)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def set_aside(path: Path) -> Path:
    """Copy a file that cannot be used to a name beside it that is free; gives that name.

    Raises SettingsError: the folder cannot be written.
    """
    names = (path.with_name(f"{path.name}.{'before' if not number else f'before{number}'}") for number in range(1000))
    free = next(each for each in names if not each.exists())
    try:
        shutil.copy2(path, free)
    except OSError as error:
        raise SettingsError(f"{free} cannot be written: {error.strerror}.") from None
    return free


def from_typed(path: str, given: str) -> Any:
    """A setting's value as somebody typed it: lists with commas or as in the file, ``""`` for the empty text.

    Raises SettingsError: it is none, or has a secret in it.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    if _SECRET_WITHIN.search(given):
        raise SettingsError(
            f"{path}: this looks like a secret, and secrets do not belong into the file.",
            hint="Put it into the environment or .env, and name its variable here.",
        )
    text = given if path.endswith("_prefix") else given.strip()
    parse = BY_PATH[path].parse
    raw: object = "" if text == '""' else text
    try:
        if text.startswith(("{", "[")):
            with contextlib.suppress(TOMLKitError):
                raw = tomlkit.value(text).unwrap()
        return parse(raw)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}.") from None


def typed(value: Any) -> str:
    """The reverse of :func:`from_typed`; empty for what is unset."""
    plain = _plain(value)
    if plain is None or plain == [] or plain == {}:
        return ""
    if isinstance(plain, list) and all(isinstance(each, str) and "," not in each for each in plain):
        return ", ".join(plain)
    if isinstance(plain, float):
        return f"{plain:.15g}"
    return (plain or '""') if isinstance(plain, str) else str(_item(plain).as_string())


def edited(text: str, values: Mapping[str, Any]) -> str:
    """``text`` of a settings file with these values; a None takes the setting out.

    Comments and order stay; a line that stands commented out is the place of its setting.

    Raises SettingsError: it is no settings file.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise SettingsError(f"The settings file is not valid TOML: {error}.", hint="Mend it first.") from None
    for path, value in values.items():
        head, _, name = path.rpartition(".")
        place: Any = document.get(head, {}) if head else document
        plain = _plain(value)
        if plain is None and name in place:
            del place[name]
        elif plain is not None and name not in place:
            document = tomlkit.parse(_placed(tomlkit.dumps(document), path, plain))
        elif plain is not None and place[name] != plain:
            place[name] = _item(plain)
    return tomlkit.dumps(document)


def _placed(text: str, path: str, value: Any) -> str:
    """``text`` with a setting that it does not have yet."""
    import tomlkit

    head, _, name = path.rpartition(".")
    lines, section = text.removesuffix("\n").split("\n"), ""
    for number, line in enumerate(lines):
        if found := re.match(r"\s*\[([\w.]+)\]", line):
            section = found[1]
        elif section == head and (found := re.fullmatch(rf"#\s*{name}\s*=[^#]*(#.*)?", line)):
            lines[number] = f"{name} = {_item(value).as_string()}" + (f"  {found[1]}" if found[1] else "")
            placed = "\n".join(lines) + "\n"
            document = tomlkit.parse(placed).unwrap()
            if (document.get(head, {}) if head else document).get(name) == value:  # not within a text of many lines
                return placed
            break
    new = tomlkit.parse(text)
    if head and head not in new:
        new[head] = tomlkit.table()
    into: Any = new[head] if head else new
    into[name] = _item(value)
    return tomlkit.dumps(new)


def _written(spec: Spec, settings: Settings) -> bool:
    """Whether the file holds it: what was decided, but not the endpoint of this one environment."""
    return spec.path in settings.origins and not settings.origins[spec.path].startswith(_ITS_OWN)


def left_out(settings: Settings) -> str:
    """What was decided and is in no file, in a sentence; empty where nothing is."""
    origin = next((each for each in settings.origins.values() if each.startswith(_ITS_OWN)), "")
    return f"endpoint from {origin}; {_LEFT_OUT}" if origin else ""


def _unset(spec: Spec) -> object:
    """How a decided None is spelled."""
    return "auto" if spec.path == "placement" else False


def _plain(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, PlacementKind | Distance | IndexMethod) else value


def _item(value: Any) -> Any:
    """As TOML has it, on one line."""
    import tomlkit

    if not isinstance(value, Mapping):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    for name, each in value.items():
        table.append(name, _item(each))
    return table


def _fresh(settings: Settings) -> str:

    lines: list[str] = []
    section: str | None = None
    for spec in SPECS:
        head, _, name = spec.path.rpartition(".")
        if head != section:
            section = head
            lines += [""] * bool(lines) + [f"# {line}" for line in _HEADINGS[head].splitlines()]
            lines += [f"[{head}]"] if head else [""]
        value = _plain(settings.value(spec.path))
        given = _written(spec, settings)
        if value is None and (given or spec.path == "placement"):
            value = _unset(spec)
        shown = "" if value is None or value == [] else _item(value).as_string()
        lines.append(f"{'' if given else '# '}{name} = {shown}".rstrip() + f"  # {spec.comment}")
    return "\n".join(lines) + "\n"


def _updated(text: str, settings: Settings) -> str:
    said = {spec.path: settings.value(spec.path) for spec in SPECS if _written(spec, settings)}
    return edited(text, {path: _unset(BY_PATH[path]) if value is None else value for path, value in said.items()})
