"""Settings: where each comes from, what it may be, and the one clear line said when it is wrong."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
import tomlkit
from dotenv import dotenv_values
from tomlkit.exceptions import TOMLKitError

from embedtui.errors import SettingsError
from embedtui.model import UNNAMED, Distance, EmbeddingModel, IndexMethod, PlacementKind
from embedtui.redaction import redact

CONFIG_NAME = "embedtui.toml"
FLAG_VARIABLE = "USE_V2_EMBEDDINGS"
"""Written by the ``env_file`` strategy for services that read a flag."""

CHARACTERS_PER_TOKEN = 4.0
"""Of English text; the guess until a provider's ``usage`` calibrates it."""


# ------------------------------------------------------------------------------------------------ known models


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is public about a model; every figure can be overridden in the settings."""

    dimensions: int
    """By nature."""
    price_per_million: float | None
    """US dollars per million tokens."""
    shortens: bool = True
    """Accepts ``dimensions``."""
    max_inputs: int = 2048
    max_tokens: int = 300_000
    max_input_tokens: int = 8192
    provider: str = "openai"
    key_variable: str = "OPENAI_API_KEY"
    retired: str = ""
    """Date of its shutdown."""


_GEMINI = {
    "provider": "gemini",
    "key_variable": "GEMINI_API_KEY",
    "max_inputs": 100,
    "max_input_tokens": 2048,
}

KNOWN_MODELS: Mapping[str, KnownModel] = {
    "text-embedding-3-small": KnownModel(1536, 0.02),
    "text-embedding-3-large": KnownModel(3072, 0.13),
    "text-embedding-ada-002": KnownModel(1536, 0.10, shortens=False),
    "gemini-embedding-001": KnownModel(3072, 0.15, **_GEMINI),  # type: ignore[arg-type]
    "text-embedding-004": KnownModel(768, None, retired="2026-01-14", **_GEMINI),  # type: ignore[arg-type]
}
"""Prices of the standard tier, per million tokens; they change: ``new_model.price_per_million`` overrides them.

Checked in November 2026: OpenAI's 3-large and 3-small at developers.openai.com/api/docs/models/text-embedding-3-large;
ada-002 at openrouter.ai/openai/text-embedding-ada-002 (list price passed on); gemini-embedding-001 at
vercel.com/ai-gateway/models/gemini-embedding-001 and, with text-embedding-004's shutdown, in Google's announcement as
quoted in github.com/simonw/llm-gemini/issues/102.
"""


# ---------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """A model as far as it was configured; None is "not said"."""

    name: str | None = None
    dimensions: int | None = None
    provider: str | None = None
    base_url: str | None = None
    key_variable: str | None = None
    document_prefix: str | None = None
    query_prefix: str | None = None
    max_inputs: int | None = None
    max_tokens: int | None = None
    max_input_tokens: int | None = None
    price_per_million: float | None = None
    send_dimensions: bool | None = None
    retired: bool | None = None

    def complete(self, side: str, *, dimensions: int | None = None) -> EmbeddingModel:
        """The model with what is known about it filled in; ``dimensions`` are those found in the database.

        A model without a name counts as retired: nothing can be asked of it.

        Raises SettingsError: ``new`` without a name, dimensions unknown or more than the model has.
        """
        known = KNOWN_MODELS.get(self.name or "")
        size = self.dimensions or dimensions or (known.dimensions if known else None)
        if self.name is None and side == "new":
            raise SettingsError(
                "The new model is not set.",
                hint="Set EMBED_MODEL, or --new-model, or new_model.name in embedtui.toml; "
                f"for instance {', '.join(list(KNOWN_MODELS)[:2])}.",
            )
        name = self.name or UNNAMED
        if size is None:
            raise SettingsError(
                f"The dimensions of {name} are not known.",
                hint="Set EMBED_DIMENSIONS, or --dimensions, or new_model.dimensions."
                if side == "new"
                else "Set old_model.dimensions: the old column has no vectors to tell by.",
            )
        if known and size > known.dimensions:
            raise SettingsError(
                f"{side}_model.dimensions = {size}: {name} has at most {known.dimensions}.",
                hint=f"Set {'EMBED_DIMENSIONS or ' if side == 'new' else ''}{side}_model.dimensions to "
                f"{known.dimensions} or less.",
            )
        if known and not known.shortens and size != known.dimensions:
            raise SettingsError(
                f"{side}_model.dimensions = {size}: {name} cannot be shortened from {known.dimensions}.",
                hint=f"Set {side}_model.dimensions to {known.dimensions}.",
            )
        base = known or KnownModel(size, None)
        return EmbeddingModel(
            name=name,
            dimensions=size,
            provider=self.provider or base.provider,
            base_url=self.base_url,
            key_variable=base.key_variable if self.key_variable is None else self.key_variable,
            document_prefix=self.document_prefix or "",
            query_prefix=self.query_prefix or "",
            max_inputs=self.max_inputs or base.max_inputs,
            max_tokens=self.max_tokens or base.max_tokens,
            max_input_tokens=self.max_input_tokens or base.max_input_tokens,
            price_per_million=base.price_per_million if self.price_per_million is None else self.price_per_million,
            send_dimensions=base.shortens if self.send_dimensions is None else self.send_dimensions,
            retired=(self.name is None or bool(base.retired)) if self.retired is None else self.retired,
        )


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """The approximate index on the new side; None leaves pgvector's default, or a size by the number of rows."""

    method: IndexMethod = IndexMethod.HNSW
    m: int | None = None
    ef_construction: int | None = None
    lists: int | None = None
    maintenance_work_mem: str | None = None
    """For the build alone, e.g. ``4GB``; None leaves the server's."""
    parallel_workers: int | None = None
    """For the build alone; None leaves the server's."""


