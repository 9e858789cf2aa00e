"""The first request to the new model's endpoint, made while the work gets ready: nothing is paid before its answer."""

from __future__ import annotations

import threading

from embedtui.engine.access import Access
from embedtui.engine.backfill.job import POLL, now
from embedtui.engine.resilience import fatal
from embedtui.errors import EmbedtuiError, Interrupted, ProviderError
from embedtui.model import Failed, FaultClass, Migration
from embedtui.providers import ProviderFault, endpoint
from embedtui.providers.patience import Asking
from embedtui.providers.start import NO_API, first_answer


class ProviderCheck:
    """Whether an endpoint can be worked with, asked on a thread of its own; :meth:`wait` from any thread.

    A key that this process lacks, or has wrong while others work, is its own affair and pauses nobody. Nor does an
    endpoint that answers, and not with embeddings; what may pass is for the work to wait out.
    """

    def __init__(self, at: Access, migration: Migration, *, others: bool) -> None:
        """Asks. ``others``: other workers are alive."""
        self._at, self._model, self._others = at, migration.new_model, others
        self._stop, self._answered = threading.Event(), threading.Event()
        self.error: EmbedtuiError | None = None
        """Why this process cannot work with it; once that is known."""
        threading.Thread(target=self._run, name="first request", daemon=True).start()

    def wait(self, stop: threading.Event) -> None:
        """Return once the work may send what is paid for.

        Raises:
            ProviderError: it may not, by this process.
            Interrupted: ``stop`` was set before the answer came.
        """
        while not self._answered.wait(POLL):
            if stop.is_set():
                self._stop.set()
                raise Interrupted("Stopped.", hint="Run again to go on.")
        if self.error is not None:
            raise self.error

    def give_up(self) -> None:
        """The answer is of no use any more."""
        self._stop.set()

    def _run(self) -> None:
        try:
            self._ask()
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            self.error = fatal(error)
        finally:
            self._answered.set()

    def _ask(self) -> None:
        asked = False
        try:
            endpoint(self._model, self._at.environ)
            with Asking(self._at.note, self._stop).embedder(self._model, self._at.environ) as embedder:
                asked = True
                first_answer(embedder, self._model, stop=self._stop, on_fault=self._say)
        except ProviderFault as fault:
            own = self._others or not asked or fault.code in NO_API
            if own and fault.fault_class is FaultClass.CONFIGURATION:
                raise ProviderError(fault.reason, hint=fault.hint) from None

    def _say(self, fault: ProviderFault) -> None:
        if fault.fault_class is FaultClass.PROVIDER and not self._stop.is_set():
            self._at.emit(Failed(now(), f"Provider: {fault.reason}", fault.fault_class, fault.hint))
