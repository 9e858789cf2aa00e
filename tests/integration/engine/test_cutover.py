"""Cutover and rollback: what blocks them, what is written, and the strategies for services without a Router."""

from __future__ import annotations

import dataclasses
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.config import CutoverSettings
from embedtui.engine.cleanup.abort import abort
from embedtui.engine.cleanup.blockers import cleanup_blockers
from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.engine.cutover import blockers, strategies
from embedtui.engine.cutover import cutover as acts
from embedtui.engine.cutover.cutover import Caller, cancel_postponed, cutover, flip_if_due, postpone, rollback
from embedtui.engine.cutover.strategies import LIMITS, HookFailed, env_text, write_env_file
from embedtui.errors import DatabaseError, Refused, SettingsError
from embedtui.model import EmbeddingModel, EvaluationStatus, Flip, Migration, Phase, PlacementKind, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import announce_worker
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import pointer
from embedtui.postgres.state.audit import read_audit
from tests.kits.cutover_kit import make, vector
from tests.kits.support import connect, wait_for

PASS = EvaluationStatus(1, datetime(2030, 1, 1, tzinfo=UTC), 60, 0.6, 3, "PASS", True)
BOTH = pytest.mark.parametrize("placement", list(PlacementKind))


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="test") as connection:
        yield connection


def now(conn: Connection, migration: Migration) -> Migration:
    found = state.load_migration(conn, migration.name)
    assert found is not None
    return found


def here(conn: Connection, migration: Migration) -> Migration:
    """The migration as stored now, with the strategy that this test's settings ask for."""
    loaded = now(conn, migration)
    return dataclasses.replace(
        loaded, settings=loaded.settings | {"cutover": migration.settings.get("cutover", {})}, unsaid={}
    )


def names(conn: Connection, migration: Migration, gate: EvaluationStatus | None = PASS, percent: int = 100) -> set[str]:
    return {blocker.name for blocker in acts.cutover_blockers(conn, here(conn, migration), gate, percent)}


def log(conn: Connection) -> list[tuple[str, str]]:
    return [(entry.act, entry.detail) for entry in reversed(read_audit(conn, None))]


# ------------------------------------------------------------------------------------------------------- pointer


@BOTH
def test_cutover_and_rollback_move_pointer_phase_and_log_together(
    database: str, conn: Connection, placement: PlacementKind
) -> None:
    migration = make(database, placement)
    flip = cutover(database, migration, gate=PASS, caller=Caller("ann", "pit"))
    assert (flip.active, flip.canary, flip.changed) == (Side.NEW, 100, True) and flip.milliseconds > 0
    served = pointer.read_route(conn, "documents")
    assert (served.active, served.epoch, served.changed_by) == (Side.NEW, flip.epoch, "ann@pit")
    assert served.first_cutover_at is not None
    assert now(conn, migration).phase is Phase.SOAK
    again = cutover(database, migration, gate=None)  # a repeat asks for nothing
    assert (again.epoch, again.changed) == (flip.epoch, False)

    back = rollback(database, migration, caller=Caller("bob", "pit"))
    assert (back.active, back.canary, back.epoch, back.changed) == (Side.OLD, 0, flip.epoch + 1, True)
    assert now(conn, migration).phase is Phase.VALIDATE
    assert rollback(database, migration).changed is False
    assert pointer.read_route(conn, "documents").first_cutover_at == served.first_cutover_at
    written = [(entry.act, entry.who, entry.host) for entry in read_audit(conn, migration.id)]
    assert ("cutover", "ann", "pit") in written and ("rollback", "bob", "pit") in written
    assert [act for act, _ in log(conn)].count("rollback") == 1


def test_canary_grows_then_moves_everything(database: str, conn: Connection) -> None:
    migration = make(database)
    for percent in (5, 30):
        flip = cutover(database, migration, percent, gate=PASS)
        assert (flip.active, flip.canary) == (Side.OLD, percent)
        assert now(conn, migration).phase is Phase.CUTOVER
        assert pointer.read_route(conn, "documents").first_cutover_at is None
    assert cutover(database, migration, 0, gate=None).canary == 0, "0 % takes the canary back, unasked"
    assert now(conn, migration).phase is Phase.VALIDATE
    cutover(database, migration, 30, gate=PASS)
    cutover(database, migration, gate=PASS)
    with pytest.raises(Refused, match="serves every read"):
        cutover(database, migration, 30, gate=PASS)
    with pytest.raises(Refused, match="not a share"):
        cutover(database, migration, 101, gate=PASS)
    assert [detail for act, detail in log(conn) if act == "canary"][:2] == [
        "5 % of the keys read the new side",
        "30 % of the keys read the new side",
    ]


