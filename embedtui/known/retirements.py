"""The calendar: which model is shut down when, as its provider announced it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

WARNED_DAYS = 365
"""A shutdown so near is worth a word; one further off is no news."""


@dataclass(frozen=True, slots=True)
class Retirement:
    """The end of a model at one provider; others may serve a model of the same name longer."""

    provider: str
    model: str
    on: date
    source: str
    checked: date
    """When that was looked up."""
    earliest: bool = False
    """The provider promises service until then; how much longer it has not said, or is said to have put off."""
    instead: str = ""
    """What the provider recommends."""

    def past(self, today: date | None = None) -> bool:
        """Whether it is over."""
        return not self.earliest and (today or _today()) >= self.on

    def near(self, today: date | None = None) -> bool:
        """Whether it is over or comes soon."""
        return ((self.on - (today or _today())).days) <= WARNED_DAYS

    def said(self, today: date | None = None) -> str:
        """In a sentence, e.g. ``text-embedding-004 was shut down on 2026-01-14``."""
        if self.earliest:
            return f"{self.model} may be shut down from {self.on} on"
        return f"{self.model} {'was' if self.past(today) else 'will be'} shut down on {self.on}"

    def __str__(self) -> str:
        """The same, with where that is from, and what to take instead."""
        instead = f"; recommended instead: {self.instead}" if self.instead else ""
        return f"{self.said()} ({self.source}, read {self.checked}{instead})"


def _today() -> date:
    return datetime.now(UTC).date()


_GEMINI = "ai.google.dev/gemini-api/docs/deprecations"
_GEMINI_BY_LITELLM = f"{_GEMINI}, as litellm 1.110.2 carries it"
_OPENAI = "developers.openai.com/api/docs/deprecations"
# 2027-04-15 in its version of 2026-07-07; put off since, as litellm 1.110.2 has it: so no sooner than the first
_AZURE = (
    "learn.microsoft.com/azure/foundry/openai/concepts/model-retirement-schedule, which litellm 1.110.2 carries with"
    " 2028-02-09"
)
_READ_AZURE = date(2026, 7, 7)
_COHERE = "docs.cohere.com/changelog/2026-04-04-embed-v2-aya-8b-retirement"
_READ = date(2026, 11, 27)

RETIREMENTS: Sequence[Retirement] = (
    Retirement("gemini", "text-embedding-004", date(2026, 1, 14), _GEMINI, _READ, instead="gemini-embedding-001"),
    Retirement("gemini", "embedding-001", date(2025, 10, 30), _GEMINI, _READ, instead="gemini-embedding-001"),
    Retirement(
        "gemini", "gemini-embedding-exp-03-07", date(2025, 10, 30), _GEMINI, _READ, instead="gemini-embedding-001"
    ),
    Retirement("gemini", "gemini-embedding-001", date(2028, 5, 14), _GEMINI_BY_LITELLM, _READ, earliest=True),
    Retirement("azure", "text-embedding-ada-002", date(2027, 4, 15), _AZURE, _READ_AZURE, earliest=True),
    Retirement("azure", "text-embedding-3-small", date(2027, 4, 15), _AZURE, _READ_AZURE, earliest=True),
    Retirement("azure", "text-embedding-3-large", date(2027, 4, 15), _AZURE, _READ_AZURE, earliest=True),
    *(
        Retirement("openai", f"text-{kind}-001", date(2024, 1, 4), _OPENAI, _READ, instead="text-embedding-3-small")
        for size in ("ada", "babbage", "curie", "davinci")
        for kind in (f"similarity-{size}", f"search-{size}-doc", f"search-{size}-query")
    ),
    *(
        Retirement("cohere", f"embed-{kind}-v2.0", date(2026, 4, 4), _COHERE, _READ, instead="embed-v4.0")
        for kind in ("english", "english-light", "multilingual")
    ),
)
"""Not listed is not promised: OpenAI, for one, has named no day for its three present models."""

_BY_MODEL = {(each.provider, each.model): each for each in RETIREMENTS}


def retirement(provider: str, model: str) -> Retirement | None:
    """What the calendar says of a model at a provider; None: nothing."""
    return _BY_MODEL.get((provider, model.removeprefix("models/")))
