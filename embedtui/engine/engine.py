"""The facade: commands down, snapshots and events up; synchronous, and safe to call from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Unpack

from embedtui.engine import evidence, settings_in_force, steering, switch
from embedtui.engine.cleanup.choice import Kept, choice_of
from embedtui.engine.cutover import cutover as cutovers
from embedtui.engine.ending import clean_up, give_up, take_up
from embedtui.engine.overrides import Overrides
from embedtui.engine.reads import Reads
from embedtui.engine.running import Runner
from embedtui.engine.validate import queries as queries_module
from embedtui.engine.validate.run import CompareOptions
from embedtui.model import (
    Command,
    Comparison,
    FaultState,
    Flip,
    IndexStatus,
    Migration,
    QueryComparison,
    QueryInput,
    Snapshot,
    Verdict,
    VerifyReport,
)
from embedtui.model.bridge import BridgeReport


class Engine(Reads):
    """One migration, as seen from one process. Several may work on it, on several hosts."""

    outlives = False
    """Whether the work of :meth:`run` can go on without this process."""

    # ---------------------------------------------------------------------------------------------- small commands

    def pause(self, reason: str = "") -> None:
        """Hold the work everywhere until ``resume``; requests in flight are finished and stored."""
        steering.pause(self._at, reason)

    def resume(self) -> None:
        """Let the work go on, everywhere."""
        steering.resume(self._at)

    def stop_workers(self, ids: Sequence[int] | None = None) -> int:
        """Ask worker processes (None: all), wherever they run, to stop cleanly; how many were asked.

        Each hears it within about a second, finishes its requests in flight, stores them and ends.
        """
        return steering.stop_workers(self._at, ids)

    def reload(self) -> int:
        """Read the settings again: this object, and all worker processes wherever they run; how many were asked.

        Each hears it within about a second, stores the replies that come within 5 s, and goes on by what its machine's
        settings say then; one that is building an index does so once that is built. What differs is said and audited;
        settings that describe another migration are refused, and those before go on.
        """
        return steering.reload(self._at)

    def change_setting(self, path: str, given: str, seen: str) -> str:
        """Have the settings file say something else of ``path``, and all who work here read it; what was done.

        ``given`` is typed, empty takes it out; ``seen`` is what :meth:`settings_in_force` gave.

        Raises:
            Refused, SettingsError: it cannot be changed so, or the file was changed meanwhile; nothing is written.
        """
        return settings_in_force.change_setting(self._at, path, given, seen)

    def set_pace(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        spend_cap: float | None = None,
    ) -> None:
        """Change the pace of all workers while they run; None leaves a knob as it is, 0 takes the limit away."""
        steering.set_pace(
            self._at,
            {
                "requests_per_minute": requests_per_minute,
                "tokens_per_minute": tokens_per_minute,
                "max_concurrency": max_concurrency,
                "spend_cap": spend_cap,
            },
        )

    def change_concurrency(self, by: int) -> tuple[int, int]:
        """Let workers have ``by`` more requests in flight (negative: fewer); the limit before, and now."""
        return steering.change_concurrency(self._at, by)

    def retry_faults(self, ids: Sequence[int] | None = None) -> int:
        """Embed faulty rows again; how many."""
        return steering.decide_faults(self._at, ids, FaultState.RETRY)

    def truncate_faults(self, ids: Sequence[int] | None = None) -> int:
        """Embed faulty rows again, their texts cut to what the model takes; how many."""
        return steering.decide_faults(self._at, ids, FaultState.TRUNCATE)

    def skip_faults(self, ids: Sequence[int] | None = None) -> int:
        """Leave faulty rows without the vector they lack; how many rows."""
        return steering.decide_faults(self._at, ids, FaultState.SKIPPED)

    # ------------------------------------------------------------------------------------------------------- work

    def prepare(self, stop: threading.Event | None = None) -> Migration:
        """Phase ``prepare`` alone; a no-op where it is done."""
        return Runner(self._at).prepare(stop)

    def run(
        self, stop: threading.Event, *, until: float | None = None, follow: bool = False, again: bool | None = None
    ) -> Snapshot:
        """Prepare, backfill, index; blocks. Goes on where it was left; other processes may work beside it.

        Args:
            stop: set it to stop; what is paid for is stored, and the next run goes on.
            until: stop once this share of the rows is done, in percent.
            follow: go on keeping both sides current until stopped, and wait out a pause or a wrong setting.
            again: try what had failed again, and lift the pause that was for it; None: unless it is to ``follow``.

        Raises:
            Interrupted: stopped.
            Refused: the settings describe another migration than the one under way, it has ended, or an operator paused
                it (without ``follow``, which waits for ``resume``).
            TableChanged: the application's DDL left nothing that the migration could go on with.
            ProviderError: the provider refuses us as configured (without ``follow``, or before anything has begun).
            EmbedtuiError: anything else that waiting does not mend.
        """
        return Runner(self._at).run(stop, until=until, follow=follow, again=not follow if again is None else again)

    # --------------------------------------------------------------------------------------------------- evidence

    def compare(
        self,
        queries: Sequence[QueryInput] | None = None,
        *,
        k: int = 10,
        where: str | None = None,
        source: str = "",
        again: bool = False,
        replica_dsn: str | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Comparison:
        """Compare both sides over ``queries`` (None: those kept, else rows of the table), decide the gate, record both.

        ``where`` is the application's own filter, trusted SQL (None: that of the settings).

        Raises:
            NotClean: no row has both vectors.
            ProviderError: the new model does not answer.
            Interrupted: ``stop`` was set.
        """
        options = CompareOptions(k=k, source=source, again=again)
        return evidence.compare_sides(
            self._at, queries, options, where=where, replica_dsn=replica_dsn, progress=progress, stop=stop
        )

    def search_both(self, text: str, *, k: int = 10, where: str | None = None) -> QueryComparison:
        """Both sides' results of a typed query, ``where`` as in :meth:`compare`."""
        return evidence.search_both(self._at, text, k=k, where=where)

    def decide(self, query_id: int, verdict: str, note: str | None = None) -> Verdict | None:
        """Keep the operator's verdict on a query: ``new``, ``old``, ``same`` or ``bad``; note None keeps its own.

        An empty one takes it back. Returns the one that stands then, which may be another operator's.
        """
        return self._at.write(lambda conn: queries_module.decide(conn, query_id, verdict, note))

    def forget_queries(self, ids: Sequence[int]) -> None:
        """Keep queries no longer, nor the verdicts on them; evaluations that were recorded with them stand.

        Raises:
            Refused: there is no such query.
        """
        migration = self.require()
        self._at.write(lambda conn: queries_module.forget(conn, migration, ids))

    def verify(self, *, sample: int = 0, repair: bool = False, stop: threading.Event | None = None) -> VerifyReport:
        """Scan every row; embed ``sample`` random rows again and compare; queue what is wrong where ``repair``.

        Raises:
            ProviderError: the provider refuses us (only with ``sample``).
            Refused: the migration was aborted; or it is done, and nothing would mend what is queued.
        """
        return evidence.verify(self._at, sample=sample, repair=repair, stop=stop)

    # ------------------------------------------------------------------------------------------------------ switch

    def cutover(
        self,
        percent: int = 100,
        *,
        override: Overrides = MappingProxyType({}),
        seen: int | None = None,
        stop: threading.Event | None = None,
    ) -> Flip:
        """Move ``percent`` of the keys' reads, or all, to the new side; a repeat is a no-op.

        ``seen`` is the pointer's epoch on which that was decided: it is refused where the pointer has moved since.

        Raises:
            Refused: something blocks it that ``override`` does not pass (reasons by blocker), or another was first.
        """
        return switch.cutover(self._at, percent, override=override, seen=seen, stop=stop)

    def rollback(self, *, stop: threading.Event | None = None) -> Flip:
        """Move all reads back to the old side, at once, on a connection of its own; a repeat is a no-op."""
        return switch.rollback(self._at, stop=stop)

    def bridge(
        self,
        *,
        rows: int | None = None,
        serve: bool = True,
        override: Overrides = MappingProxyType({}),
        queries: Sequence[QueryInput] = (),
        stop: threading.Event | None = None,
    ) -> BridgeReport:
        """Have the new model's queries search the old side, through a map fitted on rows that have both vectors.

        Prepares the migration where it is not, and embeds what the sample lacks: the backfill's first rows. Stopped or
        killed, it goes on the next time with what is embedded.

        Args:
            rows: of the sample; None goes by the models' dimensions.
            serve: False measures, and changes nothing that is searched.
            override: reasons by blocker: ``bound`` where the map is too bad, ``old_model`` where that still answers.
            queries: kept, and with those kept before searched through the map: how real queries fare is part of what
                is found. With the old model's vectors, where the query log has them, beside the old model itself.
            stop: set it to stop.

        Raises:
            Refused: something blocks it, or the vectors cannot be bridged; the message says what was seen.
            Interrupted: stopped.
            ProviderError: the new model does not answer.
        """
        # numpy and the work's modules are for who bridges
        from embedtui.engine.bridge.act import bridge

        return bridge(self._at, rows=rows, serve=serve, override=override, queries=queries, stop=stop)

    def bridge_off(self) -> int:
        """Have the old side searched by the old model's vectors again; the pointer's epoch. A repeat is a no-op."""
        from embedtui.engine.bridge.act import bridge_off

        return bridge_off(self._at)

    def postpone(
        self, percent: int = 100, *, override: Overrides = MappingProxyType({}), seen: int | None = None
    ) -> None:
        """Cut over by itself once the sync queue is empty (a worker has to be running); ``seen`` as in `cutover`."""
        switch.postpone(self._at, percent, override=override, seen=seen)

    def cancel_postponed(self) -> bool:
        """Take a postponed cutover back; False where there is none."""
        return cutovers.cancel_postponed(self.dsn, self._at.allowed(Command.CANCEL_CUTOVER))

    def hold_index(self, held: bool = True) -> None:
        """Keep the workers from building the index, and take back a build under way; or let them."""
        switch.hold_index(self._at, held)

    def build_index(self, stop: threading.Event | None = None) -> IndexStatus:
        """Build the new side's index now, whatever the phase, and also where it was held; blocks until it is valid.

        Raises:
            Interrupted: ``stop`` was set; the build is cancelled.
        """
        return switch.build_index(self._at, stop)

    def cleanup(
        self,
        typed_name: str,
        *,
        override: Overrides = MappingProxyType({}),
        seen: int | None = None,
        stop: threading.Event | None = None,
        **choice: Unpack[Kept],
    ) -> None:
        """Drop the old side and finish; run again after an interruption, it completes what was begun.

        Args:
            typed_name: has to be the table's name.
            override: reasons by blocker, ``{"soak": "…"}``; with the number of rows where any would lose their only
                vector, ``{"coverage:73": "…"}``; audited.
            seen: as in :meth:`cutover`.
            stop: set it to interrupt between steps.
            choice: what is to be left, see :class:`embedtui.engine.cleanup.choice.Kept`.

        Raises:
            Refused: something stands against it, or the name is another.
        """
        clean_up(self._at, typed_name, choice_of(choice), override=override, seen=seen, stop=stop)

    def abort(self, typed_name: str, *, seen: int | None = None, stop: threading.Event | None = None) -> str:
        """Take everything back to before ``prepare``; gives what was done, and what is left, in a sentence or two.

        ``seen`` as in :meth:`cutover`.

        Raises:
            Refused: production reads the new side, something depends on it, or the name is another.
        """
        return give_up(self._at, typed_name, seen=seen, stop=stop)

    def adopt(self, *, stop: threading.Event | None = None) -> str:
        """Go on with a table that was made again, restored or swapped; gives what was kept, in a sentence or two.

        Raises:
            Refused: there is nothing to adopt, or the table is none that this migration could go on with.
        """
        return take_up(self._at, stop=stop)
