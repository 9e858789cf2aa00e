"""The proof that what is embedded is what was embedded: stored vectors made again by the old model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from embedtui.arrays import np
from embedtui.config import CHARACTERS_PER_TOKEN, Settings
from embedtui.formatting import counted, money
from embedtui.model import UNNAMED, Check, EmbeddingModel, Migration, Remedy
from embedtui.postgres.names import shown_column
from embedtui.postgres.sides.proof import StoredRow, stored_rows
from embedtui.postgres.state.queries import Vector
from embedtui.providers import Embedder, ProviderFault
from embedtui.providers.patience import Asking

FIRST = 20
"""Rows that tell whether text and model are the right ones at all."""

ROWS = 300
"""Rows looked at once the first agree: where 2 % are another model's, the odds to meet none of them are 1 in 400, and
to meet fewer than two 1 in 60."""

TOKENS = 100_000
"""Tokens that all of them may take, by estimate: a cent at the dearest embedding models' prices."""

SECONDS = 30.0
"""Time that the further rows may take, by the first ones' rate."""

REPRODUCES = 0.99
"""Cosine from which on a vector counts as made again. The same model gives the same text the same vector but for
rounding (halfvec keeps 11 bits, servers compute in half precision): 0.999 and more. A title or a prefix more in the
text costs some percent, another model nearly all."""

ODD = 2
"""Rows beside those that agree that stop the plan: one may have been edited a moment ago, several are a kind."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows embedded again by the old model."""

    rows: tuple[StoredRow, ...]
    cosines: tuple[float, ...]
    """Of each row's stored vector and the new one."""
    tokens: int
    more: str = ""
    """Why no more rows were asked for; empty where all were."""

    @property
    def reproduced(self) -> int:
        """Rows whose vector was made again."""
        return sum(cosine >= REPRODUCES for cosine in self.cosines)


@dataclass(frozen=True, slots=True)
class Proof:
    """The check, and what asking took of the old model."""

    check: Check
    tokens: int = 0


def proof_check(
    conn: Connection[Any], migration: Migration, settings: Settings, ask: bool, asking: Asking | None = None
) -> Proof:
    """Whether the old model makes the stored vectors from the texts as they would be sent; paid requests if ``ask``.

    ``unknown`` where it cannot be asked: an old model that is dead, unnamed or busy is no reason to stop.
    """
    model = migration.old_model
    if model.name == UNNAMED:
        return _unknown("no old model is named", "Set old_model.name, if it still answers.")
    if model.retired:
        return _unknown(f"{model.name} is retired", "Look at the texts above: are they what the application embeds?")
    if not ask:
        hint = f"The first run embeds some of them with {model.name}; to see it now"
        return _unknown(f"{model.name} was not asked", hint, Remedy.ASK)
    longest = int(model.max_input_tokens * CHARACTERS_PER_TOKEN)
    rows = stored_rows(conn, migration, ROWS, longest)
    if not rows:
        return _unknown("no row has both a text and a vector", "")
    try:
        with (asking or Asking()).embedder(model, settings.environ) as embedder:
            evidence = gather(embedder, model, rows)
    except ProviderFault as fault:
        return _unknown(f"{model.name} did not answer ({fault.reason.rstrip('.')})", fault.hint)
    return Proof(judge(evidence, migration, accepted="proof" in settings.accept), evidence.tokens)


def _unknown(why: str, hint: str, *remedies: Remedy) -> Proof:
    detail = f"Not known whether the stored vectors are those of these texts: {why}."
    return Proof(Check("proof", "unknown", detail, hint, remedies))


def gather(embedder: Embedder, model: EmbeddingModel, rows: Sequence[StoredRow]) -> Evidence:
    """Embed the first rows, and where these agree and the others come cheap, the others.

    Raises ProviderFault: the first rows were not to be had.
    """
    vectors: list[Vector] = []
    tokens = 0
    seconds = 0.0
    more = ""
    for batch in batches(model, rows):
        try:
            reply = embedder.embed([row.text for row in batch], kind="document")
        except ProviderFault as fault:
            if len(vectors) < min(FIRST, len(rows)):
                raise
            more = fault.reason.rstrip(".")
            break
        vectors += list(reply.vectors)
        tokens += reply.tokens
        seconds += reply.seconds
        if len(vectors) < min(FIRST, len(rows)):
            continue
        agree = sum(cosine >= REPRODUCES for cosine in _cosines(rows, vectors))
        if agree < len(vectors) / 2:
            more = "these say enough"
        elif seconds / len(vectors) * (len(rows) - len(vectors)) > SECONDS:
            more = f"{model.name} is slow"
        if more:
            break
    if not more and len(vectors) < len(rows):
        more = "their texts are long"
    done = tuple(rows[: len(vectors)])
    return Evidence(done, tuple(_cosines(done, vectors)), tokens, more)


