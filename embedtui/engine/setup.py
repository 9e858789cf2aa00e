"""The choice of what is moved and where to, and the settings file that says so: for every face that asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from embedtui.config import Settings, edited, file_text, from_typed, left_out, set_aside, typed, write_toml
from embedtui.engine.plan.content_names import content_as_meant
from embedtui.engine.plan.contents import text_check
from embedtui.engine.plan.draft import Draft, resolve
from embedtui.engine.plan.existing import content_settings
from embedtui.engine.plan.placement import choose_placement
from embedtui.engine.plan.presets import frameworks_of, recognise
from embedtui.engine.plan.presets.checks import framework_checks
from embedtui.engine.plan.presets.switching import ways_of
from embedtui.engine.plan.scope import scope_checks
from embedtui.errors import DatabaseLost, EmbedtuiError, SettingsError
from embedtui.model import Check, EmbeddingModel, FoundTable, Migration, Proposal
from embedtui.postgres.catalog.inspect import inspect_table
from embedtui.postgres.catalog.tables import find_candidates
from embedtui.postgres.connect import connect, translate
from embedtui.postgres.names import shown
from embedtui.postgres.sides import routed_view
from embedtui.postgres.sides.texts import first_texts

PROPOSED: Mapping[str, str] = {"new_model.name": "text-embedding-3-large", "new_model.dimensions": "768"}
"""What is proposed where no new model is set."""

CHOSEN = (
    "content",
    "content_sql",
    "content_from",
    "scope",
    "old_model.name",
    "old_model.base_url",
    "old_model.key_variable",
    "new_model.name",
    "new_model.dimensions",
    "new_model.provider",
    "new_model.base_url",
    "new_model.key_variable",
    "placement",
    "cutover.strategy",
    "cutover.env_file",
    "cutover.hook",
    "cutover.roles",
)
"""What a face lets one choose, beside table and column."""

TEXTS = 3
"""Rows whose texts are shown."""


def found_tables(conn: Connection[Any]) -> tuple[FoundTable, ...]:
    """The vector columns that a migration could start from, the biggest table first."""
    found = find_candidates(conn)
    made_by = frameworks_of(conn, [each.table for each in found])
    return tuple(
        FoundTable(shown(each.table), each.column, each.type, each.rows, made_by.get(each.table, ""), each.bytes)
        for each in found
    )


def open_texts(conn: Connection[Any], settings: Settings) -> list[str]:
    """The text columns among which somebody has to choose; none where it is clear what is embedded.

    Raises TableError: no such table.
    """
    assert settings.table is not None
    if settings.content or settings.content_sql is not None or settings.content_from is not None:
        return []
    facts = inspect_table(conn, settings.table, settings.schema)
    texts = [column.name for column in facts.text_choices]
    return texts if recognise(facts) is None and len(texts) > 1 else []


def decided(conn: Connection[Any], settings: Settings, draft: Draft) -> Settings:
    """The settings with every choice that the catalog has made, so that the file says it."""
    models = (("old_model", draft.old_model), ("new_model", draft.new_model))
    settings = content_as_meant(conn, draft.facts, settings)
    return settings.with_values(
        {
            "table": draft.facts.table.name,
            "schema": draft.facts.table.schema,
            "key": draft.key.columns,
            **content_settings(draft.text, draft.content),
            "old_column": draft.old_column,
            "old_model.dimensions": draft.old_model.shape.given,
            "new_model.name": draft.new_model.name,
            "new_model.dimensions": draft.new_model.shape.given,
            **({"view": True} if _goes_by_view(conn, settings, draft) else {}),
            **(
                {"old_model.key_variable": key}
                if (key := _old_key(settings, draft)) != draft.old_model.key_variable
                else {}
            ),
            **{f"{side}.pad_to": model.dimensions for side, model in models if model.given is not None},
        },
        "init",
    )


def _old_key(settings: Settings, draft: Draft) -> str:
    """The variable with the old model's key: where nobody says it, one endpoint takes one key."""
    old, new = draft.old_model, draft.new_model
    unsaid = settings.old_model.name is not None and settings.old_model.key_variable is None
    return (
        new.key_variable if unsaid and old.base_url is not None and old.base_url == new.base_url else old.key_variable
    )


