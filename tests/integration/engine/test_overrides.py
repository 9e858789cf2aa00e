"""An override passes what it names: not the check beside it, nor rows that nobody has counted."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtui.engine.cleanup.choice import CleanupChoice, CleanupStep
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.engine.cutover.cutover import cutover, flip_if_due, postpone
from embedtui.engine.overrides import audited, parse_overrides, pass_blockers
from embedtui.errors import LockTimeout, Refused, SettingsError
from embedtui.model import Blocker, Migration, Phase, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.state import audit, pointer
from tests.integration.engine.test_cutover import PASS
from tests.integration.engine.test_ending import columns, present
from tests.kits.cutover_kit import make
from tests.kits.support import connect


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="test") as connection:
        yield connection


def soaking(database: str, conn: Connection, days: float = 7) -> Migration:
    migration = make(database, rows=8, index=False, settings={"cutover": {"soak_days": days}})
    conn.execute("UPDATE embedtui.migration SET index_method = 'none'")
    cutover(database, migration, gate=PASS)
    return present(conn)


def clean_up(conn: Connection, **override: str) -> None:
    tokens = {name.replace("_of_", ":"): reason for name, reason in override.items()}
    cleanup(conn, present(conn), CleanupChoice(), typed_name="documents", stop=threading.Event(), override=tokens)


def test_a_reason_for_the_soak_loses_no_vector(database: str, conn: Connection) -> None:
    """It passed `coverage`, too: rows without a new vector lost their only one."""
    soaking(database, conn)
    conn.execute("UPDATE documents SET embedding_v2 = NULL WHERE id <= 3")
    with pytest.raises(Refused, match="3 rows have an old vector and no new one") as caught:
        clean_up(conn, soak="a demonstration")
    assert caught.value.hint.endswith('--override coverage:3="REASON"')
    for wrong in ("coverage", "coverage_of_2", "coverage_of_30"):
        with pytest.raises(Refused, match="3 rows"):
            clean_up(conn, soak="a demonstration", **{wrong: "they are spam"})
    conn.execute("UPDATE documents SET embedding_v2 = NULL WHERE id = 4")  # one more since it was looked at
    with pytest.raises(Refused, match="4 rows") as caught:
        clean_up(conn, soak="a demonstration", coverage_of_3="they are spam")
    assert "number of rows is another" in caught.value.hint and "coverage:4" in caught.value.hint
    assert "embedding_v2" in columns(conn) and present(conn).phase is Phase.SOAK
    clean_up(conn, soak="a demonstration", coverage_of_4="they are spam")
    assert present(conn).phase is Phase.DONE
    [begun] = [e.detail for e in audit.read_audit(conn, None) if e.detail.startswith("begun")]
    assert "overridden: soak (a demonstration), coverage:4 (they are spam)" in begun


def test_queued_changes_are_dropped_by_their_number_alone(
    database: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = soaking(database, conn, 0)
    queue = "INSERT INTO embedtui.queue (migration, key, kind) VALUES (%s, '{1}', 'u')"
    conn.execute("UPDATE documents SET embedding_v2_source = 0 WHERE id = 1")  # its new vector is of earlier content
    conn.execute("DELETE FROM embedtui.queue")
    conn.execute(queue, [migration.id])
    with pytest.raises(Refused, match="1 change still waits") as caught:
        clean_up(conn, queue="never mind")
    assert "`embedtui run --follow`" in caught.value.hint
    conn.execute("UPDATE embedtui.migration SET desired = 'pause'")
    with pytest.raises(Refused) as caught:
        clean_up(conn, queue="never mind")
    assert "`embedtui resume`, then `embedtui run --follow`" in caught.value.hint, "nobody works before that"
    conn.execute("UPDATE embedtui.migration SET desired = 'run'")

    def one_more(step: CleanupStep) -> None:
        if step.name == "contract":
            conn.execute(queue, [migration.id])

    with pytest.raises(LockTimeout, match="not dropped"):  # counted again inside the drop
        cleanup(
            conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(),
            override={"queue:1": "never mind"}, on_step=one_more,
        )  # fmt: skip
    assert "embedding_v2" in columns(conn)
    conn.execute("DELETE FROM embedtui.queue WHERE id = (SELECT max(id) FROM embedtui.queue)")
    clean_up(conn)
    assert present(conn).phase is Phase.DONE


def test_a_row_rejected_while_the_cleanup_waits_is_not_dropped(database: str, conn: Connection) -> None:
    """It leaves the queue as if it had been embedded."""
    migration = soaking(database, conn, 0)

    def rejected(step: CleanupStep) -> None:
        if step.name == "contract":
            conn.execute(
                "INSERT INTO embedtui.fault (migration, key, class, reason) VALUES (%s, '{2}', 'row', 'too long')",
                [migration.id],
            )

    with pytest.raises(LockTimeout, match="not dropped"):
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), on_step=rejected)
    assert "embedding_v2" in columns(conn) and pointer.read_route(conn, "documents").active is Side.NEW


@pytest.mark.parametrize("postponed", [False, True])
def test_a_cutover_passes_each_check_by_its_own_name(database: str, conn: Connection, postponed: bool) -> None:
    migration = make(database, rows=8, index=False)  # without an index, too
    conn.execute("UPDATE documents SET embedding_v2 = NULL WHERE id <= 2")
    names = ("gate", "coverage", "index")
    for count in range(len(names)):
        for some in itertools.combinations(names, count):
            with pytest.raises(Refused) as caught:
                act = postpone if postponed else cutover
                act(database, migration, 100, gate=None, override=dict.fromkeys(some, "known"))  # type: ignore[operator]
            assert all((f'--override {name}="' in caught.value.hint) == (name not in some) for name in names)
    every = dict.fromkeys(names, "known")
    if postponed:
        postpone(database, migration, 100, gate=None, override=every)
        conn.execute("ALTER TABLE documents ALTER embedding SET NOT NULL")  # come up since: no reason was given for it
        assert flip_if_due(database, migration, None) is None
        conn.execute("ALTER TABLE documents ALTER embedding DROP NOT NULL")
        assert flip_if_due(database, migration, None) is not None
    else:
        cutover(database, migration, 100, gate=None, override=every)
    assert pointer.read_route(conn, "documents").active is Side.NEW
    written = [entry.detail for entry in audit.read_audit(conn, migration.id) if "overridden" in entry.detail]
    assert written and all("gate (known), coverage (known), index (known)" in detail for detail in written)


NAMES = st.sampled_from(["gate", "soak", "coverage", "queue"])
BLOCKERS = st.lists(
    st.builds(
        Blocker,
        NAMES,
        st.just("It is so."),
        st.just(""),
        st.booleans(),
        rows=st.one_of(st.none(), st.integers(0, 3)),
    ),
    max_size=4,
)


@given(BLOCKERS, st.dictionaries(st.one_of(NAMES, st.builds("{}:{}".format, NAMES, st.integers(0, 3))), st.text()))
def test_nothing_passes_that_is_not_named_with_a_reason(blockers: list[Blocker], overrides: dict[str, str]) -> None:
    named = all(each.overridable and overrides.get(each.token, "").strip() for each in blockers)
    try:
        passed = pass_blockers(blockers, overrides)
    except Refused as refused:
        assert not named
        if all(blocker.overridable for blocker in blockers):  # what it says to type is enough
            typed = {part.split("=")[0] for part in refused.hint.split("--override ")[1:]}
            assert pass_blockers(blockers, {**overrides, **dict.fromkeys(typed, "so ordered")}) is not None
    else:
        assert named and set(passed) == {blocker.token for blocker in blockers}
        assert all(token in audited(passed) for token in passed)


@pytest.mark.parametrize("text", ["a demonstration", "=why", "soak=", "soak= ", ""])
def test_a_reason_alone_is_refused_and_not_guessed(text: str) -> None:
    with pytest.raises(SettingsError, match="names what it passes"):
        parse_overrides([text])


def test_overrides_as_typed() -> None:
    assert parse_overrides(["soak=a=b", " coverage:3 = spam "]) == {"soak": "a=b", "coverage:3": "spam"}
