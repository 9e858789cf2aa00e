"""What a panel may show: the snapshot, and the few things only this terminal knows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from embedtui.errors import EmbedtuiError, SettingsError, TableError
from embedtui.logs import unexpected
from embedtui.model import Command, Condition, Event, Phase, Remedy, RouteStatus, Snapshot
from embedtui.model.lifecycle import refusal
from embedtui.tui.searches import Rates

if TYPE_CHECKING:
    from embedtui.tui.tour import Tour


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error as the screen shows it."""

    title: str
    message: str
    hint: str = ""
    remedies: tuple[Remedy, ...] = ()

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        """The trouble that ``error`` means; an unexpected one is logged with its traceback."""
        if isinstance(error, EmbedtuiError):
            return cls(error.title, error.message, error.prose, error.remedies)
        found = unexpected(error)
        return cls("Unexpected", found.message, found.hint)


@dataclass(frozen=True, slots=True)
class Link:
    """How the screen stands with the database."""

    up: bool = False
    """The last reading succeeded."""
    since: datetime | None = None
    """When the link was lost; None while connecting for the first time, or up."""
    seconds: float = 0.0
    """How long it has been lost; or, while it is up, for how long no reading came where that is long."""
    problem: str = ""
    """One line: what is wrong."""
    hint: str = ""
    attempts: int = 0
    title: str = ""
    """What kind of trouble it is."""

    @property
    def ours(self) -> bool:
        """Whether the settings are what is wrong, and the database answers well."""
        return self.title in (SettingsError.title, TableError.title)


@dataclass(frozen=True, slots=True)
class View:
    """The input of every panel; equal views paint equal pictures."""

    snapshot: Snapshot | None = None
    """None until the first reading."""
    link: Link = Link()
    rates: tuple[float, ...] = ()
    """Rows per second of the last readings, oldest first."""
    searches: tuple[Rates, ...] = ()
    """Searches per second of each side, as Routers reported them, oldest first."""
    counting: bool = False
    """None has been counted yet since the last flip, or no Router tells any more."""
    events: tuple[Event, ...] = ()
    """What the engine of this process reported, oldest first."""
    running: bool = False
    """This terminal runs the migration's work."""
    detachable: bool = False
    """… and it can go on without the terminal."""
    busy: tuple[str, ...] = ()
    """Names of the tasks under way from this terminal."""
    readonly: bool = False
    another: bool = False
    """This terminal has a plan of another migration of the table, after this one."""
    tour: Tour | None = None
    """How far somebody is led; None where nobody is."""

    @property
    def searches_now(self) -> Rates | None:
        """The newest of ``searches``; None while that is not of now."""
        return self.searches[-1] if self.searches and not self.counting else None

    @property
    def stale(self) -> bool:
        """Whether what is shown is the last known state and not the present one."""
        return self.late or (not self.link.up and self.snapshot is not None)

    @property
    def late(self) -> bool:
        """Whether the database answers, and no reading came for a while."""
        return self.link.up and self.link.seconds > 0

    @property
    def phase(self) -> Phase:
        """The migration's phase; ``plan`` while none exists."""
        return self.snapshot.phase if self.snapshot else Phase.PLAN

    @property
    def begins(self) -> bool:
        """Whether a run would begin a migration: none is known, or another one is planned after one that is done."""
        return self.phase is Phase.PLAN or (self.another and self.phase is Phase.DONE)

    @property
    def condition(self) -> Condition:
        """The phase's condition."""
        return self.snapshot.condition if self.snapshot else Condition.IDLE

    @property
    def paused(self) -> bool:
        """Whether the operators want the work to pause."""
        migration = self.snapshot.migration if self.snapshot else None
        return self.condition is Condition.PAUSED or (migration is not None and migration.desired == "pause")

    @property
    def index_held(self) -> bool:
        """Whether the operators keep the workers from building the index."""
        return self.snapshot is not None and self.snapshot.migration is not None and self.snapshot.migration.index_held

    @property
    def route(self) -> RouteStatus:
        """The pointer as the screen shows it."""
        return self.snapshot.route if self.snapshot is not None else RouteStatus()

    @property
    def new_reads(self) -> bool:
        """Whether any read is served by the new side: what a rollback would take back."""
        return self.snapshot is not None and self.snapshot.new_reads

    @property
    def way_back(self) -> bool:
        """Whether a rollback would move reads: they are on the new side, and the old one is there, and kept current."""
        return self.snapshot is not None and self.new_reads and refusal(Command.ROLLBACK, self.snapshot) is None

    @property
    def bridge_work(self) -> str:
        """What is done for a bridge now, by this terminal or elsewhere; empty where nothing is."""
        work = self.snapshot.bridge_work if self.snapshot else ""
        return work or ("under way" if "bridge" in self.busy else "")

    @property
    def table(self) -> str:
        """Name of the migrating table; empty while none exists."""
        return str(self.snapshot.migration.table) if self.snapshot and self.snapshot.migration else ""
