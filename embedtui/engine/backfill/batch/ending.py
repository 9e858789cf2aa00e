"""What becomes of batch jobs under way when their migration is given up: nobody wants their answers any more."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from embedtui.formatting import counted
from embedtui.model import Migration
from embedtui.postgres.state.batches import BatchJob
from embedtui.providers import ProviderFault, make_batches
from embedtui.providers.batches import BatchState

if TYPE_CHECKING:
    from embedtui.providers.openai_batches import OpenAIBatches

ENDED = ("completed", "failed", "expired", "cancelled", "cancelling")


def cancel_jobs(
    jobs: Sequence[BatchJob], migration: Migration, environ: Mapping[str, str], stop: threading.Event
) -> list[str]:
    """Have the provider end jobs, so that no more is paid; a sentence on what was done, and what an operator has to do.

    Only a job that carries our token is ended: names in the database are nobody's orders.
    """
    jobs = [job for job in jobs if job.state != "packed"]
    if not jobs:
        return []
    cancelled = 0
    left: list[str] = []
    try:
        client = make_batches(migration.new_model, environ=environ)
    except ProviderFault as fault:
        return [_by_hand([job.batch or str(job.token) for job in jobs], fault.reason)]
    why = ""
    with closing(client):
        for job in jobs:
            try:
                found = _found(client, job, stop)
                if found is None or found.token != str(job.token):
                    continue
                if found.status not in ENDED:
                    client.cancel(found.id, stop)
                cancelled += 1
            except ProviderFault as fault:
                left.append(job.batch or str(job.token))
                why = fault.reason
    said = (
        f"{counted(cancelled, 'batch job', 'batch jobs')} ended at the provider; what it had answered is charged for."
    )
    return [*([said] if cancelled else []), *([_by_hand(left, why)] if left else [])]


def _found(client: OpenAIBatches, job: BatchJob, stop: threading.Event) -> BatchState | None:
    return client.retrieve(job.batch, stop) if job.batch else client.find(str(job.token), stop)


def _by_hand(names: Sequence[str], why: str) -> str:
    return f"Cancel at the provider yourself: {', '.join(names)} ({why})."