@dataclass(frozen=True, slots=True)
class PacingSettings:
    """How fast; None is "learnt from the provider's headers and answers"."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrency: int = 16
    spend_cap: float | None = None


@dataclass(frozen=True, slots=True)
class ThrottleSettings:
    """What holds the backfill; None switches a reason off."""

    max_replica_lag_seconds: float | None = 10.0
    probe_query: str | None = None
    probe_latency_factor: float = 2.0
    max_lock_waits: int | None = 0
    long_transaction_seconds: float | None = 600.0
    hold_for_autovacuum: bool = False
    max_wal_mb_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the cutover asks of an evaluation."""

    min_queries: int = 30
    ndcg_margin: float = 0.02
    min_overlap: float = 0.5
    min_index_recall: float = 0.95
    max_latency_factor: float = 2.0
    max_drift: float = 0.05
    where: str = ""


@dataclass(frozen=True, slots=True)
class CutoverSettings:
    """How production learns of the switch, and how long the old side is kept."""

    strategy: str = "pointer"
    soak_days: float = 7.0
    env_file: str | None = None
    hook: str | None = None
    hook_timeout_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings with their origins. The environment with its secrets is held, but never shown."""

    database_variable: str = "DATABASE_URL"
    name: str | None = None
    """Route name; None is the table's own."""
    table: str | None = None
    schema: str | None = None
    key: tuple[str, ...] = ()
    """Empty: the primary key."""
    content: tuple[str, ...] = ()
    """Empty: the only text column."""
    old_column: str | None = None
    """None: the only vector column."""
    new_column: str = "embedding_v2"
    new_table: str | None = None
    """Side table's name; None is ``<table>_embedding_v2``."""
    placement: PlacementKind | None = None
    """None: as the plan recommends."""
    foreign_key: bool = True
    """Whether a side table refers to its table by a foreign key."""
    distance: Distance | None = None
    """None: as the old column's index."""
    halfvec: bool | None = None
    """None: as the old column, and above 2,000 dimensions."""
    accept: tuple[str, ...] = ()
    """Checks of the plan that would fail, but which the operator has dealt with."""
    change_capture: str = "triggers"
    old_model: ModelSettings = ModelSettings()
    new_model: ModelSettings = ModelSettings()
    index: IndexSettings = IndexSettings()
    pacing: PacingSettings = PacingSettings()
    throttle: ThrottleSettings = ThrottleSettings()
    gate: GateSettings = GateSettings()
    cutover: CutoverSettings = CutoverSettings()
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Where each setting that is no default came from, e.g. {"table": "--table"}."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment and ``.env`` merged: holds the secrets, never shown."""
    config_path: Path | None = None
    """The settings file that was read."""

    @property
    def dsn(self) -> str:
        """Connection string of the database.

        Raises SettingsError: its variable is not set.
        """
        value = self.environ.get(self.database_variable, "").strip()
        if not value:
            raise SettingsError(
                f"{self.database_variable} is not set.",
                hint="Put it into the environment or .env, e.g. postgresql://user@host:5432/database",
            )
        # SQLAlchemy's spelling of a URL, which many services have in this variable
        return re.sub(r"^postgres(?:ql)?\+\w+://", "postgresql://", value)

    def origin(self, path: str) -> str:
        """Where a setting came from: a flag, a variable, a file's name, or ``default``."""
        return self.origins.get(path, "default")

    def value(self, path: str) -> Any:
        """A setting by its name in the file, e.g. ``pacing.spend_cap``."""
        found: Any = self
        for part in path.split("."):
            found = getattr(found, part)
        return found

    def with_values(self, values: Mapping[str, object], origin: str) -> Settings:
        """A copy with these settings, by their names in the file.

        Raises SettingsError: one is wrong.
        """
        changed = self
        for path, raw in values.items():
            try:
                value = _BY_PATH[path].parse(raw)
            except ValueError as error:
                raise SettingsError(f"{path} = {_shown_value(raw)} ({origin}): {error}.") from None
            head, _, name = path.rpartition(".")
            change = {head: replace(getattr(changed, head), **{name: value})} if head else {name: value}
            changed = replace(changed, **change, origins={**changed.origins, path: origin})
        return changed

    def stored(self) -> dict[str, object]:
        """What a worker on another host has to know too, as JSON: no secret, no model, no table."""
        result: dict[str, object] = {}
        for spec in SPECS:
            head, _, rest = spec.path.rpartition(".")
            if head in ("index", "throttle", "gate", "cutover") or spec.path in ("change_capture", "foreign_key"):
                place = result.setdefault(head, {}) if head else result
                assert isinstance(place, dict)
                value = self.value(spec.path)
                place[rest] = value.value if isinstance(value, IndexMethod) else value
        return result


