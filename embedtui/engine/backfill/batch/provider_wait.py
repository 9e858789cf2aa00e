"""Patience with a provider that is in trouble: when to ask again, and what is said meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from embedtui.engine.backfill.embedding import ConfigurationFault
from embedtui.engine.backfill.job import Job, now
from embedtui.errors import Interrupted
from embedtui.model import FaultClass, Hold
from embedtui.providers import ProviderFault

T = TypeVar("T")

LONGEST_PAUSE = 30.0
"""Between two tries while the provider is in trouble."""


class Patience:
    """Of one thread."""

    def __init__(self, job: Job, stop: threading.Event) -> None:
        self._job, self._stop = job, stop
        self.hold: Hold | None = None
        """What is waited for now."""
        self._tries = 0
        """Failures in a row."""
        self._again_at = 0.0
        """By the monotonic clock: before, the provider is not asked."""

    @property
    def over(self) -> bool:
        """Whether it may be asked again."""
        return time.monotonic() >= self._again_at

    def well(self) -> None:
        """The provider answered, or there is room again."""
        self._tries, self.hold = 0, None

    def no_room(self) -> None:
        """Another job would be more than may be spent, or enqueued."""
        if self.hold is None:
            self.hold = Hold("spend_cap", "No room for another batch job: spend cap, or tokens enqueued.", now())

    def trouble(self, fault: ProviderFault) -> None:
        """Wait a little and try again, where that may help.

        Raises:
            ConfigurationFault: it does not.
        """
        if fault.fault_class is not FaultClass.PROVIDER:
            raise ConfigurationFault(fault.reason, hint=fault.hint)
        pause = max(min(LONGEST_PAUSE, 2.0 ** min(self._tries, 6) / 2), fault.retry_after or 0.0)
        self._tries += 1
        self._again_at = time.monotonic() + pause
        if self.hold is None:
            self._job.provider_failed(fault)
        self.hold = Hold("provider", f"Batch jobs: {fault.reason}", self.hold.since if self.hold else now())

    def patiently(self, work: Callable[[], T]) -> T:
        """Repeat until the provider answers; raises ProviderFault where waiting does not help."""
        while True:
            try:
                return work()
            except ProviderFault as fault:
                if fault.fault_class is not FaultClass.PROVIDER:
                    raise
                self.trouble(fault)
            self.wait()

    def wait(self) -> None:
        """Wait until it may be asked again; raises Interrupted where the work stops."""
        self._job.doing("waiting for the provider")
        if self._stop.wait(max(0.0, self._again_at - time.monotonic())):
            raise Interrupted("Stopped.", hint="Run again to go on.")