def test_of_two_operators_one_wins_and_the_other_is_told(database: str, conn: Connection) -> None:
    migration = make(database)
    cutover(database, migration, 10, gate=PASS)
    barrier = threading.Barrier(2)
    results: dict[str, Flip | Refused] = {}

    def act(who: str, percent: int) -> None:
        barrier.wait()
        try:
            results[who] = cutover(database, migration, percent, gate=PASS, caller=Caller(who))
        except Refused as refused:
            results[who] = refused

    threads = [threading.Thread(target=act, args=("ann", 40)), threading.Thread(target=act, args=("bob", 60))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served = pointer.read_route(conn, "documents")
    flips = {who: result for who, result in results.items() if isinstance(result, Flip)}
    assert len(flips) >= 1 and served.canary in (40, 60)
    # either one was told, or they came one after the other: never two flips of one epoch
    assert len({flip.epoch for flip in flips.values()}) == len(flips)
    assert all(refused.exit_code == 6 for refused in results.values() if isinstance(refused, Refused))


def test_what_was_decided_on_another_state_is_refused(database: str, conn: Connection) -> None:
    """A dialog that was open while somebody else moved the pointer, and is confirmed after that."""
    migration = make(database)
    seen = pointer.read_route(conn, "documents").epoch
    cutover(database, migration, 10, gate=PASS)
    ask: dict[str, Any] = {"typed_name": "documents", "stop": threading.Event(), "seen": seen}
    for act in (
        lambda: cutover(database, migration, gate=PASS, seen=seen),
        lambda: postpone(database, migration, 100, gate=PASS, seen=seen),
        lambda: abort(conn, migration, **ask),
        lambda: cleanup(conn, migration, CleanupChoice(), **ask),
    ):
        with pytest.raises(Refused, match=r"moved route .* meanwhile: it is on the old side, 10 % canary"):
            act()
    assert cutover(database, migration, gate=PASS, seen=seen + 1).active is Side.NEW


def test_rollback_waits_for_no_backfill_and_no_locked_migration(database: str, conn: Connection) -> None:
    migration = make(database)
    cutover(database, migration, gate=PASS)
    with connect(database, name="other") as other:
        with other.transaction():
            other.execute("LOCK documents IN ACCESS EXCLUSIVE MODE")
            other.execute("SELECT FROM embedtui.migration FOR UPDATE")
            assert rollback(database, migration).changed
            assert pointer.read_route(conn, "documents").active is Side.OLD
        assert now(conn, migration).phase is Phase.SOAK, "could not be written while locked"
    assert rollback(database, migration).changed is False
    assert now(conn, migration).phase is Phase.VALIDATE, "a repeat brings it in line"


def test_a_cold_index_is_searched_before_the_flip_and_never_before_a_rollback(
    database: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = make(database)
    warmed: list[Side] = []
    monkeypatch.setattr(acts, "prewarm", lambda conn, _: warmed.append(pointer.read_route(conn, "documents").active))
    assert cutover(database, migration, gate=PASS).changed
    assert rollback(database, migration).changed
    assert warmed == [Side.OLD]


def test_rollback_needs_an_old_side(database: str, conn: Connection) -> None:
    migration = make(database)
    cutover(database, migration, gate=PASS)
    state.set_phase(conn, migration.id, Phase.CLEANUP)
    conn.execute("""UPDATE embedtui.migration SET settings = settings || '{"gone": "old"}'""")
    with pytest.raises(Refused, match="dropped by the cleanup"):
        rollback(database, migration)
    assert [blocker.name for blocker in blockers.rollback_blockers(conn, migration)] == ["cleaned"]


def test_unreachable_database_is_one_of_our_errors(database: str) -> None:
    migration = make(database, rows=1)
    with pytest.raises(DatabaseError):
        rollback("postgresql://u:s3cret@127.0.0.1:1/x", migration)


# ------------------------------------------------------------------------------------------------------ blockers


def test_nothing_blocks_a_sound_migration(database: str, conn: Connection) -> None:
    assert names(conn, make(database)) == set()


def test_phase_blocks_and_cannot_be_overridden(database: str, conn: Connection) -> None:
    migration = make(database, phase=Phase.BACKFILL)
    assert names(conn, migration) == {"phase"}
    with pytest.raises(Refused, match="phase backfill"):
        cutover(database, migration, gate=PASS, override={"gate": "hurry"})
    assert pointer.read_route(conn, "documents").active is Side.OLD


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (None, "No comparison"),
        (dataclasses.replace(PASS, verdict="INCONCLUSIVE"), "INCONCLUSIVE"),
        (dataclasses.replace(PASS, valid=False, why_void="the table moved on"), "void: the table moved on"),
    ],
)
def test_gate_blocks_unless_overridden_with_a_reason(
    database: str, conn: Connection, gate: EvaluationStatus | None, message: str
) -> None:
    migration = make(database)
    for blank in ({}, {"gate": "  "}, {"index": "another check's reason"}):
        with pytest.raises(Refused, match=message) as caught:
            cutover(database, migration, gate=gate, override=blank)
        assert '--override gate="REASON"' in caught.value.hint
    assert cutover(database, migration, gate=gate, override={"gate": "CTO said so, password=hunter2"}).changed
    [detail] = [detail for act, detail in log(conn) if act == "cutover"]
    assert "overridden: gate (CTO said so" in detail and "hunter2" not in detail


