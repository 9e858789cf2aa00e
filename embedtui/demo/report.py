"""What the headless journey came to."""

from __future__ import annotations

from dataclasses import dataclass

from embedtui.demo.models import NEW_MODEL


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The new side's index."""

    name: str
    method: str
    valid: bool


@dataclass(frozen=True, slots=True)
class JudgedReport:
    """nDCG@10 on the demo's questions; None where unknown."""

    old: float | None
    new: float | None


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """The comparison of both sides."""

    queries: int
    k: int
    mean_overlap: float
    low_overlap: int
    judged: JudgedReport
    verdict: str


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """What the application did meanwhile."""

    reads: int
    writes: int
    failed: int
    errors: tuple[str, ...]
    lost: int
    """Acknowledged writes that are not in the table."""


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """How the old model's end went."""

    model: str
    """The one that was shut down."""
    failed_searches: int
    """By the application, until the first one found something again."""
    failed_later: int
    """And after that."""
    bridged_searches: int
    seconds_to_bridged: float | None
    """From the old model's end to the first search that found something."""
    sample: int
    """Rows that the bridge was fitted on."""
    map: str
    recall_10: float
    """Held-out rows that find themselves among the first ten."""
    neighbours: float
    """Of the old model's own neighbours of held-out rows, those found."""
    overlap: float | None
    """Of the old model's own ten results of the demo's questions, those found."""
    judged: JudgedReport
    """nDCG@10 of the old model, as its index serves it, and of the new one through the bridge."""
    bridged_after_rollback: bool
    """Whether the way back from the cutover went over the bridge again."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the headless journey came to."""

    rows: int
    embedded: int
    missing: int
    stale: int
    faulty: int
    tokens: int
    rows_per_second: float | None
    """Of the backfill, from the first rows seen to the last; None where it was over at once."""
    index: IndexReport
    comparison: ComparisonReport
    flip_ms: float
    rollback_ms: float
    rollback_fresh: bool | None
    """Whether the old side was current at the end."""
    traffic: TrafficReport
    active: str
    phase: str
    seconds: float
    """The whole journey, without the start of the demo."""
    shutdown: ShutdownReport | None = None
    """Of the story in which the old model is shut down."""

    @property
    def well(self) -> bool:
        """Whether nothing was lost, nothing failed and the new side serves."""
        dead = self.shutdown
        failed = self.traffic.failed if dead is None else dead.failed_later
        problems = self.missing or self.stale or self.faulty or failed or self.traffic.lost
        if dead is not None and not (dead.failed_searches and dead.bridged_searches and dead.bridged_after_rollback):
            return False
        return not problems and self.index.valid and self.active == "new"

    def text(self) -> str:
        """For people."""
        judged = self.comparison.judged
        lines: tuple[tuple[str, str], ...] = (
            ("Documents", f"{self.rows:,}, {self.embedded:,} with a vector of {NEW_MODEL}"),
            ("Wrong", f"{self.missing} missing, {self.stale} stale, {self.faulty} faulty"),
            ("Backfill", f"{_figure(self.rows_per_second, ',.0f')} rows/s, {self.tokens:,} tokens"),
            ("Index", f"{self.index.name} ({self.index.method}), {'valid' if self.index.valid else 'INVALID'}"),
            ("Top 10", f"{self.comparison.mean_overlap:.0%} shared over {self.comparison.queries} questions"),
            (
                "nDCG@10",
                f"{_figure(judged.old)} old, {_figure(judged.new)} new, by exact search: {self.comparison.verdict}",
            ),
            ("Cutover", f"{self.flip_ms:.1f} ms, rollback {self.rollback_ms:.1f} ms"),
            (
                "Application",
                f"{self.traffic.reads} searches, {self.traffic.writes} writes, {self.traffic.failed} failed",
            ),
            ("Now", f"phase {self.phase}, the {self.active} side serves"),
        )
        if self.shutdown is not None:
            lines = (*_shutdown_lines(self.shutdown), *lines)
        return "\n".join(f"{title:<12}{line}" for title, line in lines)


def _shutdown_lines(dead: ShutdownReport) -> tuple[tuple[str, str], ...]:
    seconds = _figure(dead.seconds_to_bridged, ".1f")
    return (
        (
            "Shutdown",
            f"{dead.model}: {dead.failed_searches} searches failed, {seconds} s to the first that found again",
        ),
        (
            "Bridge",
            f"{dead.map} on {dead.sample:,} rows; {dead.recall_10:.0%} of those held out find themselves in ten,"
            f" {dead.neighbours:.0%} of their old neighbours",
        ),
        (
            "Bridged",
            f"{dead.bridged_searches} searches; {_figure(dead.overlap, '.0%')} of what the old model found, nDCG@10"
            f" {_figure(dead.judged.new)}, was {_figure(dead.judged.old)}",
        ),
    )


def _figure(value: float | None, form: str = ".3f") -> str:
    return "unknown" if value is None else format(value, form)