# ----------------------------------------------------------------------------------------------------- parsing


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _any_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")
    return value


def _names(value: object) -> tuple[str, ...]:
    """Column names: a list, or one text with commas."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not parts or not all(isinstance(part, str) and part for part in parts):
        raise ValueError('must be a list of column names, e.g. ["title", "body"]')
    if len(set(parts)) != len(parts):
        raise ValueError("names a column twice")
    return tuple(parts)


def _accept(value: object) -> tuple[str, ...]:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError('must be a list, e.g. ["publications"]')
    return tuple(_one_of("publications")(part) for part in parts)


def _whole(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = _number_of(value)
        if number is None or number != int(number) or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low:,} to {high:,}")
        return int(number)

    return parse


def _number(low: float, high: float, *, above: bool = False) -> Callable[[object], float]:
    def parse(value: object) -> float:
        number = _number_of(value)
        if number is None or not low <= number <= high or (above and number == low):
            if high == float("inf"):
                raise ValueError(f"must be a number {'above' if above else 'of at least'} {low:g}")
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return number

    return parse


def _number_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _yes(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "1", "0", "on", "off"):
        return value.lower() in ("true", "yes", "1", "on")
    raise ValueError("must be true or false")


def _memory(value: object) -> str:
    """A size as PostgreSQL writes it."""
    if not isinstance(value, str) or not re.fullmatch(r"[1-9]\d*(kB|MB|GB|TB)", value):
        raise ValueError("must be a size such as 512MB or 4GB")
    return value


def _or_off(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    """``false`` switches the reason off."""
    return lambda value: None if value is False or value == "false" else parse(value)


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            close = get_close_matches(str(value), choices, n=1)
            raise ValueError(f"must be {', '.join(choices)}" + (f"; did you mean {close[0]}?" if close else ""))
        return str(value)

    return parse


def _placement(value: object) -> PlacementKind | None:
    found = _one_of("auto", "column", "table")(value)
    return None if found == "auto" else PlacementKind(found)


def _distance(value: object) -> Distance:
    return Distance(_one_of(*(each.value for each in Distance))(value))


def _method(value: object) -> IndexMethod:
    return IndexMethod(_one_of(*(each.value for each in IndexMethod))(value))


def _variable(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable, never the secret itself")
    return value


def _variable_or_none(value: object) -> str:
    return "" if value == "" else _variable(value)


def _url(value: object) -> str:
    text = _text(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL like https://api.example.com/v1")
    if parts.username or parts.password:
        raise ValueError("must not carry a key or password; the key's own variable holds it")
    return text


@dataclass(frozen=True, slots=True)
class Spec:
    """One setting: its name in the file, how it is read, what the file's comment says."""

    path: str
    parse: Callable[[object], Any]
    comment: str
    flag: str = ""
    variable: str = ""