@BOTH
def test_each_thing_that_would_hurt_blocks(database: str, conn: Connection, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=20)
    # rows without a current vector, unless they are on their way
    conn.execute("INSERT INTO documents (id, content) VALUES (900, 'new'), (901, '  '), (902, NULL)")
    conn.execute("UPDATE documents SET content = 'edited' WHERE id = 1")
    assert names(conn, migration) == {"coverage"}
    conn.execute(
        "INSERT INTO embedtui.queue (migration, key, kind) VALUES (%(m)s, '{900}', 'i'), (%(m)s, '{1}', 'u')",
        {"m": migration.id},
    )
    assert names(conn, migration) == set()
    conn.execute("UPDATE embedtui.queue SET at = now() - interval '9 seconds'")
    assert names(conn, migration) == {"sync"}, "nobody works it off"
    row = conn.execute(
        "INSERT INTO embedtui.worker (migration, host, pid, operator) VALUES (%s, 'pit', 1, 'ann') RETURNING id",
        [migration.id],
    ).fetchone()
    assert row is not None
    announce_worker(conn, row[0])
    assert names(conn, migration) == set(), "a matter of seconds"
    conn.execute("UPDATE embedtui.migration SET desired = 'pause'")
    assert names(conn, migration) == {"sync"}
    conn.execute("UPDATE embedtui.migration SET desired = 'run'")
    conn.execute("UPDATE embedtui.queue SET at = now() - interval '5 minutes'")
    assert names(conn, migration) == {"sync"}
    conn.execute("DELETE FROM embedtui.queue")
    conn.execute("DELETE FROM documents WHERE id IN (1, 900)")
    assert names(conn, migration) == set()
    conn.execute(
        "INSERT INTO embedtui.fault (migration, key, class, reason) VALUES (%s, '{2}', 'row', 'too long')",
        [migration.id],
    )
    assert names(conn, migration) == {"faults"}
    conn.execute("UPDATE embedtui.fault SET state = 'skipped'")
    # the index
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_documents_embedding_v2'::regclass")
    assert names(conn, migration) == {"index"}
    conn.execute("DROP INDEX idx_documents_embedding_v2")
    assert names(conn, migration) == {"index"}
    conn.execute("UPDATE embedtui.migration SET index_method = 'none'")
    assert names(conn, migration) == set()
    # what the application would meet
    conn.execute("DELETE FROM documents WHERE embedding IS NULL")
    conn.execute("ALTER TABLE documents ALTER embedding SET NOT NULL")
    assert names(conn, migration) == {"not_null"}
    conn.execute("ALTER TABLE documents ALTER embedding SET DEFAULT '[0,0,0,0,0,0,0,0]'")
    assert names(conn, migration) == set(), "no INSERT fails"
    conn.execute("ALTER TABLE documents ALTER embedding DROP DEFAULT")
    with pytest.raises(Refused, match=r"^No comparison has been recorded\. embedding is NOT NULL"):
        acts.cutover(database, now(conn, migration), gate=None)
    conn.execute('ALTER TABLE documents RENAME embedding TO "Old One"')
    conn.execute("UPDATE embedtui.migration SET old_column = 'Old One'")
    (blocker,) = acts.cutover_blockers(conn, now(conn, migration), PASS)
    assert 'ALTER COLUMN "Old One" DROP NOT NULL;' in blocker.hint
    assert all(blocker.message and blocker.advice for blocker in acts.cutover_blockers(conn, migration, None))


