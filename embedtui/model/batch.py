"""Batch jobs of the provider, as a screen shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchJobStatus:
    """A job under way."""

    id: int
    batch: str
    """Its name at the provider; empty until it has one."""
    status: str
    """The provider's word for it, else ours: ``packed`` or ``asked``."""
    inputs: int
    lines: int
    finished: int
    """Lines, by the provider's count."""
    age_seconds: float
    missing: bool = False
    """The provider does not know it, or its file, at present."""

    @property
    def eta_seconds(self) -> float | None:
        """By the share that is finished; None as long as that is nothing."""
        if not 0 < self.finished <= self.lines:
            return None
        return self.age_seconds * (self.lines - self.finished) / self.finished


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """What batch jobs did so far, and the jobs under way."""

    jobs: tuple[BatchJobStatus, ...] = ()
    """Under way, oldest first."""
    count: int = 0
    """Of all jobs so far."""
    rows: int = 0
    """Stored."""
    tokens: int = 0
    spent: float | None = None
    """On batch jobs; None where the price is unknown."""
    live: float | None = None
    """What their tokens would have cost at the live endpoint."""

    @property
    def waiting(self) -> int:
        """Rows in jobs under way."""
        return sum(job.inputs for job in self.jobs)

    @property
    def eta_seconds(self) -> float | None:
        """Of the job that ends last; None as long as one of them cannot be told."""
        found = [job.eta_seconds for job in self.jobs]
        known = [seconds for seconds in found if seconds is not None]
        return max(known) if known and len(known) == len(found) else None
