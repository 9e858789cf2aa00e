"""What a full scan of the rows found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Full scan of a migration's rows (counts of rows)."""

    rows: int
    empty: int
    """Rows with nothing to embed: NULL or blank content."""
    embedded: int
    missing: int
    stale: int
    """The vector's fingerprint is not the content's."""
    wrong_model: int
    unverified: int
    """A vector without provenance (the application wrote it unstamped)."""
    faulty: int
    skipped: int
    """Rows whose fault the operator decided to skip."""
    orphaned: int
    """Side-table rows without a source row."""
    sampled: int = 0
    mismatched: int = 0
    """Sampled rows whose re-embedded vector disagrees (cosine < 0.99)."""
    index_valid: bool | None = None
    queued: int = 0
    awaited: int = 0
    """Rows that changed while they were looked at, which a worker is embedding."""
    worker: str = ""
    """A worker that is at work, ``host:pid``."""
    unknown: str = ""
    """What cannot be told any more; empty while the migration is under way."""

    @property
    def clean(self) -> bool:
        """Whether every row that can have a right vector has it."""
        return not (self.missing or self.stale or self.wrong_model or self.faulty or self.orphaned or self.mismatched)

    @property
    def in_hand(self) -> bool:
        """Whether what is queued may well be all that is wrong: edits not embedded yet."""
        other = self.wrong_model or self.faulty or self.orphaned or self.mismatched
        return not self.clean and not other and self.missing + self.stale <= self.queued

    @property
    def undecided(self) -> bool:
        """Whether faulty rows are all that is wrong: nothing mends those but a decision."""
        other = self.missing or self.stale or self.wrong_model or self.orphaned or self.mismatched
        return bool(self.faulty) and not other
