"""What is stored with a migration beside its identity: settings that every worker shares, and how far an act got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from embedtui.model.words import IndexMethod, Side

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How the approximate index of the new side is built; the defaults are pgvector's own."""

    method: IndexMethod = IndexMethod.HNSW
    m: int = 16
    ef_construction: int = 64
    lists: int | None = None
    """Of ivfflat; None: by the number of rows."""
    maintenance_work_mem: str | None = None
    """For the build alone, e.g. ``4GB``; None leaves the server's."""
    parallel_workers: int | None = None
    """``max_parallel_maintenance_workers`` for the build alone; None leaves the server's."""


@dataclass(frozen=True, slots=True)
class ThrottleSettings:
    """What holds the backfill; None switches a reason off."""

    max_replica_lag_seconds: float | None = 10.0
    probe_query: str | None = None
    probe_latency_factor: float = 2.0
    max_lock_waits: int | None = 0
    long_transaction_seconds: float | None = 600.0
    hold_for_autovacuum: bool = False
    max_wal_mb_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the cutover asks of an evaluation; the defaults suit a table that serves people, each says why."""

    min_queries: int = 30
    """Fewer are inconclusive: the bootstrap interval of so few is itself too narrow to be trusted."""
    ndcg_margin: float = 0.02
    """Judged: the new side may be worse by this much in nDCG@10. It is one relevant row moving from the first place to
    the second in one query of twenty; a smaller difference takes thousands of judged queries to be sure of."""
    min_overlap: float = 0.5
    """Unjudged: a mean overlap of the top 10 below this asks for verdicts. Two equally good models shared 46 % on a
    public set, so it says nothing against the new one: it says that somebody has to look."""
    min_index_recall: float = 0.95
    """Of the new index against exact search: below this, one result in twenty that the model found is lost."""
    max_latency_factor: float = 2.0
    """p95 of the new side may be this many times the old one's: more dimensions take time, but not more."""
    max_drift: float = 0.05
    """Changes after which the evaluation is void, as a share of the rows: so many rows changed at most, and a twentieth
    of them holds, on average, a twentieth of the places in the rankings, so the overlap cannot have moved by much
    more."""
    where: str = ""
    """The application's own filter, a part of both searches; no threshold."""


@dataclass(frozen=True, slots=True)
class CutoverSettings:
    """How production learns of the switch, and how long the old side is kept."""

    strategy: str = "pointer"
    soak_days: float = 7.0
    env_file: str | None = None
    hook: str | None = None
    hook_timeout_seconds: float = 60.0
    hook_variables: tuple[str, ...] = ()
    """Environment variables that the hook gets beside PATH and its like."""
    roles: tuple[str, ...] = ()
    """Roles of applications that strategy search_path moves."""


@dataclass(frozen=True, slots=True)
class StoredSettings:
    """The settings of a migration that every host has to see alike: no secret, no model, no table."""

    index: IndexSettings = IndexSettings()
    throttle: ThrottleSettings = ThrottleSettings()
    gate: GateSettings = GateSettings()
    cutover: CutoverSettings = CutoverSettings()
    change_capture: str = "triggers"
    foreign_key: bool = True
    view: bool = False
    """A routed view is made and kept in step with the table."""
    view_schema: str | None = None
    """Of the routed view; None: by the migration's name."""
    trust_application: bool = True
    """Vectors that the application writes itself are kept; else they are replaced."""
    fire_triggers: bool = False
    """Our own writes of vectors into the table fire the application's triggers, even where they could pass them."""

    @classmethod
    def of(cls, stored: Mapping[str, object]) -> StoredSettings:
        """As stored; what an older program did not store has its default, what only a newer one knows is left out."""
        return cls(
            index=_section(IndexSettings, stored.get("index"), unset=True),
            throttle=_section(ThrottleSettings, stored.get("throttle")),
            gate=_section(GateSettings, stored.get("gate")),
            cutover=_section(CutoverSettings, stored.get("cutover")),
            change_capture=str(stored.get("change_capture") or "triggers"),
            foreign_key=stored.get("foreign_key", True) is True,
            view=stored.get("view", False) is True,
            view_schema=str(stored["view_schema"]) if stored.get("view_schema") else None,
            trust_application=stored.get("trust_application", True) is True,
            fire_triggers=stored.get("fire_triggers", False) is True,
        )

    @property
    def by_triggers(self) -> bool:
        """Whether triggers capture what the application changes (else the table is scanned for it)."""
        return self.change_capture == "triggers"


def _section(kind: type[T], stored: object, *, unset: bool = False) -> T:
    """A section of the settings; with ``unset`` None is the default, else it says "off"."""
    given = stored if isinstance(stored, Mapping) else {}
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {
        name: IndexMethod(value) if name == "method" else tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name in known and not (unset and value is None)
    }
    return kind(**values)


OLD_INDEXES = "old_indexes"
"""Setting of a migration: the indexes that served its old side when it began, each as :class:`KnownIndex`."""


@dataclass(frozen=True, slots=True)
class KnownIndex:
    """An index as it was."""

    relation: int
    """Oid of the table or partition that it is of."""
    name: str
    partial: bool
    """It is of some rows only."""


@dataclass(frozen=True, slots=True)
class RunState:
    """What has become of a migration so far, stored beside its settings."""

    index_held: bool = False
    """The operators do not want the workers to build the index yet."""
    gone: Side | None = None
    """The side that cleanup has dropped."""
    former: tuple[int, ...] = ()
    """Oids of tables that were pushed aside with new vectors in them."""
    reloads: int = 0
    """How often the operators have asked the workers to read their settings again."""
    old_indexes: tuple[KnownIndex, ...] = ()
    """Those that served the old side's searches when the migration began."""

    @classmethod
    def of(cls, stored: Mapping[str, object]) -> RunState:
        """As stored with the settings."""
        gone, former, reloads = stored.get("gone"), stored.get("former"), stored.get("reloads")
        known = stored.get(OLD_INDEXES)
        return cls(
            index_held=bool(stored.get("index_held")),
            gone=Side(gone) if gone in ("old", "new") else None,
            former=tuple(oid for oid in former if isinstance(oid, int)) if isinstance(former, list) else (),
            reloads=reloads if isinstance(reloads, int) else 0,
            old_indexes=tuple(KnownIndex(*each) for each in known) if isinstance(known, list) else (),
        )
