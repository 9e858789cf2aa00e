"""Settings from flags, the environment, ``.env`` and the settings file."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from embedtui.config.settings import ModelSettings, PacingSettings, Settings
from embedtui.config.specs import BY_PATH, CONFIG_NAME, SPECS, Spec, shown_value
from embedtui.config.values import SECRET_VALUE
from embedtui.errors import SettingsError
from embedtui.known import KNOWN_MODELS, provider
from embedtui.model import CutoverSettings, GateSettings, IndexSettings, ThrottleSettings

_SECTIONS: Mapping[str, type] = {
    "old_model": ModelSettings,
    "new_model": ModelSettings,
    "index": IndexSettings,
    "pacing": PacingSettings,
    "throttle": ThrottleSettings,
    "gate": GateSettings,
    "cutover": CutoverSettings,
}

_SECRET_NAME = re.compile(
    r"(?i)^(api_?key|access_?key|password|passwd|secret|token|dsn|database_url|\w+_(secret|password|api_?key|token))$"
)


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    config: Path | None = None,
    text: str | None = None,
) -> Settings:
    """Settings from flags, then environment and ``.env``, then ``embedtui.toml``, then defaults.

    Where ``config`` is named, a ``.env`` beside it comes before that of ``cwd``.
    ``flags`` are by the settings' names in the file (``new_model.name``); None is "not given". Without ``config`` the
    file is looked for in ``cwd`` and then in the user's configuration folder. ``text``, where given, stands for what
    the file says.

    Raises SettingsError: a setting is unknown or wrong, or the file holds a secret; the line names setting and origin.
    """
    folder = cwd or Path.cwd()
    merged = environment(os.environ if environ is None else environ, *beside(config), folder)
    shadow = merged.files
    path = _config_file(folder, config) if text is None else config
    file = (path or next(_files(folder), folder / CONFIG_NAME)).absolute()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def take(spec: Spec, raw: object, origin: str) -> None:
        try:
            values[spec.path] = spec.parse(raw)
        except ValueError as error:
            shown = "…" if spec.path.endswith("variable") else shown_value(raw)
            raise SettingsError(f"{spec.path} = {shown} ({origin}): {error}.") from None
        origins[spec.path] = origin

    if text is None and path is not None:
        text = _text_of(path)
    for spec, raw in _from_text(text, file.name) if text else ():
        take(spec, raw, file.name)
    for spec in SPECS:
        raw = merged.get(spec.variable, "")
        if raw and (spec.variable != "OPENAI_BASE_URL" or _takes_openai_url(spec.path, values)):
            take(spec, raw, f"{spec.variable} in {shadow[spec.variable]}" if spec.variable in shadow else spec.variable)
    for name, raw in (flags or {}).items():
        if raw is not None and raw != ():
            take(BY_PATH[name], raw, BY_PATH[name].flag.split("/")[0] or name)

    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    top: dict[str, Any] = {}
    for name, value in values.items():
        head, _, rest = name.rpartition(".")
        (sections[head] if head else top)[rest] = value
    built = {name: _SECTIONS[name](**content) for name, content in sections.items()}
    again = functools.partial(_again, dict(flags or {}), folder.absolute(), config, frozenset(shadow))
    return Settings(**top, **built, origins=origins, environ=merged, file=file, again=again)


def _again(
    flags: Mapping[str, object],
    folder: Path,
    config: Path | None,
    dotenv: frozenset[str],
    environ: Mapping[str, str],
    text: str | None = None,
) -> Settings:
    """As they were loaded, with what the file (or ``text`` instead) and ``.env`` say now.

    ``dotenv``: names that came from there.
    """
    own = {name: value for name, value in environ.items() if name not in dotenv}
    return load_settings(flags, environ=own, cwd=folder, config=config, text=text)


def _takes_openai_url(path: str, values: Mapping[str, Any]) -> bool:
    """Whether OPENAI_BASE_URL is meant for this model: OpenAI's, by its key; the old one is named but has no URL."""
    side = path.partition(".")[0]
    known = KNOWN_MODELS.get(values.get(f"{side}.name", ""))
    own = values.get(f"{side}.provider") or (known.provider if known else "openai")
    variable = values.get(f"{side}.key_variable") or provider(own).key_variable
    openai = own == "openai" and variable == "OPENAI_API_KEY"
    return openai and (side == "new_model" or ("old_model.name" in values and path not in values))