def batches(model: EmbeddingModel, rows: Sequence[StoredRow]) -> Iterator[Sequence[StoredRow]]:
    """The rows in requests that the model takes; the first of them hold FIRST rows at most, all of them TOKENS."""
    start, spent = 0, 0.0
    while start < len(rows):
        end, size = start, 0.0
        room = min(model.max_inputs, FIRST if start < FIRST else len(rows))
        while end < min(start + room, len(rows)):
            tokens = len((model.document_prefix + rows[end].text).encode()) / CHARACTERS_PER_TOKEN
            if end > start and size + tokens > 0.8 * model.max_tokens:
                break
            if end >= FIRST and spent + size + tokens > TOKENS:
                break
            size += tokens
            end += 1
        if end == start:
            return
        yield rows[start:end]
        start, spent = end, spent + size


def _cosines(rows: Sequence[StoredRow], vectors: Sequence[Vector]) -> list[float]:
    stored = np.stack([row.vector for row in rows[: len(vectors)]]).astype(np.float64)
    made = np.stack(vectors).astype(np.float64)
    lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(made, axis=1)
    return [float(each) for each in (stored * made).sum(axis=1) / lengths]


def judge(evidence: Evidence, migration: Migration, *, accepted: bool = False) -> Check:
    """What the evidence says: all made again, a few not, or most of them not."""
    model, count, good = migration.old_model, len(evidence.rows), evidence.reproduced
    column = shown_column(migration.old_column)
    median = float(np.median(evidence.cosines))
    price = model.cost(evidence.tokens)
    cost = "" if price is None else f", {money(price)}"
    asked = f"{counted(evidence.tokens, 'token', 'tokens')}{cost}"
    seen = (
        f"{good:,} of {counted(count, 'row', 'rows')} drawn at random reproduce by {model.name}"
        f" (cosine {REPRODUCES} or more; median {median:.3f}; {asked})"
    )
    if evidence.more and good == count:
        seen += f"; no more were asked: {evidence.more}"
    if good == count:
        return Check("proof", "pass", f"{seen}. A share of {_overlooked(count)} of other vectors could be overlooked.")
    odd = sorted(zip(evidence.cosines, evidence.rows, strict=True), key=lambda each: each[0])
    odd = [each for each in odd if each[0] < REPRODUCES]
    keys = "; ".join(f"{', '.join(row.key)} ({cosine:.2f})" for cosine, row in odd[:3])
    result = "warn" if accepted else "fail"
    if good < count / 2:
        content = ", ".join(map(shown_column, migration.content_columns))
        if migration.content is not None:
            content = migration.content.given
        hint = (
            f"Set content to what the application embeds (now: {content}), old_model.name to the model that filled"
            f" {column}, old_model.document_prefix to what it puts before each text; where all that is right and the"
            ' texts have changed since: accept = ["proof"].'
        )
        detail = f"The text or the model is another than that of {column}: {seen}; e.g. {keys}."
        return Check("proof", result, detail, hint)
    what = counted(len(odd), "row does", "rows do")
    detail = (
        f"{what} not reproduce, so {column} holds vectors of another model or of texts that have changed since:"
        f" {seen}; e.g. {keys}."
    )
    hint = 'Look at these rows; embed them anew with the old model, or set accept = ["proof"] to move them as they are.'
    return Check("proof", result if len(odd) >= ODD else "warn", detail, hint)


def _overlooked(count: int) -> str:
    """The share of which a sample of ``count`` would have met one with 95 % odds."""
    return f"{100 * min(1.0, 3 / count):.0f} %" if count < 300 else "1 %"