def test_notices_tell_what_does_not_block(database: str, conn: Connection) -> None:
    migration = make(database, old_model=EmbeddingModel("dead", 8, retired=True))
    notices = {check.name: check.detail for check in blockers.cutover_notices(conn, migration)}
    assert set(notices) == {"old_model", "application", "index_warmth"} and "dead" in notices["old_model"]
    assert cutover(database, migration, gate=PASS).changed
    for strategy, text in LIMITS.items():
        told = dataclasses.replace(migration, settings={"cutover": {"strategy": strategy}})
        assert ("strategy" in {check.name for check in blockers.cutover_notices(conn, told)}) == bool(text)
    assert "Not zero-downtime" in LIMITS["rename"]
    assert set(LIMITS) == {"pointer", "env_file", "hook", "rename", "search_path"}


# --------------------------------------------------------------------------------------------------- postponement


def test_a_look_for_missing_vectors_that_takes_too_long_is_said(
    database: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row without a vector was found, and that is not that there are none."""
    migration = make(database)
    assert "coverage" not in {check.name for check in blockers.cutover_notices(conn, migration)}
    monkeypatch.setattr(blockers, "_CHECK_MS", 100)
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
        notices = {check.name: check for check in blockers.cutover_notices(conn, migration)}
    assert notices["coverage"].result == "unknown" and "0.1 s" in notices["coverage"].detail
    assert "embedtui verify" in notices["coverage"].advice


def test_postponed_cutover_waits_for_the_queue_then_flips(database: str, conn: Connection) -> None:
    migration = make(database)
    assert flip_if_due(database, migration, PASS) is None
    conn.execute(
        "INSERT INTO embedtui.queue (migration, key, kind, at) VALUES (%s, '{1}', 'u', now() - interval '1 hour')",
        [migration.id],
    )
    with pytest.raises(Refused, match="No comparison"):
        postpone(database, migration, 100, gate=None)
    postpone(database, migration, 100, gate=PASS)
    assert flip_if_due(database, migration, PASS) is None
    assert pointer.read_route(conn, "documents").active is Side.OLD
    conn.execute("DELETE FROM embedtui.queue")
    # what has come up meanwhile holds it, and is told
    assert flip_if_due(database, migration, None) is None
    pending = pointer.read_route(conn, "documents").pending
    assert pending is not None and "No comparison" in pending["why"]
    flip = flip_if_due(database, migration, PASS)
    assert flip is not None and flip.active is Side.NEW
    assert pointer.read_route(conn, "documents").pending is None
    with pytest.raises(Refused, match="serves every read"):
        postpone(database, migration, 100, gate=PASS)


def test_postponed_cutover_can_be_cancelled(database: str, conn: Connection) -> None:
    migration = make(database)
    assert cancel_postponed(database, migration) is False
    postpone(database, migration, 20, gate=None, override={"gate": "known good"})
    assert cancel_postponed(database, migration) is True
    assert flip_if_due(database, migration, PASS) is None
    assert [act for act, _ in log(conn)] == ["postpone", "cancel"]


@pytest.mark.parametrize("gate", [PASS, None], ids=["due", "blocked"])
def test_a_postponed_cutover_can_be_cancelled_to_the_last(
    database: str, conn: Connection, monkeypatch: pytest.MonkeyPatch, gate: EvaluationStatus | None
) -> None:
    """While a worker looks whether it is due, and warms the index for it."""
    migration = make(database)
    postpone(database, migration, 100, gate=PASS)
    look = acts.cutover_blockers

    def taken_back_meanwhile(*arguments: object) -> object:
        assert cancel_postponed(database, migration) is True
        return look(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(acts, "cutover_blockers", taken_back_meanwhile)
    assert flip_if_due(database, migration, gate) is None
    found = pointer.read_route(conn, "documents")
    assert (found.active, found.pending) == (Side.OLD, None)


# ------------------------------------------------------------------------------------------------------ strategies

ENV = """# service settings
export EMBED_MODEL="text-embedding-004"   # the old one
EMBED_DIMENSIONS=768
DATABASE_URL='postgresql://u:p@h/d'

USE_V2_EMBEDDINGS=false
"""


def test_env_text_changes_its_lines_only() -> None:
    values = {"USE_V2_EMBEDDINGS": "true", "EMBED_MODEL": "it's \\ a model", "EMBED_DIMENSIONS": "256", "NEW": "x"}
    assert env_text(ENV, values).splitlines() == [
        "# service settings",
        "export EMBED_MODEL='it\\'s \\\\ a model'",
        "EMBED_DIMENSIONS=256",
        "DATABASE_URL='postgresql://u:p@h/d'",
        "",
        "USE_V2_EMBEDDINGS=true",
        "NEW=x",
    ]
    assert env_text("A=1", {"B": "2"}) == "A=1\nB=2\n"
    assert env_text("A=1\r\nB=2\r\n", {"A": "3"}) == "A=3\r\nB=2\r\n"


def test_env_file_round_trips_through_dotenv_and_keeps_mode_and_link(tmp_path: Path) -> None:
    from dotenv import dotenv_values

    real = tmp_path / "real.env"
    real.write_text(ENV)
    real.chmod(0o640)
    link = tmp_path / ".env"
    link.symlink_to(real)
    values = {"EMBED_MODEL": "a 'quoted' \\ \"name\" # not a comment", "USE_V2_EMBEDDINGS": "true"}
    kept = write_env_file(link, values)
    assert {name: dotenv_values(link)[name] for name in values} == values
    assert dotenv_values(link)["DATABASE_URL"] == "postgresql://u:p@h/d"
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir() if path not in (real, link)] == [], "no leftovers"
    strategies.restore(kept)
    assert real.read_text() == ENV
    fresh = tmp_path / "fresh.env"
    strategies.restore(write_env_file(fresh, values))
    assert not fresh.exists()
    with pytest.raises(SettingsError, match="Cannot write"):
        write_env_file(tmp_path / "no" / "folder" / ".env", values)


def with_strategy(database: str, **settings: Any) -> Migration:
    return make(database, settings={"cutover": dataclasses.asdict(CutoverSettings(**settings))})


def test_env_file_strategy_writes_flag_and_model_together(database: str, conn: Connection, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(ENV)
    migration = with_strategy(database, strategy="env_file", env_file=str(path))
    assert "strategy" in names(conn, migration, percent=10)
    cutover(database, migration, gate=PASS)
    assert "USE_V2_EMBEDDINGS=true" in path.read_text() and "EMBED_MODEL=new-model" in path.read_text()
    assert "EMBED_DIMENSIONS=8\n" in path.read_text() and "# service settings" in path.read_text()
    assert 'EMBED_TABLE=\'"public"."documents"\'\nEMBED_COLUMN=embedding_v2\n' in path.read_text()
    here, old_name = now(conn, migration), CleanupChoice(rename=True)
    [blocker] = [each for each in cleanup_blockers(conn, here, old_name) if each.name == "names"]
    assert blocker.overridable and "--keep-name" in blocker.hint
    for choice in (CleanupChoice(), CleanupChoice(rename=False)):
        kept = cleanup_blockers(conn, here, choice)
        assert "names" not in {each.name for each in kept}
    rollback(database, migration)
    assert "EMBED_COLUMN=embedding\n" in path.read_text()
    assert "USE_V2_EMBEDDINGS=false" in path.read_text() and "EMBED_MODEL=old-model" in path.read_text()


def test_unwritable_env_file_undoes_the_flip(database: str, conn: Connection, tmp_path: Path) -> None:
    migration = with_strategy(database, strategy="env_file", env_file=str(tmp_path / "none" / ".env"))
    with pytest.raises(SettingsError, match="Cannot write"):
        cutover(database, migration, gate=PASS)
    assert pointer.read_route(conn, "documents").active is Side.OLD
    assert now(conn, migration).phase is Phase.VALIDATE
    assert [act for act, _ in log(conn) if act != "phase"] == ["cutover", "undo"]


def hook(tmp_path: Path, body: str) -> str:
    script = tmp_path / "hook.py"
    script.write_text(f"import os, sys, time\n{body}\n")
    return f"'{sys.executable}' '{script}'"


def test_hook_is_told_and_its_failure_undoes_the_flip_and_the_file(
    database: str, conn: Connection, tmp_path: Path
) -> None:
    told, path = tmp_path / "told", tmp_path / ".env"
    path.write_text(ENV)
    body = (
        f"names = 'EMBEDTUI_ACT EMBEDTUI_ROUTE EMBEDTUI_SIDE USE_V2_EMBEDDINGS EMBED_MODEL EMBED_DIMENSIONS"
        f" EMBED_TABLE EMBED_COLUMN'.split()\n"
        f"open({str(told)!r}, 'a').write(' '.join(os.environ[n] for n in names) + chr(10))\n"
        f"print('restarting', 'token sk-abcdefgh12345678', file=sys.stderr)\n"
        f"sys.exit(3 if os.path.exists({str(tmp_path / 'fail')!r}) else 0)"
    )
    migration = with_strategy(database, strategy="hook", hook=hook(tmp_path, body), env_file=str(path))
    (tmp_path / "fail").touch()
    with pytest.raises(HookFailed, match=r"status 3\. restarting") as caught:
        cutover(database, migration, gate=PASS)
    assert "sk-abcdefgh" not in str(caught.value)
    assert pointer.read_route(conn, "documents").active is Side.OLD and path.read_text() == ENV
    (tmp_path / "fail").unlink()
    assert cutover(database, migration, gate=PASS).active is Side.NEW
    assert "USE_V2_EMBEDDINGS=true" in path.read_text()
    (tmp_path / "fail").touch()
    with pytest.raises(HookFailed):
        rollback(database, migration)
    assert pointer.read_route(conn, "documents").active is Side.OLD, "a rollback is never taken back"
    assert "USE_V2_EMBEDDINGS=false" in path.read_text()
    assert told.read_text().splitlines() == [
        'cutover documents new true new-model 8 "public"."documents" embedding_v2',
        'cutover documents new true new-model 8 "public"."documents" embedding_v2',
        'rollback documents old false old-model 8 "public"."documents" embedding',
    ]


def test_hook_that_hangs_is_ended_with_its_children(database: str, conn: Connection, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = (
        f"child = os.fork()\n"
        f"open({str(pids)!r}, 'a').write(str(os.getpid()) + ' ')\n"
        f"print('waiting for the load balancer', flush=True)\n"
        f"time.sleep(600)"
    )
    migration = with_strategy(database, strategy="hook", hook=hook(tmp_path, body), hook_timeout_seconds=3.0)
    with pytest.raises(HookFailed, match=r"within 3 s and was stopped\. waiting for the load"):
        cutover(database, migration, gate=PASS)
    assert pointer.read_route(conn, "documents").active is Side.OLD
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    deadline = time.monotonic() + 60
    while any(running(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize("command", ["/no/such/command", "'unclosed"])
def test_hook_that_cannot_start(database: str, conn: Connection, command: str) -> None:
    migration = with_strategy(database, strategy="hook", hook=command)
    with pytest.raises(HookFailed, match="cannot be started"):
        cutover(database, migration, gate=PASS)
    assert pointer.read_route(conn, "documents").active is Side.OLD


def test_strategies_without_their_setting_are_refused(database: str, conn: Connection) -> None:
    for strategy in ("env_file", "hook"):
        settings = CutoverSettings(strategy=strategy)
        assert [blocker.name for blocker in strategies.settings_blockers(settings, 100)] == ["strategy"]


# ---------------------------------------------------------------------------------------------------------- rename


def test_rename_exchanges_names_and_indexes_for_prepared_statements_too(database: str, conn: Connection) -> None:
    migration = with_strategy(database, strategy="rename")
    search = "SELECT id FROM documents ORDER BY embedding <=> %s::vector LIMIT 1"
    indexes = (
        "SELECT indexrelid::regclass::text, indexrelid::int8 FROM pg_index WHERE indexrelid::regclass::text ~ '^idx_'"
    )
    with psycopg.connect(database, autocommit=True) as service:

        def found() -> int:
            row = service.execute(search, [str(vector(4))], prepare=True).fetchone()
            assert row is not None
            return int(row[0])

        assert found() == 4
        before = dict(conn.execute(indexes).fetchall())
        with pytest.raises(Refused, match="same dimensions"):
            cutover(database, migration, gate=PASS)
        flip = cutover(database, migration, gate=PASS, override={"rename_equal_dimensions": "services are stopped"})
        assert flip.active is Side.NEW and flip.milliseconds > 0
        assert found() == 3, "the fixed SQL finds new vectors under the old name"
        swapped = dict(conn.execute(indexes).fetchall())
        assert swapped["idx_documents_embedding"] == before["idx_documents_embedding_v2"]
        assert swapped["idx_documents_embedding_v2"] == before["idx_documents_embedding"]
        exchanged = now(conn, migration)
        assert (exchanged.old_column, exchanged.new_column, exchanged.phase) == (
            "embedding_v2",
            "embedding",
            Phase.SOAK,
        )
        call = "SELECT key FROM embedtui.search('documents', %s, %s, 1)"
        assert conn.execute(call, ["new-model", str(vector(4))]).fetchone() == ("3",)
        assert conn.execute(call, ["old-model", str(vector(4))]).fetchone() == ("4",)
        assert names(conn, migration) == {"rename_equal_dimensions"}, "and provenance moved along: nothing is stale"
        assert rollback(database, migration).active is Side.OLD
        assert found() == 4
        assert dict(conn.execute(indexes).fetchall()) == before
        assert now(conn, migration).new_column == "embedding_v2"
        columns = conn.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'documents'::regclass AND attnum > 0")
        assert {name for (name,) in columns} >= {
            "embedding",
            "embedding_v2",
            "embedding_v2_model",
            "embedding_v2_source",
        }


@pytest.mark.parametrize(
    ("ddl", "kind"),
    [
        ("CREATE VIEW v AS SELECT id, embedding FROM documents", "view public.v"),
        (
            "CREATE FUNCTION f(q vector) RETURNS bigint LANGUAGE sql BEGIN ATOMIC"
            " SELECT id FROM documents ORDER BY embedding_v2 <=> q LIMIT 1; END",
            "function public.f",
        ),
        ("CREATE POLICY p ON documents USING (vector_dims(embedding) = 8)", "policy p"),
        ("ALTER TABLE documents ADD n int GENERATED ALWAYS AS (vector_dims(embedding)) STORED", "generated column n"),
    ],
)
def test_rename_refuses_what_would_keep_the_old_meaning(database: str, conn: Connection, ddl: str, kind: str) -> None:
    migration = with_strategy(database, strategy="rename", hook="true")
    conn.execute(ddl)
    with pytest.raises(Refused, match=kind):
        cutover(database, migration, gate=PASS, override={"gate": "hurry"})
    assert now(conn, migration).old_column == "embedding"
    assert pointer.read_route(conn, "documents").active is Side.OLD


def test_rename_refuses_taken_names_and_side_tables(database: str, conn: Connection) -> None:
    migration = with_strategy(database, strategy="rename", hook="true")
    assert names(conn, migration) == set(), "with a hook, equal dimensions are its business"
    conn.execute("ALTER TABLE documents ADD embedding_model text")
    assert names(conn, migration) == {"rename_names"}
    other = make(
        database, PlacementKind.TABLE, table="other", settings={"cutover": {"strategy": "rename", "hook": "true"}}
    )
    assert names(conn, other) == {"rename_placement"}


def test_rename_with_a_failing_hook_exchanges_back(database: str, conn: Connection) -> None:
    migration = with_strategy(database, strategy="rename", hook="false")
    with pytest.raises(HookFailed):
        cutover(database, migration, gate=PASS)
    assert now(conn, migration).old_column == "embedding"
    assert pointer.read_route(conn, "documents").active is Side.OLD


def test_rename_waits_for_a_reader_without_blocking_others(database: str, conn: Connection) -> None:
    migration = with_strategy(database, strategy="rename", hook="true")
    waits: list[str] = []
    with connect(database, name="reader") as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM documents")
        done = threading.Event()

        def exchange() -> None:
            cutover(database, migration, gate=PASS, caller=Caller(on_wait=waits.append))
            done.set()

        thread = threading.Thread(target=exchange)
        thread.start()
        wait_for(lambda: waits, "it says whom it waits for")
        assert conn.execute("SELECT count(*) FROM documents").fetchone() is not None
        assert not done.is_set()
        reader.execute("COMMIT")
        thread.join(60)
    assert done.is_set() and now(conn, migration).old_column == "embedding_v2"
