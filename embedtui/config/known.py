"""Settings that are a machine's own, and what stands in for a figure that nobody knows."""

from __future__ import annotations

LOCAL_ONLY = (
    "old_model.base_url",
    "old_model.key_variable",
    "old_model.extra_body",
    "old_model.headers",
    "new_model.base_url",
    "new_model.key_variable",
    "new_model.extra_body",
    "new_model.headers",
    "throttle.probe_query",
    "gate.where",
    "cutover.env_file",
    "cutover.hook",
    "cutover.hook_variables",
    "cutover.roles",
)
"""Settings that act on the machine, or with the rights, of whoever runs embedtui: a command, a file, other roles'
settings, where texts and keys are sent and what goes with them, SQL. They are stored to be seen (headers, which may
hold a secret, not even that), and followed only where this machine's own settings say them."""

STORED_SECTIONS = ("index", "pacing", "throttle", "gate", "cutover")
"""Sections that are stored with a migration; what this machine's settings say of them counts."""

STORED_ALONE = ("change_capture", "foreign_key", "trust_application", "fire_triggers")
"""Settings in no section, likewise; a foreign key only until it is made."""

CHARACTERS_PER_TOKEN = 4.0
"""Of English text; the guess until a provider's ``usage`` calibrates it."""
