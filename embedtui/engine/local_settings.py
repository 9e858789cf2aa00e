"""What this machine's own settings say of a migration: the database gives no orders to whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from embedtui.config import LOCAL_ONLY, STORED_ALONE, STORED_SECTIONS, ModelSettings, Settings
from embedtui.errors import Refused
from embedtui.known import KNOWN_MODELS, provider
from embedtui.model import EmbeddingModel, IndexMethod, Migration, Phase
from embedtui.model.migration import for_use
from embedtui.providers import unsaid_endpoint
from embedtui.redaction import redact

_LIVE_MODEL = (
    "query_prefix",
    "max_inputs",
    "max_tokens",
    "max_input_tokens",
    "price_per_million",
    "send_dimensions",
    "timeout_seconds",
    "retired",
    "batch",
    "batch_price",
    "batch_inputs",
)
_FLIPPED = (Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP, Phase.DONE)
_ON_ITS_OWN = ("pointer", "rename")
"""Strategies that act on the database alone, with the rights that the operator has there anyway."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is stored in one way and said here in another; here counts."""

    path: str
    stored: object
    here: object

    def __str__(self) -> str:
        return f"{self.path} is {_shown(self.here)} here (stored: {_shown(self.stored)})"


def as_set_here(migration: Migration, settings: Settings | None, environ: Mapping[str, str]) -> Migration:
    """A loaded migration with what the local settings say of it: all that is not its identity.

    What only the database has is not followed: a model whose endpoint or key's variable it alone knows is ``unusable``,
    and a command, file or SQL text stays in ``unsaid``.
    """
    settings = settings or Settings()
    unsaid = dict(migration.unsaid)
    old = _model("old_model", migration.old_model, settings, unsaid, environ)
    new = _model("new_model", migration.new_model, settings, unsaid, environ)
    side, unusable = unsaid_endpoint(old, new, environ) or ("", None)
    old, new = (
        replace(model, unusable=model.unusable or unusable) if side == name else model
        for name, model in (("old", old), ("new", new))
    )
    sections: dict[str, object] = dict(migration.settings)
    for head in STORED_SECTIONS:
        stored = sections.get(head)
        section = dict(stored) if isinstance(stored, dict) else {}
        for each in fields(getattr(settings, head)):
            path = f"{head}.{each.name}"
            if settings.says(path) and path != "index.method":  # the method is the migration's own
                value = settings.value(path)
                section[each.name] = value.value if isinstance(value, IndexMethod) else value
                unsaid.pop(path, None)
        if section:
            sections[head] = section
    for path in STORED_ALONE:
        if settings.says(path) and (path != "foreign_key" or migration.phase is Phase.PREPARE):
            sections[path] = settings.value(path)
    _keep_exchange(migration, sections)
    _decide_cutover(settings, sections, unsaid)
    return replace(migration, old_model=old, new_model=new, settings=sections, unsaid=unsaid)


def _model(
    side: str, stored: EmbeddingModel, settings: Settings, unsaid: dict[str, object], environ: Mapping[str, str]
) -> EmbeddingModel:
    """The stored model as it is reached from here; takes what is decided out of ``unsaid``."""
    known = KNOWN_MODELS.get(stored.name)
    given: ModelSettings = getattr(settings, side)
    if given.name not in (None, stored.name):  # the settings speak of another model
        given = ModelSettings()
    own = given.provider or ((known.provider if known else "openai") if given.name else stored.provider)
    variable = given.key_variable
    remembered = unsaid.pop(f"{side}.key_variable", None)
    if variable is None:
        # of a model that the settings do not name: a provider's own key goes to the provider's own endpoint
        variable = provider(own).key_variable
        # settings that name the model mean its usual variable, as at the start
        if not given.name and remembered == "":  # no key at all tells nobody a secret
            variable = ""
        elif not given.name and remembered not in (None, variable):
            unsaid[f"{side}.key_variable"] = remembered
    url = given.base_url
    if own != "openai" and settings.origin(f"{side}.base_url").startswith("OPENAI_BASE_URL"):
        url = None  # another provider's key has no business there
    endpoint = unsaid.pop(f"{side}.base_url", None)
    if url is None and endpoint is not None:
        url = environ.get("OPENAI_BASE_URL") if own == "openai" else None
        if not url:
            unsaid[f"{side}.base_url"] = endpoint
    if own != stored.provider:
        unsaid[f"{side}.provider"] = stored.provider
    body = dict(given.extra_body or {})
    stored_body = unsaid.get(f"{side}.extra_body")
    if given.extra_body is not None or not stored_body:
        unsaid.pop(f"{side}.extra_body", None)
    live: dict[str, Any] = {name: getattr(given, name) for name in _LIVE_MODEL if getattr(given, name) is not None}
    missing = {path: value for path, value in unsaid.items() if path.startswith(f"{side}.")}
    unusable = (
        (f"Only the database says how {stored.name} is reached: {_listed(missing)}.", _to_set(missing))
        if missing
        else None
    )
    if unusable is None:
        unusable = _other_documents(stored, side, stored_body if isinstance(stored_body, dict) else {}, body)
    return replace(
        stored,
        base_url=url,
        key_variable=variable,
        extra_body=body,
        headers=dict(given.headers or {}),
        unusable=unusable,
        **live,
    )


