"""Which placement suits a table, and why."""

from __future__ import annotations

from collections.abc import Iterator

from embedtui.config import Settings
from embedtui.engine.plan.draft import Draft
from embedtui.formatting import size
from embedtui.model import PlacementKind
from embedtui.postgres.catalog.facts import RowTrigger
from embedtui.postgres.names import shown, shown_column


def choose_placement(draft: Draft, settings: Settings) -> tuple[PlacementKind, str]:
    """The placement, and why: the one that was set, else the one that the facts speak for.

    Beside the old column is the default: one table, one search. A side table where a new column would stop
    subscribers, fire the application's triggers on every row, or needs an ownership that this role lacks; and where the
    old index is so big that the updates which do leave their page would hurt.
    """
    reasons = list(_for_a_side_table(draft))
    if settings.placement is not None:
        origin = settings.origin("placement")
        if settings.placement is PlacementKind.COLUMN and reasons:
            return PlacementKind.COLUMN, f"as set ({origin}), though {'; '.join(reasons)}"
        return settings.placement, f"as set ({origin})"
    if reasons:
        return PlacementKind.TABLE, "; ".join(reasons)
    return (
        PlacementKind.COLUMN,
        "no row trigger, no publication and no big index on the old column speak for a side table",
    )


def _for_a_side_table(draft: Draft) -> Iterator[str]:
    facts = draft.facts
    table = shown(facts.table)
    if not facts.is_owner:
        yield f"adding a column takes the owner of {table}, and {draft.server.role} is not"
    if facts.unchecked:
        yield f"{', '.join(map(shown_column, facts.unchecked))} is NOT VALID, and no row that breaks it can be updated"
    if facts.snapshot_isolation:
        yield f"transactions are {facts.snapshot_isolation} by default, and fail on rows that are backfilled meanwhile"
    if facts.columns_of:
        yield f"{table} is {facts.columns_of}, which alone could add a column"
    carried = [publication.name for publication in facts.publications if not publication.columns]
    if carried:
        yield f"publication {', '.join(carried)} would carry a new column to subscribers that do not have it"
    if facts.subscribed:
        yield f"{table} is the target of a subscription"
    fired = _fired_by_update(draft)
    if fired:
        names = ", ".join(trigger.name for trigger in fired)
        fires = f"an update of every row fires {names} where a worker's role may not pass triggers"
        yield f"{fires} ({draft.server.role}, a superuser, may)" if draft.server.superuser else fires
    big = max((index.bytes for index in facts.indexes_on(draft.old_column)), default=0)
    if big > draft.server.shared_buffers:
        yield (
            f"the old index ({size(big)}) is bigger than shared_buffers"
            f" ({size(draft.server.shared_buffers)}), and some updates have to touch it"
        )


def _fired_by_update(draft: Draft) -> list[RowTrigger]:
    """The application's row triggers that an update of the new column alone would fire."""
    return [
        trigger for trigger in draft.facts.triggers if trigger.enabled and trigger.on_update and not trigger.columns
    ]
