"""The registry of models: table ``model``; vectors name the model that made them by its id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from embedtui.model import EmbeddingModel
from embedtui.model.migration import for_use
from embedtui.postgres.connect import Connection

_MODEL_FIELDS = (
    "provider",
    "name",
    "dimensions",
    "base_url",
    "key_variable",
    "document_prefix",
    "query_prefix",
    "max_inputs",
    "max_tokens",
    "max_input_tokens",
    "price_per_million",
    "send_dimensions",
    "given",
    "normalise",
    "retired",
    "timeout_seconds",
    "extra_body",
    "batch",
    "batch_price",
    "batch_inputs",
)
_ORDERS = ("base_url", "key_variable", "extra_body")
"""Of these, what only local settings may say."""


def model_fingerprint(model: EmbeddingModel) -> str:
    """Identity of the vectors a model makes: two models with the same fingerprint are interchangeable."""
    parts: list[object] = [model.provider, model.name, model.dimensions, model.document_prefix]
    own = for_use(model.extra_body, "document")
    parts += [own] if own else []
    if model.shape.changes:
        parts += [{"given": model.shape.given, "normalise": model.normalise}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def register_model(conn: Connection, model: EmbeddingModel) -> EmbeddingModel:
    """Store ``model`` or bring its stored settings up to date; returned with its id.

    Vectors kept of queries are those of the query's prefix and fields, so others forget them; and what was found of
    a request's limits is of the endpoint and the settings as they were.
    """
    for_query = for_use(model.extra_body, "query")
    columns = ", ".join(_MODEL_FIELDS)
    values = ", ".join(f"%({name})s" for name in _MODEL_FIELDS)
    updates = ", ".join(f"{name} = excluded.{name}" for name in _MODEL_FIELDS)
    same = " AND ".join(f"m.{name} IS NOT DISTINCT FROM excluded.{name}" for name in LIMITED_BY)
    row = conn.execute(
        "WITH forgotten AS (DELETE FROM embedtui.query_vector USING embedtui.model m WHERE model = m.id"
        " AND m.fingerprint = %(fingerprint)s AND (m.query_prefix <> %(query_prefix)s OR %(for_query)s::jsonb <>"
        "   (m.extra_body - ARRAY['document', 'query'] || coalesce(m.extra_body->'query', '{}'))))"
        f" INSERT INTO embedtui.model AS m ({columns}, fingerprint) VALUES ({values}, %(fingerprint)s)"
        f" ON CONFLICT (fingerprint) DO UPDATE SET {updates}, learnt_at = CASE WHEN {same} THEN m.learnt_at END"
        " RETURNING id",
        {name: getattr(model, name) for name in _MODEL_FIELDS}
        | {
            "extra_body": Jsonb(dict(model.extra_body)),
            "for_query": Jsonb(for_query),
            "fingerprint": model_fingerprint(model),
        },
    ).fetchone()
    assert row is not None
    return replace(model, id=row[0])


def load_model(conn: Connection, model_id: int) -> EmbeddingModel:
    """The registered model with this id; where it is reached and with which key is for local settings to say."""
    return load_model_and_orders(conn, model_id)[0]


def load_model_and_orders(conn: Connection, model_id: int) -> tuple[EmbeddingModel, dict[str, object]]:
    """The model, and what is stored of it that only local settings may say."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM embedtui.model WHERE id = %s", [model_id]).fetchone()
    assert row is not None
    orders = {name: row[name] for name in _ORDERS}
    orders["extra_body"] = orders["extra_body"] or None
    unusable = (f"This machine's settings do not say how {row['name']} is reached.", "Set new_model.base_url.")
    fields = {name: row[name] for name in _MODEL_FIELDS} | {"base_url": None, "key_variable": "", "extra_body": {}}
    return EmbeddingModel(id=row["id"], **fields, unusable=unusable), orders


LIMITED_BY = ("base_url", "max_inputs", "max_tokens")
"""Settings with which what was found of a request's limits goes: another server, or an operator who knows better."""
LEARNT_DAYS = 1
"""For so long a limit that was found is taken for true: to try again costs a refused request or three, to keep to a
limit that is no more costs hours."""


def load_learnt(conn: Connection, model_id: int | None) -> tuple[int | None, int | None]:
    """Inputs and tokens that a request to this model may hold, as was found of late; None: nothing was found."""
    row = conn.execute(
        "SELECT learnt_inputs, learnt_tokens FROM embedtui.model"
        " WHERE id = %s AND learnt_at > now() - make_interval(days => %s)",
        [model_id, LEARNT_DAYS],
    ).fetchone()
    return (None, None) if row is None else (row[0], row[1])


def store_learnt(conn: Connection, model_id: int | None, inputs: int | None, tokens: int | None) -> None:
    """Keep what was found of a request to this model."""
    conn.execute(
        "UPDATE embedtui.model SET learnt_inputs = %s, learnt_tokens = %s, learnt_at = now() WHERE id = %s",
        [inputs, tokens, model_id],
    )


def forget_learnt(conn: Connection, *models: EmbeddingModel) -> None:
    """Have the next run find out anew what a request to these models may hold."""
    conn.execute("UPDATE embedtui.model SET learnt_at = NULL WHERE id = ANY (%s)", [[model.id for model in models]])