def _other_documents(
    model: EmbeddingModel, side: str, stored: Mapping[str, Any], here: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Why fields that are sent with documents are not to differ from those that the vectors there were made with."""
    before, now = for_use(stored, "document"), for_use(here, "document")
    if before == now:
        return None
    reason = f"{side}.extra_body sends {_shown(now)} with documents here; the vectors of {model.name} were made with"
    return (
        f"{reason} {_shown(before)}.",
        "Set it back; other fields make other vectors: give the migration up (`embedtui abort`) and begin anew.",
    )


def _keep_exchange(migration: Migration, sections: Mapping[str, object]) -> None:
    """Whether names were exchanged is a fact of the table once it is cut over, and no longer for settings to say."""
    stored, here = migration.settings.get("cutover"), sections.get("cutover")
    if migration.phase in _FLIPPED and isinstance(stored, dict) and isinstance(here, dict):
        before = stored.get("strategy", "pointer")
        if "rename" in (before, here.get("strategy", "pointer")):
            here["strategy"] = before


def _decide_cutover(settings: Settings, sections: Mapping[str, object], unsaid: dict[str, object]) -> None:
    """Leave in ``unsaid`` what the stored strategy would do on this machine, unless a strategy is set here."""
    section = sections.get("cutover")
    strategy = section.get("strategy", "pointer") if isinstance(section, dict) else "pointer"
    needed = () if settings.says("cutover.strategy") else {"pointer": (), "rename": ("cutover.hook",)}.get(strategy)
    for path in [path for path in unsaid if path.startswith("cutover.")]:
        if needed is not None and path not in needed:
            del unsaid[path]
    if needed is None and strategy not in _ON_ITS_OWN:
        unsaid["cutover.strategy"] = strategy


def require_said(migration: Migration, *heads: str) -> None:
    """Refuse an act whose orders only the database has.

    Raises Refused: with what it has, and the settings to write if that is right.
    """
    missing = {path: value for path, value in migration.unsaid.items() if path.startswith(heads)}
    if missing:
        raise Refused(f"Only the database says {_listed(missing)}.", hint=_to_set(missing))


def differences(stored: Migration, here: Migration) -> tuple[Difference, ...]:
    """What the local settings say otherwise than the migration as loaded, in the order of the settings file."""
    return tuple(each for each in _compared(stored, here) if _shown(each.stored) != _shown(each.here))


def _compared(stored: Migration, here: Migration) -> Iterator[Difference]:
    for side in ("old_model", "new_model"):
        before, after = getattr(stored, side), getattr(here, side)
        for name in ("base_url", "key_variable", "extra_body"):
            path = f"{side}.{name}"
            if path not in here.unsaid:
                yield Difference(path, stored.unsaid.get(path) or None, getattr(after, name) or None)
        for name in _LIVE_MODEL:
            yield Difference(f"{side}.{name}", getattr(before, name), getattr(after, name))
    for name in STORED_ALONE:
        yield Difference(name, stored.settings.get(name), here.settings.get(name))
    for head in STORED_SECTIONS:
        before, after = stored.settings.get(head), here.settings.get(head)
        if not isinstance(after, dict):
            continue
        old = before if isinstance(before, dict) else {}
        for name, value in after.items():
            path = f"{head}.{name}"
            was = stored.unsaid.get(path) if path in LOCAL_ONLY else old.get(name)
            yield Difference(path, was or None, value or None) if path in LOCAL_ONLY else Difference(path, was, value)


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{path} = {_shown(value)}" for path, value in sorted(settings.items()))


def _to_set(missing: Mapping[str, object]) -> str:
    lines = []
    for path, value in sorted(missing.items()):
        head, _, name = path.rpartition(".")
        lines.append(f"[{head}] {name} = {_shown(value)}")
    return (
        "It is not followed from there: work by the embedtui.toml of those at work (--config, or copy it here), or,"
        f" if that is right, say so in this machine's: {'; '.join(lines)}"
    )


def _shown(value: object) -> str:
    """As the settings file spells it; jsonb has put the names of a table into another order than the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return (
            f"{{ {', '.join(f'{name} = {_shown(each)}' for name, each in sorted(value.items()))} }}"
            if value
            else "nothing"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f'"{redact(value)}"' if isinstance(value, str) else "unset" if value is None else str(value)
