"""The proof: a full scan of every row's new vector, and a sample embedded again and compared."""

from __future__ import annotations

from dataclasses import replace

from embedtui.arrays import np
from embedtui.engine.backfill.embedding import RowEmbedder
from embedtui.engine.validate.catching_up import NOT_WAITED, Caught
from embedtui.model import Key, Phase, Side, VerifyReport
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import index_status
from embedtui.postgres.sides.protocol import Placement
from embedtui.postgres.state.queue import count_entries
from embedtui.postgres.state.spending import ASKED, add_tokens
from embedtui.providers.patience import Answers

SAME_COSINE = 0.99
"""Below it a re-embedded text is not by the same model: providers' own noise stays above 0.999."""

UNKNOWN = (
    "whether a vector is of its row's present text, and by which model: embedtui watches the table no longer."
    " --sample embeds some rows again and compares"
)
"""Of a migration that is done."""


def count_rows(conn: Connection, placement: Placement, caught: Caught = NOT_WAITED) -> VerifyReport:
    """Scan every row and count it by the state of its new vector; what came in since ``caught`` is apart."""
    migration = placement.migration
    conn.execute("SET statement_timeout = 0")
    done = migration.phase is Phase.DONE
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if done:
            counts = replace(placement.count_present(conn), unknown=UNKNOWN)
        else:
            counts = caught.what_stays(conn, placement, placement.count(conn))
    status = index_status(conn, migration)
    return replace(
        counts,
        worker=caught.worker,
        index_valid=status.valid if status.exists else None,
        queued=count_entries(conn, migration.id),
    )


def sample_rows(
    conn: Connection, placement: Placement, embedder: RowEmbedder, size: int, answers: Answers
) -> tuple[int, tuple[Key, ...]]:
    """Embed up to ``size`` random rows again; (rows compared, keys whose stored vector is not the model's).

    Raises:
        ConfigurationFault: the provider refuses us as configured.
        Interrupted: ``answers.stop`` was set.
    """
    stored = placement.sample(conn, size)
    vectors = {row.key: np.asarray(vector, np.float64) for row, vector in stored}
    compared = 0
    wrong: list[Key] = []
    rows = [row for row, _ in stored]
    step = 128  # well under every provider's inputs a request
    for first in range(0, len(rows), step):
        for outcome in embedder.embed(rows[first : first + step], answers.stop):
            answers.came()
            if outcome.fault:
                continue
            add_tokens(conn, placement.migration.id, ASKED[Side.NEW], outcome.tokens)
            for row, fresh in zip(outcome.rows, outcome.vectors, strict=True):
                compared += 1
                old = vectors[row.key]
                cosine = float(old @ fresh / (np.linalg.norm(old) * np.linalg.norm(fresh) or 1.0))
                if cosine < SAME_COSINE:
                    wrong.append(row.key)
    return compared, tuple(wrong)