def _model_specs(side: str, *, flags: Mapping[str, str], variables: Mapping[str, str]) -> tuple[Spec, ...]:
    fields: tuple[tuple[str, Callable[[object], Any], str], ...] = (
        ("name", _text, "as the provider calls it"),
        ("dimensions", _whole(1, 16_000), "of its vectors"),
        ("provider", _one_of("openai", "gemini"), "openai (and all that speak its API) or gemini"),
        ("base_url", _url, "endpoint; unset is the provider's own"),
        ("key_variable", _variable_or_none, 'environment variable that holds the key; "" for none'),
        ("document_prefix", _any_text, "put before each document"),
        ("query_prefix", _any_text, "put before each query"),
        ("max_inputs", _whole(1, 100_000), "inputs per request (OpenAI 2048, Gemini 100)"),
        ("max_tokens", _whole(1, 100_000_000), "tokens per request"),
        ("max_input_tokens", _whole(1, 10_000_000), "tokens per input"),
        ("price_per_million", _number(0, float("inf")), "money per million tokens"),
        ("send_dimensions", _yes, "false for models that reject `dimensions`"),
        ("retired", _yes, "true where the provider no longer answers for it"),
    )
    return tuple(
        Spec(f"{side}_model.{name}", parse, comment, flags.get(name, ""), variables.get(name, ""))
        for name, parse, comment in fields
    )


