"""The settings file, written with comments."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedtui.config.settings import Settings
from embedtui.config.specs import SPECS, Spec
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


def write_toml(path: Path, settings: Settings) -> None:
    """Write the settings that are set, with comments; the others stand commented out with their defaults.

    An existing file keeps its comments and order and has its values replaced. Written to a temporary file first and
    moved into place, so that there is never half a file.

    Raises SettingsError: the folder cannot be written.
    """
    try:
        text = _updated(path.read_text(encoding="utf-8"), settings) if path.exists() else _fresh(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from None


def _written(spec: Spec, settings: Settings) -> bool:
    """Whether the file holds it: what was decided, but not the endpoint of this one environment."""
    return spec.path in settings.origins and not settings.origins[spec.path].startswith("OPENAI_BASE_URL")


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
    import tomlkit

    document = tomlkit.parse(text)
    for spec in SPECS:
        if not _written(spec, settings):
            continue
        head, _, name = spec.path.rpartition(".")
        if head and head not in document:
            document[head] = tomlkit.table()
        place: Any = document[head] if head else document
        value = _plain(settings.value(spec.path))
        value = _unset(spec) if value is None else value
        if name not in place or place[name] != value:
            place[name] = _item(value)
    return tomlkit.dumps(document)
