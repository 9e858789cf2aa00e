"""Whether a migration may start, or go on, by these settings; asked before anything is changed."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.engine.plan.checks import DATABASE_CHECKS, provider_check, standing_checks
from embedtui.engine.plan.content_names import content_as_meant
from embedtui.engine.plan.draft import Draft, resolve
from embedtui.engine.plan.estimates import estimate_texts
from embedtui.engine.plan.existing import migration_name
from embedtui.engine.plan.placement import choose_placement
from embedtui.engine.plan.proof import proof_check
from embedtui.engine.plan.text_table import texts_elsewhere
from embedtui.engine.table_changes import table_change
from embedtui.errors import DatabaseError, EmbedtuiError, ProviderError, Refused, TableError
from embedtui.model import Check, Migration, PlacementKind
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.catalog.server import server_facts
from embedtui.postgres.catalog.tables import find_table
from embedtui.postgres.expressions import parse, reparse
from embedtui.postgres.names import qualified, shown, shown_column
from embedtui.postgres.state import migrations as state
from embedtui.providers.patience import Asking


def require_startable(conn: Connection[Any], settings: Settings, asking: Asking | None = None) -> int:
    """Refuse to start or go on by these settings before anything is changed. Reads only.

    A new migration's provider is asked for one vector, so that a wrong key, model or size leaves nothing behind, and
    the old model, where it answers, for those of some rows: they have to be the stored ones. One that is under way has
    to be the one that the settings describe. Returns the tokens that the old model took.

    Raises:
        Refused: another migration, or another model or content, than that under way.
        EmbedtuiError: what ``resolve`` and ``require_ready`` raise.
    """
    known = state.load_migration(conn, migration_name(conn, settings))
    if known is None or known.phase.ended:
        try:
            return require_ready(conn, resolve(conn, settings), settings, ask=True, asking=asking)[1]
        except EmbedtuiError:
            known = state.load_migration(conn, migration_name(conn, settings))
            if known is None or known.phase.ended:
                raise
            # another process began it meanwhile, and what it made was in the way
    require_same(conn, known, settings)
    return 0


def require_same(conn: Connection[Any], known: Migration, settings: Settings) -> None:
    """See that the settings describe ``known``, the migration under way.

    Two operators may begin at the same time, and nobody's work goes on into a model that he did not ask for.

    Raises:
        Refused: they describe another migration.
        TableChanged: the table that both mean is another one now.
    """
    change = table_change(conn, known)
    if change is not None and change.followed is None:
        raise change.error()
    if change is not None and change.followed is not None:
        known = change.followed
    model, table = known.new_model, known.table
    try:
        meant = find_table(conn, settings.table, settings.schema)[0] if settings.table is not None else known.table_oid
    except TableError:
        if change is not None:  # the settings still have its former name
            raise change.error() from None
        raise
    if meant != known.table_oid:
        raise Refused(f"The migration {known.name} is that of {shown(table)}.", hint="Say which one: --name.")
    if set(settings.content) - set(known.content_columns):
        settings = content_as_meant(conn, inspect_oid(conn, known.table_oid), settings)
    _require_same_expressions(conn, known, settings)
    said_normal = settings.new_model.normalise is not None
    elsewhere = known.text_table is not None or settings.content_from is not None  # what those mean is looked at above
    content = "" if elsewhere else ", ".join(settings.content)
    for what, stored, asked in (
        ("model", model.name, settings.new_model.name),
        ("dimensions", str(model.shape.given), str(settings.new_model.dimensions or model.shape.given)),
        ("pad_to", str(model.dimensions), str(settings.new_model.pad_to or model.dimensions)),
        ("normalise", str(model.normalise), str(settings.new_model.normalise) if said_normal else ""),
        ("content", "" if known.content else ", ".join(known.content_columns), content),
    ):
        if asked and asked != stored:
            raise Refused(
                f"The migration {known.name} is under way with {what} {stored}, and the settings say {asked}.",
                hint=f"Set it back, or give it up first: embedtui abort --table {shown_column(table.name)}",
            )


def _require_same_expressions(conn: Connection[Any], known: Migration, settings: Settings) -> None:
    """The same of scope and text: by what they mean, for columns may have been renamed.

    A text that only scans can keep current ends no scans.
    """
    scanned = not known.stored.by_triggers
    if settings.says("change_capture"):
        scanned = settings.change_capture == "scan"
    content = ("content_sql", known.content, settings.content_sql)
    elsewhere = settings.content_from is not None or known.text_table is not None
    if elsewhere:
        _require_same_texts(conn, known, settings)
    elif known.content is not None and not (scanned or known.stored.by_triggers):
        reparse(conn, known.table, known.content, {}, setting="content_sql")
    for what, stored, asked in (("scope", known.scope, settings.scope), *(() if elsewhere else (content,))):
        if asked is None or (stored is not None and stored.given == asked.strip()):
            continue
        if (
            stored is not None
            and parse(conn, known.table, asked, setting=what, condition=what == "scope", scanned=scanned).sql
            == stored.sql
        ):
            continue
        has = f"{what} {stored.given}" if stored is not None else f"no {what}"
        raise Refused(
            f"The migration {known.name} is under way with {has}, and the settings say {asked}.",
            hint="Set it back, or for another migration of the table beside this one, set its own --name.",
        )


def _require_same_texts(conn: Connection[Any], known: Migration, settings: Settings) -> None:
    """The same where the texts are, or would be, in another table; what is not said is as it is."""
    other = known.text_table
    if settings.content_from is None and not settings.content and settings.content_sql is None:
        return
    asked = settings
    if other is not None and settings.content_from is None:
        asked = settings.with_values({"content_from": qualified(other.table)}, "the migration")
    if other is not None and not asked.content_via:
        asked = asked.with_values({"content_via": other.reference}, "the migration")
    found = texts_elsewhere(conn, server_facts(conn), inspect_oid(conn, known.table_oid), asked)
    if found is not None and known.content is not None and found.expression.sql == known.content.sql:
        return
    has = "content" if known.content is None else f"content {known.content.given}"
    raise Refused(
        f"The migration {known.name} is under way with {has}, and the settings say"
        f" {'another' if found is None else found.expression.given}.",
        hint="Set it back, or for another migration of the table beside this one, set its own --name.",
    )


def require_ready(
    conn: Connection[Any], draft: Draft, settings: Settings, *, ask: bool = False, asking: Asking | None = None
) -> tuple[PlacementKind, int]:
    """Refuse to begin what the plan's checks say cannot work; the placement to begin with, and the proof's tokens.

    Reads only; ``ask`` makes one request for one vector, and some of the old model for the proof. A provider that is
    only busy or away is no reason to refuse.

    Raises:
        DatabaseError, ProviderError, Refused: by the first check that failed.
        SettingsError: scope or content fails on a row.
    """
    placement, _ = choose_placement(draft, settings)
    migration = draft.migration(placement)
    if migration.scope is not None or migration.content is not None:
        estimate_texts(conn, migration, draft)  # these have to have a value for every row
    # one after the other: what costs something is asked once all else is well
    for check in standing_checks(conn, draft, migration, settings):
        _require(check)
    for check in provider_check(settings, migration, ask, asking).checks(draft, settings):
        _require(check)
    if not ask:
        return placement, 0
    # who has dealt with it need not pay for it once more
    proof = proof_check(conn, migration, settings, "proof" not in settings.accept, asking)
    _require(proof.check)
    return placement, proof.tokens


def _require(check: Check) -> None:
    if check.result != "fail":
        return
    kind: type[EmbedtuiError] = Refused
    if check.name in DATABASE_CHECKS:
        kind = DatabaseError
    elif check.name == "provider":
        kind = ProviderError
    raise kind(check.detail, hint=check.hint, remedies=check.remedies)
