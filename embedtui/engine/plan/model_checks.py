"""What is known of the two models before anything is asked of them: price, its age, and when they are shut down."""

from __future__ import annotations

from collections.abc import Iterator

from embedtui.config import Settings
from embedtui.formatting import money
from embedtui.known import KNOWN_MODELS, PRICES_CHECKED, retirement
from embedtui.model import Check, EmbeddingModel, Migration


def model_checks(migration: Migration, settings: Settings) -> Iterator[Check]:
    """What the plan says of both models: the price, and their announced shutdowns."""
    new, old = migration.new_model, migration.old_model
    if new.price_per_million is None and settings.pacing.spend_cap is not None:
        yield Check(
            "price",
            "fail",
            f"A spend cap is set ({settings.origin('pacing.spend_cap')}), but the price of {new.name} is not known.",
            "Set new_model.price_per_million.",
        )
    elif new.price_per_million is None:
        yield Check("price", "unknown", f"The price of {new.name} is not known.", "Set new_model.price_per_million.")
    else:
        yield _check_price(new, settings)
    ends, ended = retirement(new.provider, new.name), retirement(old.provider, old.name)
    if new.retired:
        said = f"{ends}." if ends is not None else f"{new.name} is retired."
        yield Check("new model", "fail", said, "Choose a model that is served.")
    elif ends is not None and ends.near():
        yield Check("new model", "warn", f"{ends}.", "Choose a model that is served for longer.")
    said = f"{ended}. " if ended is not None and ended.near() else ""
    if old.unasked:
        why = f"The old model ({old.name}) does not answer" if old.retired else f"The unnamed old model {old.unasked}"
        hint = "Nothing to do; the screen counts them." if old.retired else "Set old_model.name, if it still answers."
        yield Check("old model", "warn", f"{said}{why}: after the cutover, a rollback finds edited rows stale.", hint)
    elif said:
        hint = "From then on a rollback finds edited rows stale; if it is gone already, set old_model.retired = true."
        yield Check("old model", "warn", said.strip(), hint)


def _check_price(model: EmbeddingModel, settings: Settings) -> Check:
    """The price that the estimate is made with, and how old it is."""
    known = KNOWN_MODELS.get(model.name)
    price = f"{money(model.price_per_million)} per million tokens of {model.name}"
    if settings.new_model.price_per_million is not None or known is None:
        return Check("price", "pass", f"{price}, by {settings.origin('new_model.price_per_million')}")
    detail = f"{price}, as public lists had it on {PRICES_CHECKED} (see {known.price_from}); it may have changed"
    return Check("price", "pass", detail, "Set new_model.price_per_million where it has.")