SPECS: tuple[Spec, ...] = (
    Spec("database_variable", _variable, "environment variable that holds the connection string"),
    Spec("name", _text, "what services call the route; unset is the table's name", "--name"),
    Spec("table", _text, "the table whose vectors move", "--table"),
    Spec("schema", _text, "its schema; unset is the search path", "--schema"),
    Spec("key", _names, "unique NOT NULL columns; unset is the primary key", "--key"),
    Spec("content", _names, "columns whose text is embedded, in this order", "--content"),
    Spec("old_column", _text, "the column with the old vectors", "--column"),
    Spec("new_column", _text, "the column for the new vectors", "--new-column"),
    Spec("new_table", _text, "side table's name, for placement table; unset is <table>_embedding_v2"),
    Spec("placement", _placement, "auto, column (beside the old one) or table (a side table)", "--placement"),
    Spec("foreign_key", _yes, "table: a foreign key keeps it in step; false: triggers do, and TRUNCATE still works"),
    Spec("distance", _distance, "cosine, l2 or ip; unset is that of the old column's index", "--distance"),
    Spec("halfvec", _yes, "16-bit vectors; unset: as the old, or above 2,000 dimensions", "--halfvec/--no-halfvec"),
    Spec("accept", _accept, "risks of the plan that are dealt with: publications"),
    Spec("change_capture", _one_of("triggers", "scan"), "triggers, or a slower scan where triggers are not allowed"),
    *_model_specs(
        "old",
        flags={
            "name": "--old-model",
            "dimensions": "--old-dimensions",
            "base_url": "--old-base-url",
            "retired": "--old-retired",
        },
        variables={"base_url": "OPENAI_BASE_URL"},
    ),
    *_model_specs(
        "new",
        flags={"name": "--new-model", "dimensions": "--dimensions", "base_url": "--base-url"},
        variables={"name": "EMBED_MODEL", "dimensions": "EMBED_DIMENSIONS", "base_url": "OPENAI_BASE_URL"},
    ),
    Spec("index.method", _method, "hnsw, ivfflat or none", "--index"),
    Spec("index.m", _whole(2, 100), "hnsw: connections per layer (pgvector's default is 16)"),
    Spec("index.ef_construction", _whole(4, 1000), "hnsw: candidates while building (default 64)"),
    Spec("index.lists", _whole(1, 32_768), "ivfflat: lists; unset is by the number of rows"),
    Spec("index.maintenance_work_mem", _memory, "for the build alone, e.g. 4GB; unset is the server's"),
    Spec("index.parallel_workers", _whole(0, 1024), "for the build alone; unset is the server's"),
    Spec("pacing.requests_per_minute", _number(0, float("inf"), above=True), "unset is learnt from the provider"),
    Spec("pacing.tokens_per_minute", _number(0, float("inf"), above=True), "unset is learnt from the provider"),
    Spec("pacing.max_concurrency", _whole(1, 256), "requests in flight at most"),
    Spec("pacing.spend_cap", _number(0, float("inf")), "stop at this much money", "--spend-cap"),
    Spec("throttle.max_replica_lag_seconds", _or_off(_number(0, float("inf"))), "hold while a replica lags more"),
    Spec("throttle.probe_query", _text, "a harmless query of production, timed now and then"),
    Spec("throttle.probe_latency_factor", _number(1, 1000), "hold while it takes this many times its own usual"),
    Spec("throttle.max_lock_waits", _or_off(_whole(0, 10_000)), "hold while more statements wait for our locks"),
    Spec("throttle.long_transaction_seconds", _or_off(_number(0, float("inf"))), "hold while a transaction is older"),
    Spec("throttle.hold_for_autovacuum", _yes, "hold while autovacuum works on the table"),
    Spec("throttle.max_wal_mb_per_second", _number(0, float("inf"), above=True), "hold above this WAL rate"),
    Spec("gate.min_queries", _whole(1, 1_000_000), "fewer are inconclusive"),
    Spec("gate.ndcg_margin", _number(0, 1), "judged: the new side may be worse by this much"),
    Spec("gate.min_overlap", _number(0, 1), "unjudged: mean overlap of the top 10 below this asks for verdicts"),
    Spec("gate.min_index_recall", _number(0, 1), "of the new index, against exact search"),
    Spec("gate.max_latency_factor", _number(0.1, 1000), "p95 of the new side may be this many times the old one's"),
    Spec("gate.max_drift", _number(0, 1), "an evaluation is void once this share of the table has moved"),
    Spec("gate.where", _any_text, "SQL: the application's own filter on the table, part of both searches"),
    Spec(
        "cutover.strategy", _one_of("pointer", "env_file", "hook", "rename"),
        "pointer (Router, SQL), env_file, hook or rename", "--strategy",
    ),
    Spec("cutover.soak_days", _number(0, 3650), "keep both sides this long before cleanup"),
    Spec("cutover.env_file", _text, "env_file: the file that holds USE_V2_EMBEDDINGS"),
    Spec("cutover.hook", _text, "hook: the command to run; its failure undoes the flip"),
    Spec("cutover.hook_timeout_seconds", _number(0, 86_400, above=True), "and how long it may take"),
)  # fmt: skip

_BY_PATH: Mapping[str, Spec] = {spec.path: spec for spec in SPECS}
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
_SECRET_VALUE = re.compile(
    r"^(sk|pk|rk)-[\w-]{8,}|^AIza[\w-]{20,}|^[a-z][a-z0-9+]*:?//?/?[^/\s]*:\S*@|\bpassword\s*=\s*\S"
)


# ----------------------------------------------------------------------------------------------------- loading


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    config: Path | None = None,
) -> Settings:
    """Settings from flags, then environment and ``.env``, then ``embedtui.toml``, then defaults.

    ``flags`` are by the settings' names in the file (``new_model.name``); None is "not given". Without ``config`` the
    file is looked for in ``cwd`` and then in the user's configuration folder.

    Raises SettingsError: a setting is unknown or wrong, or the file holds a secret; the line names setting and origin.
    """
    folder = cwd or Path.cwd()
    merged, shadow = _environment(os.environ if environ is None else environ, folder)
    path = _config_file(folder, config)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def take(spec: Spec, raw: object, origin: str) -> None:
        try:
            values[spec.path] = spec.parse(raw)
        except ValueError as error:
            shown = "…" if spec.path.endswith("variable") else _shown_value(raw)
            raise SettingsError(f"{spec.path} = {shown} ({origin}): {error}.") from None
        origins[spec.path] = origin

    for spec, raw in _from_file(path) if path else ():
        take(spec, raw, path.name if path else "")
    for spec in SPECS:
        raw = merged.get(spec.variable, "")
        if raw and (spec.variable != "OPENAI_BASE_URL" or _takes_openai_url(spec.path, values)):
            take(spec, raw, f"{spec.variable} in .env" if spec.variable in shadow else spec.variable)
    for name, raw in (flags or {}).items():
        if raw is not None and raw != ():
            take(_BY_PATH[name], raw, _BY_PATH[name].flag.split("/")[0] or name)

    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    top: dict[str, Any] = {}
    for name, value in values.items():
        head, _, rest = name.rpartition(".")
        (sections[head] if head else top)[rest] = value
    built = {name: _SECTIONS[name](**content) for name, content in sections.items()}
    return Settings(**top, **built, origins=origins, environ=merged, config_path=path)


