"""Frozen states of set-up, and of the settings in force."""

from __future__ import annotations

from embedtui.config import SPECS
from embedtui.model import Check, Proposal, SettingLine, SettingsInForce

PROPOSAL = Proposal(
    {
        "content": "title, body",
        "scope": "tenant = 7",
        "old_model.name": "text-embedding-ada-002",
        "new_model.name": "text-embedding-3-large",
        "new_model.dimensions": "768",
    },
    {"new_model.base_url": "OPENAI_BASE_URL in .env"},
    text_columns=("title", "body", "author"),
    texts=(
        "How to bleed a radiator Turn the heating off and wait until the radiator is cold, then open the valve a"
        " quarter turn with the key.",
        "Changing the filter The filter sits behind the grille at the front.",
        "短い文書",
    ),
    checks=(
        Check(
            "collections", "warn", "tenant has 14 or more values among the first 5,000 rows (7, 9, 12, …): all of them"
            " are moved, and have to be of the one old model.", 'To move one alone: scope = "tenant = 7" (--where).',
        ),
    ),
    old="embedding vector(1536)",
    new="text-embedding-3-large, vector(768)",
    placement="column: no row trigger, no publication and no big index on the old column speak for a side table",
    left_out="endpoint from OPENAI_BASE_URL in .env; not written to the file: every process of this migration needs it"
    " in its environment",
    key_variable="OPENAI_API_KEY",
    keys_missing=("OPENAI_API_KEY",),
    file="/home/anna/search/embedtui.toml is changed: its comments and other settings stay.",
)  # fmt: skip

_SAID = {
    "table": ("documents", "embedtui.toml"),
    "content": ("title, body", "embedtui.toml"),
    "new_column": ("embedding_v2", "default"),
    "placement": ("column", "database"),
    "new_model.name": ("text-embedding-3-large", "EMBED_MODEL in .env"),
    "new_model.headers": ('{x-team = "search", authorization = "$GATEWAY_TOKEN"}', "embedtui.toml"),
    "pacing.spend_cap": ("25", "database"),
    "pacing.max_concurrency": ("16", "default"),
}
_FIXED = {
    "table": "it is part of what is migrated: fixed since that began, until it ends or is aborted.",
    "new_model.name": "EMBED_MODEL in .env says it, and comes before the file: change it there.",
}
SETTINGS = SettingsInForce(
    tuple(
        SettingLine(
            spec.path,
            *_SAID.get(spec.path, ("", "default")),
            spec.comment,
            _FIXED.get(spec.path, ""),
            later=spec.path in ("database_variable", "notify"),
            written="cosine" if spec.path == "distance" else None,
        )
        for spec in SPECS
    ),
    "/home/anna/search/embedtui.toml",
    "seen",
)
