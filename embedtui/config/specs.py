"""Every setting: its name in the file, its flag and variable, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from embedtui.config.values import (
    SECRET_VALUE,
    accept,
    any_text,
    body,
    distance,
    headers,
    memory,
    method,
    names,
    number,
    one_of,
    or_off,
    placement,
    roles,
    text,
    url,
    variable,
    variable_or_none,
    variables,
    whole,
    yes,
)
from embedtui.known import PROVIDERS
from embedtui.redaction import redact

CONFIG_NAME = "embedtui.toml"

MOST_CONCURRENCY = 256
"""Requests in flight, of all workers."""
FLAG_VARIABLE = "USE_V2_EMBEDDINGS"
"""Written by the ``env_file`` strategy for services that read a flag."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One setting: its name in the file, how it is read, what the file's comment says."""

    path: str
    parse: Callable[[object], Any]
    comment: str
    flag: str = ""
    variable: str = ""


_BATCH: Mapping[str, tuple[tuple[str, Callable[[object], Any], str], ...]] = {
    "old": (),
    "new": (
        ("batch", yes, "backfill by the provider's batch jobs: half the price, within 24 hours"),
        ("batch_price", number(0, float("inf")), "money per million tokens in a job; unset is half the price"),
        ("batch_inputs", whole(500, 1_000_000), "inputs of one job; unset is OpenAI's 50000"),
    ),
}
"""Only the backfill goes by batch jobs."""


def _model_specs(side: str, *, flags: Mapping[str, str], variables: Mapping[str, str]) -> tuple[Spec, ...]:
    fields: tuple[tuple[str, Callable[[object], Any], str], ...] = (
        ("name", text, "as the provider calls it"),
        ("dimensions", whole(1, 16_000), "of its vectors"),
        ("pad_to", or_off(whole(1, 16_000)), "add zeros up to the size of the column; false: never"),
        ("normalise", yes, "divide its vectors by their length"),
        ("provider", one_of(*PROVIDERS), f"openai (and all that speak its API), or {', '.join(list(PROVIDERS)[1:])}"),
        ("base_url", url, "endpoint; unset is the provider's own"),
        ("key_variable", variable_or_none, 'environment variable that holds the key; "" for none'),
        ("document_prefix", any_text, "put before each document"),
        ("query_prefix", any_text, "put before each query"),
        ("max_inputs", whole(1, 100_000), "inputs per request (OpenAI 2048, Gemini 100)"),
        ("max_tokens", whole(1, 100_000_000), "tokens per request"),
        ("max_input_tokens", whole(1, 10_000_000), "tokens per input"),
        ("price_per_million", number(0, float("inf")), "money per million tokens"),
        ("send_dimensions", yes, "false for models that reject `dimensions`"),
        ("timeout_seconds", number(1, 86_400), "of one request; unset is 60"),
        ("retired", yes, "true where the provider no longer answers for it"),
        ("extra_body", body, "further fields of a request; those under .document or .query for these texts alone"),
        ("headers", headers, "further headers, likewise; $NAME stands for an environment variable"),
        *_BATCH[side],
    )
    return tuple(
        Spec(f"{side}_model.{name}", parse, comment, flags.get(name, ""), variables.get(name, ""))
        for name, parse, comment in fields
    )


