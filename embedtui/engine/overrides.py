"""Overrides: a reason passes the checks that it names and nothing else; what loses vectors is named with its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from embedtui.errors import Blocked, Refused, SettingsError
from embedtui.model import Blocker, Migration
from embedtui.model.lifecycle import as_stored, possible
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.workers import read_workers

Overrides = Mapping[str, str]
"""Reason by what it passes: a check's name, or ``name:rows`` where rows are at stake (:attr:`Blocker.token`)."""


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """Overrides as typed, ``check=reason`` each.

    Raises:
        SettingsError: one without a check, or without a reason.
    """
    found = {}
    for text in texts:
        token, _, reason = text.partition("=")
        if not token.strip() or not reason.strip():
            raise SettingsError(
                f"An override names what it passes, and why: {text!r} does not.",
                hint='Example: --override gate="agreed with the search team". The refusal says what to type.',
            )
        found[token.strip()] = reason.strip()
    return found


def refuse(blocker: Blocker | None) -> None:
    """Refuse what a blocker forbids, where there is one; no override passes it.

    Raises Refused: with what would help.
    """
    if blocker is not None:
        raise Refused(blocker.message, hint=blocker.hint, remedies=blocker.remedies)


def helped_now(conn: Connection, migration: Migration, blockers: Sequence[Blocker]) -> tuple[Blocker, ...]:
    """``blockers`` with what helps in the present state: while all is paused, another run does nothing."""
    now = replace(as_stored(migration), workers=read_workers(conn, migration.id, ()))
    return tuple(replace(each, remedies=possible(each.remedies, now)) for each in blockers)


def pass_blockers(blockers: Sequence[Blocker], overrides: Overrides) -> dict[str, str]:
    """Those of ``overrides`` that were needed, all blockers being passed by them.

    Raises:
        Refused: a blocker that cannot be passed.
        Blocked: one that no override names (with its present number of rows).
    """
    left = [each for each in blockers if not (each.overridable and overrides.get(each.token, "").strip())]
    if left:
        message = " ".join(blocker.message for blocker in left)
        if barred := next((blocker for blocker in left if not blocker.overridable), None):
            raise Refused(message, hint=barred.hint, remedies=barred.remedies)
        raise Blocked(message, hint=left[0].hint, remedies=left[0].remedies, typed=_typed(left, overrides))
    return {blocker.token: overrides[blocker.token].strip() for blocker in blockers}


def audited(passed: Overrides) -> str:
    """What was passed and why, for the audit log; empty where nothing was."""
    if not passed:
        return ""
    return "; overridden: " + ", ".join(f"{token} ({reason})" for token, reason in passed.items())


def _typed(left: Sequence[Blocker], overrides: Overrides) -> str:
    typed = " ".join(dict.fromkeys(f'--override {blocker.token}="REASON"' for blocker in left))
    named = {token.partition(":")[0] for token in overrides}
    changed = any(blocker.rows is not None and blocker.name in named for blocker in left)
    return f"{'The number of rows is another:' if changed else 'Or:'} {typed}"
