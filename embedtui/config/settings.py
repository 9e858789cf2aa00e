"""The settings as frozen dataclasses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedtui.config.known import STORED_ALONE, STORED_SECTIONS
from embedtui.config.specs import BY_PATH, SPECS, shown_value
from embedtui.config.values import VARIABLE_IN
from embedtui.errors import SettingsError
from embedtui.known import KNOWN_MODELS, KnownModel, provider, retirement, served_by, tells_dimensions
from embedtui.model import (
    UNNAMED,
    CutoverSettings,
    Distance,
    EmbeddingModel,
    GateSettings,
    IndexMethod,
    IndexSettings,
    PlacementKind,
    ThrottleSettings,
)
from embedtui.model.migration import TIMEOUT_SECONDS, USES, for_use


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
    timeout_seconds: float | None = None
    retired: bool | None = None
    extra_body: Mapping[str, Any] | None = None
    headers: Mapping[str, Any] | None = None
    batch: bool | None = None
    batch_price: float | None = None
    batch_inputs: int | None = None
    pad_to: int | None = None
    normalise: bool | None = None

    def complete(self, side: str, *, dimensions: int | None = None) -> EmbeddingModel:
        """The model with what is known about it filled in; ``dimensions`` are those found in the database.

        A model without a name is not known to be retired, though nothing can be asked of it.

        Raises SettingsError: ``new`` without a name, dimensions unknown or more than the model has.
        """
        known = KNOWN_MODELS.get(self.name or "")
        name = self.name or UNNAMED
        size, padded = self._sizes(side, known, dimensions)
        own = self.provider or (known.provider if known else "openai")
        manners, served = provider(own), served_by(own, known, size)
        ended = retirement(own, name)
        gone = ended is not None and ended.past()
        price, tells = served.price_per_million, tells_dimensions(own, served, size)
        return EmbeddingModel(
            name=name,
            dimensions=padded,
            given=size if padded > size else None,
            normalise=bool(self.normalise),
            provider=own,
            base_url=self.base_url,
            key_variable=manners.key_variable if self.key_variable is None else self.key_variable,
            document_prefix=self.document_prefix or "",
            query_prefix=self.query_prefix or "",
            max_inputs=self.max_inputs or served.max_inputs or manners.max_inputs,
            max_tokens=self.max_tokens or served.max_tokens or manners.max_tokens,
            max_input_tokens=self.max_input_tokens or served.max_input_tokens or manners.max_input_tokens,
            price_per_million=price if self.price_per_million is None else self.price_per_million,
            send_dimensions=tells if self.send_dimensions is None else self.send_dimensions,
            timeout_seconds=self.timeout_seconds or TIMEOUT_SECONDS,
            retired=gone if self.retired is None else self.retired,
            extra_body=self.extra_body or {},
            headers=self.headers or {},
            batch=bool(self.batch),
            batch_price=self.batch_price,
            batch_inputs=self.batch_inputs,
        )

    def _sizes(self, side: str, known: KnownModel | None, dimensions: int | None) -> tuple[int, int]:
        """Dimensions that are asked for, and those of the column; raises as :meth:`complete`."""
        found = None if self.pad_to else dimensions
        size = self.dimensions or found or (known.dimensions if known else None)
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
        padded = self.pad_to or size
        if padded < size:
            raise SettingsError(
                f"{side}_model.pad_to = {padded}: {name} gives {size} dimensions, and none is cut off.",
                hint="Set it to the column's size, which is as much or more; or leave it out.",
            )
        return size, padded

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables that hold its secrets: its key, and what its headers name."""
        values = {value for use in USES for value in for_use(self.headers or {}, use).values()}
        named = {found[1] or found[2] for value in values for found in VARIABLE_IN.finditer(value)}
        return (*((self.key_variable,) if self.key_variable else ()), *sorted(named))


@dataclass(frozen=True, slots=True)
class PacingSettings:
    """How fast; None is "learnt from the provider's headers and answers"."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrency: int = 16
    spend_cap: float | None = None


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
    content_sql: str | None = None
    """The text as SQL over the row, instead of columns."""
    content_from: str | None = None
    """Another table that has the text, to which a foreign key refers: columns and SQL are of its rows."""
    content_via: tuple[str, ...] = ()
    """Columns of that foreign key, where several refer to that table."""
    scope: str | None = None
    """Condition on the rows that are migrated, SQL over the row; None: all rows."""
    old_column: str | None = None
    """None: the only vector column."""
    new_column: str = "embedding_v2"
    new_table: str | None = None
    """Side table's name; None is ``<table>_embedding_v2``."""
    placement: PlacementKind | None = None
    """None: as the plan recommends."""
    view: bool = False
    """Placement ``column``: whether prepare makes a routed view."""
    view_schema: str | None = None
    """Its schema; None is ``<name>_v2``."""
    foreign_key: bool = True
    """Whether a side table refers to its table by a foreign key."""
    distance: Distance | None = None
    """None: as the old column's index."""
    halfvec: bool | None = None
    """None: as the old column, and above 2,000 dimensions."""
    accept: tuple[str, ...] = ()
    """Checks of the plan that would fail, but which the operator has dealt with."""
    change_capture: str = "triggers"
    trust_application: bool = True
    """Whether vectors that the application writes itself are kept."""
    fire_triggers: bool = False
    """Whether embedtui's own writes of vectors fire the table's triggers even where they need not."""
    notify: bool = True
    """Whether the dashboard rings the bell, and asks for a desktop notification, when it needs somebody."""
    old_model: ModelSettings = ModelSettings()
    new_model: ModelSettings = ModelSettings()
    index: IndexSettings = field(default_factory=IndexSettings)
    pacing: PacingSettings = PacingSettings()
    throttle: ThrottleSettings = field(default_factory=ThrottleSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    cutover: CutoverSettings = field(default_factory=CutoverSettings)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Where each setting that is no default came from, e.g. {"table": "--table"}."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment and ``.env`` merged: holds the secrets, never shown."""
    file: Path | None = field(default=None, repr=False, compare=False)
    """The settings file, or where one would be looked for first."""
    again: Callable[..., Settings] | None = field(default=None, repr=False, compare=False)
    """Reads them anew from where they came from, given ``environ`` and perhaps a text to take instead of what the file
    says; None: they cannot be."""

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

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """The variables that the settings say hold keys, whatever they are called."""
        return (*self.old_model.variables, *self.new_model.variables)

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
                value = BY_PATH[path].parse(raw)
            except ValueError as error:
                raise SettingsError(f"{path} = {shown_value(raw)} ({origin}): {error}.") from None
            head, _, name = path.rpartition(".")
            change = {head: replace(getattr(changed, head), **{name: value})} if head else {name: value}
            changed = replace(changed, **change, origins={**changed.origins, path: origin}, again=None)
        return changed

    def stored(self) -> dict[str, object]:
        """What a worker on another host has to know too, as JSON: no secret, no model, no table."""
        result: dict[str, object] = {}
        for spec in SPECS:
            head, _, rest = spec.path.rpartition(".")
            if head in STORED_SECTIONS or spec.path in _STORED:
                place = result.setdefault(head, {}) if head else result
                assert isinstance(place, dict)
                value = self.value(spec.path)
                plain = list(value) if isinstance(value, tuple) else value
                place[rest] = plain.value if isinstance(plain, IndexMethod) else plain
        return result

    def says(self, path: str) -> bool:
        """Whether a setting was made, and is not merely its default."""
        return path in self.origins or self.value(path) != _DEFAULTS.value(path)


_STORED = (*STORED_ALONE, "view", "view_schema")

_DEFAULTS = Settings()