SPECS: tuple[Spec, ...] = (
    Spec("database_variable", variable, "environment variable that holds the connection string"),
    Spec("name", text, "what services call the route; unset is the table's name", "--name"),
    Spec("table", text, "the table whose vectors move", "--table"),
    Spec("schema", text, "its schema; unset is the search path", "--schema"),
    Spec("key", names, "unique NOT NULL columns; unset is the primary key", "--key"),
    Spec("content", names, "columns whose text is embedded, in order; or table.column, or SQL over a row", "--content"),
    Spec("content_sql", text, "or SQL over a row that makes the text: payload->>'data'", "--content-sql"),
    Spec("content_from", text, "the table that these are of, where a foreign key leads to the text", "--content-from"),
    Spec("content_via", names, "columns of that foreign key, where several refer to that table", "--content-via"),
    Spec("scope", text, "SQL: only rows that fulfil it are moved: collection_id = '…'; unset is all", "--where"),
    Spec("old_column", text, "the column with the old vectors", "--column"),
    Spec("new_column", text, "the column for the new vectors", "--new-column"),
    Spec("new_table", text, "side table's name, for placement table; unset is <table>_embedding_v2"),
    Spec("placement", placement, "auto, column (beside the old one) or table (a side table)", "--placement"),
    Spec("view", yes, "column: make a routed view, by which LangChain, SQLAlchemy, Django follow", "--view/--no-view"),
    Spec("view_schema", text, "that schema; unset is <name>_v2"),
    Spec("foreign_key", yes, "table: a foreign key keeps it in step; false: triggers do, and TRUNCATE still works"),
    Spec("distance", distance, "cosine, l2 or ip; unset is that of the old column's index", "--distance"),
    Spec("halfvec", yes, "16-bit vectors; unset: as the old, or above 2,000 dimensions", "--halfvec/--no-halfvec"),
    Spec("accept", accept, "failed checks dealt with: publications, proof, event triggers"),
    Spec("change_capture", one_of("triggers", "scan"), "triggers, or a slower scan where triggers are not allowed"),
    Spec("trust_application", yes, "keep vectors that the application writes itself; false: replace them"),
    Spec("fire_triggers", yes, "true: embedtui's writes of vectors fire your triggers even where they need not"),
    Spec("notify", yes, "bell and desktop notification when the dashboard needs somebody", variable="EMBEDTUI_NOTIFY"),
    *_model_specs(
        "old",
        flags={
            "name": "--old-model",
            "dimensions": "--old-dimensions",
            "base_url": "--old-base-url",
            "retired": "--old-retired",
        },
        variables={"base_url": "OPENAI_BASE_URL"},
    ),
    *_model_specs(
        "new",
        flags={
            "name": "--new-model",
            "dimensions": "--dimensions",
            "base_url": "--base-url",
            "batch": "--batch/--no-batch",
        },
        variables={"name": "EMBED_MODEL", "dimensions": "EMBED_DIMENSIONS", "base_url": "OPENAI_BASE_URL"},
    ),
    Spec("index.method", method, "hnsw, ivfflat or none", "--index"),
    Spec("index.m", whole(2, 100), "hnsw: connections per layer (pgvector's default is 16)"),
    Spec("index.ef_construction", whole(4, 1000), "hnsw: candidates while building (default 64)"),
    Spec("index.lists", whole(1, 32_768), "ivfflat: lists; unset is by the number of rows"),
    Spec("index.maintenance_work_mem", memory, "for the build alone, e.g. 4GB; unset is the server's"),
    Spec("index.parallel_workers", whole(0, 1024), "for the build alone; unset is the server's"),
    Spec("pacing.requests_per_minute", number(0, float("inf"), above=True), "unset is learnt from the provider"),
    Spec("pacing.tokens_per_minute", number(0, float("inf"), above=True), "unset is learnt from the provider"),
    Spec("pacing.max_concurrency", whole(1, MOST_CONCURRENCY), "requests in flight at most"),
    Spec("pacing.spend_cap", number(0, float("inf")), "stop at this much money", "--spend-cap"),
    Spec("throttle.max_replica_lag_seconds", or_off(number(0, float("inf"))), "hold while a replica lags more"),
    Spec("throttle.probe_query", text, "a harmless query of production, timed now and then"),
    Spec("throttle.probe_latency_factor", number(1, 1000), "hold while it takes this many times its own usual"),
    Spec("throttle.max_lock_waits", or_off(whole(0, 10_000)), "hold while more statements wait for our locks"),
    Spec("throttle.long_transaction_seconds", or_off(number(0, float("inf"))), "hold while a transaction is older"),
    Spec("throttle.hold_for_autovacuum", yes, "hold while autovacuum works on the table"),
    Spec("throttle.max_wal_mb_per_second", number(0, float("inf"), above=True), "hold above this WAL rate"),
    Spec("gate.min_queries", whole(1, 1_000_000), "fewer are inconclusive"),
    Spec("gate.ndcg_margin", number(0, 1), "judged: the new side may be worse by this much"),
    Spec("gate.min_overlap", number(0, 1), "unjudged: mean overlap of the top 10 below this asks for verdicts"),
    Spec("gate.min_index_recall", number(0, 1), "of the new index, against exact search"),
    Spec("gate.max_latency_factor", number(0.1, 1000), "p95 of the new side may be this many times the old one's"),
    Spec("gate.max_drift", number(0, 1), "an evaluation is void after this many changes, as a share of the rows"),
    Spec("gate.where", any_text, "SQL: the application's filter, in both searches; functions with their schema"),
    Spec(
        "cutover.strategy", one_of("pointer", "env_file", "hook", "rename", "search_path"),
        "pointer (Router, SQL), env_file, hook, rename or search_path", "--strategy",
    ),
    Spec("cutover.soak_days", number(0, 3650), "keep both sides this long before cleanup"),
    Spec("cutover.env_file", text, "env_file: the file that holds USE_V2_EMBEDDINGS"),
    Spec("cutover.hook", text, "hook: the command to run; its failure undoes the flip"),
    Spec("cutover.hook_timeout_seconds", number(0, 86_400, above=True), "and how long it may take"),
    Spec("cutover.hook_variables", variables, 'variables it gets beside PATH and its like: ["KUBECONFIG"]'),
    Spec("cutover.roles", roles, 'search_path: roles whose new sessions find the routed view: ["product"]'),
)  # fmt: skip

BY_PATH: Mapping[str, Spec] = {spec.path: spec for spec in SPECS}


def shown_value(raw: object) -> str:
    """A value for an error line; what could be a secret is not repeated."""
    if isinstance(raw, str):
        # an @ or a key's look is enough: what is mistyped matches no pattern of a URL
        return "…" if SECRET_VALUE.search(raw) or "@" in raw or len(raw) > 60 else f'"{redact(raw)}"'
    return "…" if isinstance(raw, Mapping) else str(raw)