def missing_keys(settings: Settings, draft: Draft) -> tuple[str, ...]:
    """Variables with the models' keys that are not set."""
    wanted = [draft.new_model.key_variable, "" if draft.old_model.unasked else _old_key(settings, draft)]
    return tuple(dict.fromkeys(each for each in wanted if each and not settings.environ.get(each, "").strip()))


def _goes_by_view(conn: Connection[Any], settings: Settings, draft: Draft) -> bool:
    """Whether the application of the table's framework finds the new side by the routed view, which can be had."""
    if draft.preset is None or settings.says("view"):
        return False
    way, migration = ways_of(draft.preset.name)[0], draft.migration(choose_placement(draft, settings)[0])
    return way.view and way.strategy == "pointer" and routed_view.obstacle(conn, migration) is None


class Setup:
    """Set-up by somebody who chooses on a screen: each choice is looked at as ``init`` would, then all are written.

    Reads the database only. Safe to use from any thread, one call at a time.
    """

    def __init__(self, settings: Settings, path: Path, *, unusable: bool = False) -> None:
        """Begin with ``settings``, to be written to ``path``; ``unusable``: what is there cannot be read.

        Raises SettingsError: the file cannot be read at all.
        """
        self._settings, self._path, self._unusable = settings, path, unusable
        self._seen = file_text(path)
        before = None if unusable or settings.file is None else file_text(settings.file)
        self._text = before or ""

    def tables(self) -> tuple[FoundTable, ...]:
        """The vector columns that a migration could start from, the biggest table first."""
        with self._reading() as conn:
            return found_tables(conn)

    def look(self, values: Mapping[str, str], *, whole: bool) -> Proposal:
        """What the choice made so far means; ``whole``: the new model is part of it.

        ``values`` are settings as they are typed; an empty one is not set.

        Raises DatabaseLost: it is out of reach.
        """
        try:
            settings = self._with(values)
        except EmbedtuiError as error:
            return Proposal(values, refused=error)
        fixed = {path: origin for path in CHOSEN if (origin := settings.origin(path)) not in ("default", self._named)}
        shown_now = {path: typed(settings.value(path)) for path in (*values, *CHOSEN) if settings.says(path)}
        columns: list[str] = []
        try:
            self._require_heeded(settings, values)
            with self._reading() as conn:
                columns = open_texts(conn, settings)
                draft = resolve(conn, settings if whole else settings.with_values(PROPOSED, "set-up"))
                found = _proposal(conn, draft, settings)
                meant = content_as_meant(conn, draft.facts, settings)
        except DatabaseLost:
            raise
        except EmbedtuiError as error:
            return Proposal(shown_now, fixed, error, tuple(columns))
        proposed = {path: typed(value) for path, value in content_settings(draft.text, draft.content).items()}
        if not settings.new_model.name and not whole:
            proposed |= PROPOSED
        model = draft.new_model if whole else None
        return replace(
            found,
            values={**proposed, **{path: each for path, each in shown_now.items() if meant.says(path)}},
            fixed=fixed,
            text_columns=tuple(columns),
            new=f"{model.name}, {draft.new_type}({model.dimensions})" if model is not None else "",
            key_variable=model.key_variable if model is not None else "",
            keys_missing=missing_keys(settings, draft) if whole else (),
            file=self._becomes,
            left_out=left_out(settings),
        )

    def write(self, values: Mapping[str, str]) -> Path:
        """Write the settings file; gives its path. One that cannot be used is kept beside it.

        Raises:
            SettingsError, TableError: the choice cannot be; nothing is written.
            SettingsError: the file cannot be written, or somebody else changed it meanwhile.
        """
        settings = self._with(values)
        self._require_heeded(settings, values)
        with self._reading() as conn:
            chosen = decided(conn, settings, resolve(conn, settings))
        if self._unusable and self._seen is not None:
            set_aside(self._path)
        after = "" if self._unusable else _before(edited(self._text, _raw(values)), chosen)
        write_toml(self._path, chosen, after=after, seen=self._seen)
        return self._path

    # ------------------------------------------------------------------------------------------------------ parts

    @property
    def _named(self) -> str:
        """What settings of the file have as their origin."""
        return self._settings.file.name if self._settings.file is not None else self._path.name

    @property
    def _becomes(self) -> str:
        """What becomes of the file, in a sentence."""
        if self._seen is None:
            return f"{self._path} is written."
        if self._unusable:
            return f"{self._path} is written anew; what it says now is kept beside it as {self._path.name}.before."
        return f"{self._path} is changed: its comments and other settings stay."

    def _with(self, values: Mapping[str, str]) -> Settings:
        """The settings as they would be, were these in the file."""
        if self._settings.again is None:
            return self._settings.with_values({path: each for path, each in _raw(values).items() if each}, "set-up")
        return self._settings.again(self._settings.environ, edited(self._text, _raw(values)))

    def _require_heeded(self, settings: Settings, values: Mapping[str, str]) -> None:
        """Refuse what would be without effect: the environment comes before the file."""
        for path, text in values.items():
            origin = settings.origin(path)
            if text.strip() and origin != self._named and settings.value(path) != from_typed(path, text):
                raise SettingsError(
                    f"{origin} says {path} = {typed(settings.value(path))}, and comes before the file.",
                    hint=f"Leave it so, or change {origin} and start again.",
                )

    @contextmanager
    def _reading(self) -> Iterator[Connection[Any]]:
        try:
            with connect(self._settings.dsn, name="init", read_only=True) as conn:
                yield conn
        except psycopg.Error as error:
            raise translate(error, dsn=self._settings.dsn) from error


