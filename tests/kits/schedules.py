"""Random schedules of operators against one real database: interleaved at every round trip, killed and cut anywhere.

Each operator is a thread that stops before every round trip to the server until the scheduler lets it go on, so the
order of all statements, commits among them, is the scheduler's. A statement that waits for another operator's lock does
not stop the schedule: the others go on.
"""

from __future__ import annotations

import functools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from embedtui.engine.cleanup import steps
from embedtui.engine.cleanup.abort import abort
from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.engine.cutover import cutover as cutovers
from embedtui.errors import EmbedtuiError, Refused
from embedtui.model import IndexMethod, PlacementKind, Side, TableName
from embedtui.postgres import ddl
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides import capture
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import pointer
from embedtui.postgres.state.route_side import read_sides
from embedtui.router.route import Route, Tally
from embedtui.router.route_snapshot import snapshots_of
from tests.integration.engine.test_cutover import PASS
from tests.kits.cutover_kit import make, vector
from tests.kits.support import connect

STATE = ("route", "partition", "stale", "queue", "shard", "worker", "pace", "audit", "migration")
PATIENCE = 60.0
BLOCKED_SECONDS = 0.02
"""A statement that takes longer is taken to wait for another operator's lock."""
RACES = (
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
)
"""What an act may meet when another one ends the migration under it; every face translates these."""
FOR = {"rename_equal_dimensions": "the services are told"}
CHOICES = (
    CleanupChoice(),
    CleanupChoice(rename=False),
    CleanupChoice(keep_old=True),
    CleanupChoice(keep_provenance=True),
)


DUELS = (("cleanup", "rollback"), ("cleanup", "rollback", "cutover"), ("abort", "cutover"), ("abort", "due"))
"""First acts of operators that are after the same thing; half of the schedules begin so."""


class Killed(BaseException):
    """The process of an operator is gone."""


class Operator(threading.Thread):
    """Does its acts one after the other, each in a process of its own as far as a kill goes."""

    def __init__(self, name: str, acts: list[tuple[str, Callable[[], object]]]) -> None:
        super().__init__(name=name, daemon=True)
        self.acts = acts
        self.doing = ""
        self.outcomes: list[str] = []
        self.failure: BaseException | None = None
        self.ended = False
        self.waiting = False
        self.killed = False
        self.connections: set[psycopg.Connection[Any]] = set()
        self.changed = threading.Condition()
        self._go = False

    def run(self) -> None:
        for name, act in self.acts:
            self.doing = name
            try:
                act()
                outcome = "done"
            except Killed:
                outcome = "killed"
            except (EmbedtuiError, psycopg.Error) as error:
                outcome = type(error).__name__
                expected = isinstance(error, (EmbedtuiError, *RACES)) or error.sqlstate == "57P01"
                if not self.killed and not expected and not _gone(error):
                    self.failure = error
            except BaseException as error:
                outcome = type(error).__name__
                if not self.killed:
                    self.failure = error
            self.outcomes.append(f"{name}: {'killed' if self.killed else outcome}")
            self.killed = False
            self.connections.clear()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def boundary(self, conn: psycopg.Connection[Any]) -> None:
        """Before each round trip: wait to be let go on, or die."""
        self.connections.add(conn)
        if not self.killed:
            with self.changed:
                self.waiting = True
                self.changed.notify_all()
                self.changed.wait_for(lambda: self._go)
                self._go = self.waiting = False
        if self.killed:
            for each in self.connections:
                each.pgconn.finish()
            raise Killed

    def step(self, *, kill: bool = False) -> None:
        """Let it do one round trip (or die there); returns once it is before the next, has ended, or is blocked."""
        with self.changed:
            self.killed = kill
            self._go = True
            self.waiting = False
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.waiting or self.ended, BLOCKED_SECONDS)