def _takes_openai_url(path: str, values: Mapping[str, Any]) -> bool:
    """Whether OPENAI_BASE_URL is meant for this model: it has OpenAI's key, and the old one is named but has no URL."""
    side = path.partition(".")[0]
    known = KNOWN_MODELS.get(values.get(f"{side}.name", ""))
    variable = values.get(f"{side}.key_variable") or (known.key_variable if known else "OPENAI_API_KEY")
    return variable == "OPENAI_API_KEY" and (side == "new_model" or ("old_model.name" in values and path not in values))


def _environment(environ: Mapping[str, str], folder: Path) -> tuple[dict[str, str], set[str]]:
    """The environment over ``.env``, and the names that came from ``.env``."""
    file = folder / ".env"
    try:
        # the values are taken as they are: a password may well contain ${
        dotenv = dotenv_values(file, interpolate=False) if file.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from None
    from_file = {name: value for name, value in dotenv.items() if value is not None}
    return {**from_file, **environ}, set(from_file) - set(environ)


def user_config_file() -> Path:
    """The settings file in the user's configuration folder."""
    return platformdirs.user_config_path("embedtui", appauthor=False) / CONFIG_NAME


def _config_file(folder: Path, config: Path | None) -> Path | None:
    if config is not None:
        if not config.is_file():
            raise SettingsError(f"No settings file {config}.", hint="Write one with `embedtui init --config FILE`.")
        return config
    return next((file for file in (folder / CONFIG_NAME, user_config_file()) if file.is_file()), None)


def _from_file(path: Path) -> list[tuple[Spec, object]]:
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} is not valid TOML: {error}.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    found: list[tuple[Spec, object]] = []

    def walk(table: Mapping[str, Any], prefix: str) -> None:
        for name, value in table.items():
            dotted = f"{prefix}{name}"
            if _SECRET_NAME.match(name) or (isinstance(value, str) and _SECRET_VALUE.search(value)):
                raise SettingsError(
                    f"{dotted} ({path.name}): this looks like a secret, and secrets do not belong into the file.",
                    hint="Put it into the environment or .env; the file names the variable "
                    "(database_variable, new_model.key_variable).",
                )
            if isinstance(value, Mapping) and dotted in _SECTIONS:
                walk(value, f"{dotted}.")
            elif dotted in _BY_PATH:
                found.append((_BY_PATH[dotted], value))
            elif dotted in _SECTIONS:
                raise SettingsError(f"{dotted} ({path.name}): must be a section, [{dotted}].")
            else:
                raise SettingsError(f"{dotted} ({path.name}): no such setting{_near_setting(dotted)}")

    walk(document, "")
    return found


def _near_setting(name: str) -> str:
    known = [*_BY_PATH, *_SECTIONS]
    last = name.rpartition(".")[2]
    same = [path for path in _BY_PATH if path.rpartition(".")[2] == last]
    close = same[:1] or get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "."


def _shown_value(raw: object) -> str:
    """A value for an error line; what could be a secret is not repeated."""
    if isinstance(raw, str):
        # an @ or a key's look is enough: what is mistyped matches no pattern of a URL
        return "…" if _SECRET_VALUE.search(raw) or "@" in raw or len(raw) > 60 else f'"{redact(raw)}"'
    return str(raw)


# ----------------------------------------------------------------------------------------------------- writing

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
        shown = "" if value is None or value == [] else tomlkit.item(value).as_string()
        lines.append(f"{'' if given else '# '}{name} = {shown}".rstrip() + f"  # {spec.comment}")
    return "\n".join(lines) + "\n"


def _updated(text: str, settings: Settings) -> str:
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
            place[name] = value
    return tomlkit.dumps(document)