def _before(text: str, chosen: Settings) -> str:
    """What a file says to begin with: nothing of a text that is said otherwise."""
    gone = {path: None for path in ("content", "content_sql") if not chosen.says(path)}
    return edited(text, gone) if text else text


def write_chosen(path: Path, chosen: Settings) -> None:
    """Have the file say what was chosen; its comments and other settings stay."""
    text = file_text(path)
    write_toml(path, chosen, after=None if text is None else _before(text, chosen))


def _raw(values: Mapping[str, str]) -> dict[str, object]:
    return {path: from_typed(path, text) if text.strip() else None for path, text in values.items()}


def _proposal(conn: Connection[Any], draft: Draft, settings: Settings) -> Proposal:
    """What the rows say of a choice that can be."""
    kind, why = choose_placement(draft, settings)
    migration = draft.migration(kind)
    return Proposal(
        texts=tuple(_sent(migration.new_model, text) for text in first_texts(conn, migration, TEXTS)),
        checks=tuple(_checks(conn, draft, migration, settings)),
        old=f"{draft.old_column} {draft.old_type}({draft.old_model.dimensions})",
        placement=f"{kind}: {why}",
        view=_view_said(conn, draft, settings),
    )


def _view_said(conn: Connection[Any], draft: Draft, settings: Settings) -> str:
    """How an application follows that goes by a routed view, where there will be one; else empty."""
    if not settings.value("view") and not _goes_by_view(conn, settings, draft):
        return ""
    who = draft.preset.name if draft.preset is not None else "what reads the table by its name"
    alone = ", which has these rows alone" if draft.scope is not None else ""
    return f"{who} follows by a routed view{alone}; its lines: embedtui cutover --how"


def _sent(model: EmbeddingModel, text: str) -> str:
    return f"{model.document_prefix}{text}"


def _checks(conn: Connection[Any], draft: Draft, migration: Migration, settings: Settings) -> Iterator[Check]:
    """What the plan says of texts and rows; what is well is told by the texts themselves."""
    texts = text_check(conn, draft.elsewhere.facts if draft.elsewhere else draft.facts, migration)
    if texts is None:
        yield Check("texts", "warn", "No row among these has a text: there is nothing to embed.")
    elif texts.result != "pass":
        yield texts
    yield from framework_checks(conn, draft.facts, draft.preset, draft.content, scoped=draft.scope is not None)
    yield from (check for check in scope_checks(conn, migration, settings) if check.result != "pass")
    for notice in draft.notices:
        yield Check("table", "warn", notice)
