"""What the backfill by batch jobs would take, and whether the provider has any."""

from __future__ import annotations

import threading
from contextlib import closing
from uuid import uuid4

from embedtui.config import Settings
from embedtui.engine.plan.estimates import estimate_cost
from embedtui.model import BatchOffer, Check, Migration
from embedtui.providers import ProviderFault, make_batches
from embedtui.providers.batches import JOB_INPUTS

WINDOW_SECONDS = 24 * 3600.0
"""Within which OpenAI answers a job."""


def batch_offer(migration: Migration, rows: int, tokens: int) -> BatchOffer | None:
    """None where the provider is not known to take batch jobs as OpenAI does."""
    model = migration.new_model
    if model.provider != "openai" and not model.batch:
        return None
    jobs = -(-rows // (model.batch_inputs or JOB_INPUTS))
    return BatchOffer(estimate_cost(migration, tokens, batch=True), WINDOW_SECONDS, jobs, model.batch)


def batch_check(migration: Migration, settings: Settings) -> Check:
    """Whether the endpoint lists batch jobs, which costs nothing."""
    name = migration.new_model.name
    try:
        with closing(make_batches(migration.new_model, environ=settings.environ)) as client:
            client.find(str(uuid4()), threading.Event())
    except ProviderFault as fault:
        return Check(
            "batch jobs",
            "fail",
            f"The endpoint of {name} does not list batch jobs: {fault.reason}",
            "Set new_model.batch = false, or the base URL of an endpoint that has them.",
        )
    return Check("batch jobs", "pass", f"The endpoint of {name} has batch jobs.")
