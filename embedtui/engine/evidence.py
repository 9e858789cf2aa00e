"""What is measured before the switch: both sides compared, single queries, every row looked at."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import psycopg

from embedtui.engine.access import Access, connector
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.pacing import Pacer
from embedtui.engine.backfill.stages import make_row_embedder
from embedtui.engine.local_settings import require_said
from embedtui.engine.validate.catching_up import catch_up
from embedtui.engine.validate.compare import ad_hoc, compare
from embedtui.engine.validate.gate import decide_gate
from embedtui.engine.validate.run import CompareOptions
from embedtui.engine.validate.verify import count_rows, sample_rows
from embedtui.errors import ProviderError, Refused
from embedtui.formatting import counted
from embedtui.model import Command, Comparison, Key, Migration, Phase, QueryComparison, QueryInput, Side, VerifyReport
from embedtui.postgres.connect import connect, translate
from embedtui.postgres.joined import as_called_now
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.queue import queue_keys
from embedtui.providers import Embedder, ProviderFault, make_embedder
from embedtui.providers.patience import Asking

REPAIR_LIMIT = 100_000
"""Rows that ``verify --repair`` queues at a time."""


def _filter(migration: Migration, where: str | None) -> str:
    """Raises Refused: only the database has one, and SQL of others does not run with our rights."""
    if where is None:
        require_said(migration, "gate.where")
        return migration.stored.gate.where
    return where


def compare_sides(
    at: Access,
    queries: Sequence[QueryInput] | None,
    options: CompareOptions,
    *,
    where: str | None = None,
    replica_dsn: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> Comparison:
    """Compare both sides over ``queries`` and decide the gate; see :meth:`embedtui.engine.Engine.compare`."""
    migration = at.allowed(Command.COMPARE)
    try:
        with _query_embedders(at, migration) as embedders:
            comparison = compare(
                at.connector("compare"),
                migration,
                queries,
                replace(options, where=_filter(migration, where)),
                embedders=embedders,
                replica=connector(replica_dsn, "compare") if replica_dsn else None,
                progress=progress,
                stop=stop,
            )
        with connect(at.dsn, name="gate") as conn:
            caught = catch_up(conn, migration, stop, at.note)
        return decide_gate(at.connector("gate"), migration, comparison, migration.stored.gate, caught)
    except psycopg.Error as error:
        raise translate(error, dsn=at.dsn) from error


def search_both(at: Access, text: str, *, k: int = 10, where: str | None = None) -> QueryComparison:
    """Both sides' results of a typed query, ``where`` as in :func:`compare_sides`."""
    migration = at.allowed(Command.COMPARE)
    try:
        with _query_embedders(at, migration) as embedders:
            return ad_hoc(
                at.connector("compare"),
                migration,
                text,
                k=k,
                embedders=embedders,
                where=_filter(migration, where),
            )
    except ProviderFault as fault:
        raise ProviderError(fault.reason, hint=fault.hint) from None
    except psycopg.Error as error:
        raise translate(error, dsn=at.dsn) from error


@contextlib.contextmanager
def _query_embedders(at: Access, migration: Migration) -> Iterator[dict[Side, Embedder | None]]:
    found: dict[Side, Embedder | None] = {}
    require_said(migration, "new_model.")
    with contextlib.ExitStack() as opened:
        for side, model in ((Side.OLD, migration.old_model), (Side.NEW, migration.new_model)):
            try:
                embedder = None if model.unasked else make_embedder(model, environ=at.environ)
            except ProviderFault as fault:
                if side is Side.NEW:
                    raise ProviderError(fault.reason, hint=fault.hint) from None
                embedder = None
            if embedder is not None:
                opened.callback(embedder.close)
            found[side] = embedder
        yield found


def verify(at: Access, *, sample: int = 0, repair: bool = False, stop: threading.Event | None = None) -> VerifyReport:
    """Scan every row; embed ``sample`` random rows again and compare; queue what is wrong where ``repair``.

    Raises:
        ProviderError: the provider refuses us, or does not answer for long (only with ``sample``).
        Refused: the migration was aborted; or it is done, and nothing would mend what is queued.
    """
    migration = at.allowed(Command.VERIFY)
    done = migration.phase is Phase.DONE
    if done and repair:
        hint = "The application embeds its rows now: have it write these vectors, or begin another migration."
        raise Refused(
            f"The migration of {migration.table} is done: no worker would work off what is queued.", hint=hint
        )
    stop = stop or threading.Event()
    wrong: tuple[Key, ...] = ()
    try:
        with connect(at.dsn, name="verify", statement_timeout_ms=0) as conn:
            placement = make_placement(as_called_now(conn, migration) if done else migration)
            if not done:
                placement.forget_gone(conn)
            caught = catch_up(conn, migration, stop, at.note)
            report = count_rows(conn, placement, caught)
            if sample:
                require_said(migration, "new_model.")
                model, job = migration.new_model, Job(at.dsn, migration, at.on_event)
                with (
                    closing(Pacer(at.dsn, migration)) as pacer,
                    closing(make_row_embedder(model, at.environ, pacer, job)) as embedder,
                    Asking(at.note, stop).answers(model, at.environ, lambda: _waits(pacer)) as answers,
                ):
                    compared, wrong = sample_rows(conn, placement, embedder, sample, answers)
                report = replace(report, sampled=compared, mismatched=len(wrong))
            if repair:
                keys = list(dict.fromkeys([*placement.sweep(conn, REPAIR_LIMIT), *wrong]))
                with conn.transaction():
                    placement.forget_source(conn, list(wrong))
                    queue_keys(conn, migration.id, keys)
                    add_audit(conn, migration.id, "repair", f"{counted(len(keys), 'row', 'rows')} queued")
            add_audit(conn, migration.id, "verify", "clean" if report.clean else "not clean")
            return report
    except psycopg.Error as error:
        raise translate(error, dsn=at.dsn) from error


def _waits(pacer: Pacer) -> str:
    """What requests wait for now; empty where they are on the wire."""
    return hold.cause if (hold := pacer.hold) is not None else ""