def _gone(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and error.sqlstate is None


@contextmanager
def quick_waits() -> Iterator[None]:
    """Time-outs and pauses in proportion to a schedule; and every operator's round trips in the scheduler's hands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ddl, "FIRST_TRY", 0.05)
        patch.setattr(ddl, "POLL", 0.002)
        patch.setattr(cutovers, "_PHASE_LOCK", "30ms")
        patch.setattr(steps, "_SHORT_WAIT", "SET LOCAL lock_timeout = '50ms'")
        wait = psycopg.Connection.wait

        def stepped(self: psycopg.Connection[Any], *arguments: Any, **more: Any) -> Any:
            thread = threading.current_thread()
            if isinstance(thread, Operator):
                thread.boundary(self)
            return wait(self, *arguments, **more)

        patch.setattr(psycopg.Connection, "wait", stepped)
        yield


@dataclass(frozen=True)
class Seen:
    """The pointer and what is there of the sides, as of one moment."""

    active: str
    canary: int
    ending: str | None
    phase: str
    old_present: bool
    new_present: bool
    old_there: bool
    """The old side's column holds the old vectors still: it is the very column."""
    new_there: bool


_LOOK = """
SELECT r.active, r.canary, r.ending, m.phase, o.present, n.present,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = %(table)s AND a.attname = o.column_name
               AND a.attnum = %(old)s AND NOT a.attisdropped),
       EXISTS (SELECT FROM pg_attribute a WHERE a.attname = n.column_name AND NOT a.attisdropped
               AND a.attrelid = to_regclass(format('%%I.%%I', n.relation_schema, n.relation_name))
               AND (a.attrelid <> %(table)s OR a.attnum = %(new)s))
FROM embedtui.route r JOIN embedtui.migration m ON m.id = r.migration
JOIN embedtui.route_side o ON o.name = r.name AND o.side = 'old'
JOIN embedtui.route_side n ON n.name = r.name AND n.side = 'new'
"""


class World:
    """One database, set up anew for each schedule."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.control: Connection = connect(dsn, name="control")
        self.counts: Counter[str] = Counter()
        self.model = replace(make(dsn, rows=1, index=False), index_method=IndexMethod.NONE)
        self.name = self.model.name

    def close(self) -> None:
        self.control.close()

    def reset(self, placement: PlacementKind, strategy: str) -> None:
        """A table of four rows with both sides filled, as ``tests.kits.cutover_kit.make`` has it."""
        conn, column = self.control, placement is PlacementKind.COLUMN
        rows = ", ".join(f"({n}, 'text {n}', '{vector(n)}'::vector, '{vector(n + 1)}'::vector)" for n in range(1, 5))
        settings: dict[str, object] = {"cutover": {"strategy": strategy, "soak_days": 0}}
        more = ", embedding_v2 vector(8), embedding_v2_model integer, embedding_v2_source bigint" if column else ""
        conn.execute(
            # the children of embedtui.migration first
            "".join(f"DELETE FROM embedtui.{table}; " for table in STATE).encode()
            + b"DROP TABLE IF EXISTS documents_embedding_v2, documents;"
            + f"CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(8){more})".encode()
        )
        row = conn.execute("SELECT 'documents'::regclass::oid").fetchone()
        assert row is not None
        draft = replace(
            self.model,
            placement=placement,
            table_oid=row[0],
            new_table=TableName("public", "documents" if column else "documents_embedding_v2"),
            new_column="embedding_v2" if column else "embedding",
            settings=settings,
        )
        made = self.migration = state.create_migration(conn, draft)
        fingerprint, new = "hash_record_extended(ROW(content), 0)", made.new_model.id
        if column:
            fill = f"INSERT INTO documents SELECT n, content, old, new, {new}, {fingerprint}"
        else:
            fill = (
                "CREATE TABLE documents_embedding_v2 (id bigint PRIMARY KEY REFERENCES documents ON DELETE CASCADE"
                " ON UPDATE CASCADE, embedding vector(8) NOT NULL, model integer NOT NULL, source bigint NOT NULL);"
                f" INSERT INTO documents SELECT n, content, old FROM (VALUES {rows}) v (n, content, old, new);"
                f" INSERT INTO documents_embedding_v2 SELECT n, new, {new}, {fingerprint}"
            )
        conn.execute(f"{fill} FROM (VALUES {rows}) v (n, content, old, new)".encode())
        for statement in capture.install_sql(made):
            conn.execute(statement)
        pointer.create_route(conn, made)
        # the columns themselves, whatever they are called: embedding is the third, embedding_v2 the fourth
        self.at = {"table": row[0], "old": 3, "new": 4}

    def look(self) -> Seen:
        """The state as of now.

        Raises:
            AssertionError: a side that serves reads is gone.
        """
        row = self.control.execute(_LOOK, self.at).fetchone()
        assert row is not None
        seen = Seen(*row)
        if seen.active == "old":
            assert seen.old_there and seen.old_present, f"the old side serves and was dropped: {seen}"
        if seen.active == "new" or seen.canary:
            assert seen.new_there and seen.new_present, f"the new side serves and was dropped: {seen}"
        assert seen.canary in (0, 100) or seen.active == "old", seen
        return seen

    # ----------------------------------------------------------------------------------------------------- acts

    def acts(self, generator: random.Random, count: int, *first: str) -> list[tuple[str, Callable[[], object]]]:
        names = ("cutover", "canary", "rollback", "postpone", "cancel", "due", "cleanup", "abort")
        weights = (5, 2, 5, 1, 1, 2, 6, 2)
        chosen = [*first, *generator.choices(names, weights, k=count)]
        return [(name, functools.partial(self.act, name, generator.random())) for name in chosen]

    def act(self, name: str, seed: float = 0.0) -> object:
        migration, dsn = self.migration, self.dsn
        if name == "cutover":
            return cutovers.cutover(dsn, migration, gate=PASS, override=FOR)
        if name == "canary":
            return cutovers.cutover(dsn, migration, 1 + int(seed * 99), gate=PASS, override=FOR)
        if name == "rollback":
            return cutovers.rollback(dsn, migration)
        if name == "postpone":
            return cutovers.postpone(dsn, migration, 100 if seed < 0.7 else 30, gate=PASS, override=FOR)
        if name == "cancel":
            return cutovers.cancel_postponed(dsn, migration)
        if name == "due":
            return cutovers.flip_if_due(dsn, migration, PASS)
        with connect(dsn, name=name) as conn:
            stop = threading.Event()
            if name == "abort":
                return abort(conn, migration, typed_name="documents", stop=stop)
            choice = CHOICES[int(seed * len(CHOICES))]
            return cleanup(conn, migration, choice, typed_name="documents", stop=stop)

    # ------------------------------------------------------------------------------------------------ a schedule

    def schedule(self, seed: int) -> None:
        """One schedule, wholly decided by ``seed`` but for who waits for whose lock."""
        generator = random.Random(seed)
        placement = generator.choice(list(PlacementKind))
        strategy = "rename" if placement is PlacementKind.COLUMN and generator.random() < 0.25 else "pointer"
        self.reset(placement, strategy)
        duel = generator.choice(DUELS) if generator.random() < 0.5 else ()
        if generator.random() < 0.75 and duel[:1] != ("abort",):  # most begin where there is something to lose
            self.act("cutover")
        if "due" in duel:
            self.act("postpone")
        operators = [
            Operator(name, self.acts(generator, generator.randint(0 if duel else 1, 2), *duel[place : place + 1]))
            for place, name in enumerate(("ann", "bob", "cat")[: generator.choice((2, 3) if duel else (1, 2, 2, 3))])
        ]
        constant = generator.choice((0.2, 0.6, 0.9))
        crashes = {int(generator.expovariate(1 / 40)): generator.choice(("kill", "cut")) for _ in range(2)}
        crashes = crashes if generator.random() < 0.6 else {}
        for operator in operators:
            operator.start()
        last = operators[0]
        number = 0
        try:
            while any(not operator.ended for operator in operators):
                ready = self._ready(operators)
                if not ready:
                    continue
                last = last if last in ready and generator.random() < constant else generator.choice(ready)
                crash = crashes.get(number, "")
                if crash == "cut":
                    self._cut(last)
                last.step(kill=crash == "kill")
                self.counts[f"crash {crash}"] += bool(crash)
                self.look()
                number += 1
            for operator in operators:
                if operator.failure is not None:
                    raise AssertionError(f"{operator.doing} failed") from operator.failure
            self.counts["steps"] += number
            for operator in operators:
                self.counts.update(operator.outcomes)
            self.go_on(generator)
        except BaseException as error:
            told = [f"{operator.name}: {operator.outcomes} {operator.doing}" for operator in operators]
            error.add_note(f"schedule {seed}, {placement}, {strategy}, crashes {crashes}, step {number}: {told}")
            raise

    def _ready(self, operators: list[Operator]) -> list[Operator]:
        for tries in range(int(PATIENCE / BLOCKED_SECONDS)):
            ready = [operator for operator in operators if operator.waiting]
            if ready or all(operator.ended for operator in operators):
                return ready
            first = next(operator for operator in operators if not operator.ended)
            with first.changed:
                first.changed.wait_for(lambda first=first: first.waiting or first.ended, BLOCKED_SECONDS)  # type: ignore[misc]
            assert tries < PATIENCE / BLOCKED_SECONDS - 2, "all operators wait for one another"
        return []

    def _cut(self, operator: Operator) -> None:
        for conn in operator.connections:
            if not conn.closed:
                pid = conn.info.backend_pid
                self.control.execute("SELECT pg_terminate_backend(%s, 2000)", [pid])

    # ------------------------------------------------------------------------------------------------- and after it

    def go_on(self, generator: random.Random) -> None:
        """Whatever happened, an operator can bring the migration to an end, and searches find their own side."""
        seen = self.look()
        self.counts[f"left in {seen.phase}{' ' + seen.ending if seen.ending else ''}"] += 1
        if seen.ending != "abort" and seen.phase not in ("done", "aborted"):
            if generator.random() < 0.5 and seen.active == "new":
                self.alone("cleanup")
            else:
                self.alone("rollback")
                assert self.look().active == "old"
                self.answers()
                self.alone("cutover" if generator.random() < 0.5 else "abort")
                if self.look().active == "new":
                    self.answers()
                    self.alone("cleanup")
        elif seen.ending == "abort":
            self.alone("abort")
        else:
            self.alone("cleanup" if seen.phase == "done" else "abort")  # what was killed after the drop
        assert self.look().phase in ("done", "aborted")
        left = self.control.execute("SELECT count(*) FROM embedtui.shard").fetchone()
        assert left == (0,)
        self.answers()

    def alone(self, name: str) -> None:
        """An act with nobody else at it; the server may need a moment to notice that a killed one is gone."""
        for _ in range(200):
            try:
                self.act(name)
            except Refused as refused:
                if "Another process" not in refused.message:
                    raise
                threading.Event().wait(0.02)
            else:
                return
        raise AssertionError(f"{name}: another process never ended")

    def answers(self) -> None:
        """The Router's own search, and SQL's, find by the route's model what belongs to it."""
        served = snapshots_of(read_sides(self.control), Route, {}, lambda _: Tally(), {})[self.name]
        found = served.choose(None)
        assert found.side is Side(self.look().active)
        key = "3" if found.side is Side.OLD else "2"
        assert found.search(self.control, vector(3), k=1)[0].key == (key,), found
        probe = "SELECT key FROM embedtui.search(%s, %s, %s, 1)"
        assert self.control.execute(probe, [self.name, found.model, str(vector(3))]).fetchone() == (key,)
        assert pointer.read_route(self.control, self.name).active is found.side