def beside(config: Path | None) -> tuple[Path, ...]:
    """The folder of a settings file that was named, where it has a ``.env``; it comes before the working folder's."""
    return () if config is None or not (config.parent / ".env").is_file() else (config.parent,)


class Environment(dict[str, str]):
    """The environment over ``.env``."""

    def __init__(self, values: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(values)
        self.files: dict[str, str] = {}
        """The file of each name that is from one."""


def file_of(environ: Mapping[str, str], name: str) -> str:
    """The ``.env`` that says ``name``; empty: the environment does."""
    return environ.files.get(name, "") if isinstance(environ, Environment) else ""


def environment(environ: Mapping[str, str], *folders: Path) -> Environment:
    """The environment over the folders' ``.env``, the first over the next."""
    merged = Environment(environ)
    for folder in folders:
        for name, value in _dotenv(folder / ".env").items():
            if name not in merged:
                merged[name] = value
                merged.files[name] = ".env" if folder is folders[-1] else str(folder / ".env")
    return merged


def _dotenv(file: Path) -> dict[str, str]:
    try:
        if not file.is_file():
            return {}
        from dotenv import dotenv_values

        # the values are taken as they are: a password may well contain ${
        dotenv = dotenv_values(file, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from None
    return {name: value for name, value in dotenv.items() if value is not None}


def user_config_file() -> Path:
    """The settings file in the user's configuration folder."""
    import platformdirs

    return platformdirs.user_config_path("embedtui", appauthor=False) / CONFIG_NAME


def _config_file(folder: Path, config: Path | None) -> Path | None:
    if config is not None:
        if not config.is_file():
            raise SettingsError(f"No settings file {config}.", hint="Write one with `embedtui init --config FILE`.")
        return config
    return next(_files(folder), None)


def _files(folder: Path) -> Iterator[Path]:
    """The settings files that are there, the one in force first."""
    return (file for file in (folder / CONFIG_NAME, user_config_file()) if file.is_file())


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path.name} is not valid TOML: {error}.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None


def _from_text(text: str, called: str) -> list[tuple[Spec, object]]:
    """The settings that a file says; ``called``: its name."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text).unwrap()
    except TOMLKitError as error:
        raise SettingsError(f"{called} is not valid TOML: {error}.") from None
    found: list[tuple[Spec, object]] = []

    def walk(table: Mapping[str, Any], prefix: str) -> None:
        for name, value in table.items():
            dotted = f"{prefix}{name}"
            if _SECRET_NAME.match(name) or (isinstance(value, str) and SECRET_VALUE.search(value)):
                raise SettingsError(
                    f"{dotted} ({called}): this looks like a secret, and secrets do not belong into the file.",
                    hint="Put it into the environment or .env; the file names the variable "
                    "(database_variable, new_model.key_variable).",
                )
            if isinstance(value, Mapping) and dotted in _SECTIONS:
                walk(value, f"{dotted}.")
            elif dotted in BY_PATH:
                found.append((BY_PATH[dotted], value))
            elif dotted in _SECTIONS:
                raise SettingsError(f"{dotted} ({called}): must be a section, [{dotted}].")
            else:
                raise SettingsError(f"{dotted} ({called}): no such setting{_near_setting(dotted)}")

    walk(document, "")
    return found


def _near_setting(name: str) -> str:
    known = [*BY_PATH, *_SECTIONS]
    last = name.rpartition(".")[2]
    same = [path for path in BY_PATH if path.rpartition(".")[2] == last]
    close = same[:1] or get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "."
