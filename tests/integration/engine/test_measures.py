"""A measure that is not to be had on this server is unknown: said once, and nothing is held or ended for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from embedtui.config import ThrottleSettings
from embedtui.engine.backfill.database_throttle import UNKNOWN_SECONDS, Throttle
from tests.integration.engine.test_database_throttle import MIGRATION, OFF
from tests.kits.support import connect

EVERYTHING = ThrottleSettings(
    max_replica_lag_seconds=1.0,
    max_wal_mb_per_second=1.0,
    probe_query="SELECT 1",
    max_lock_waits=0,
    long_transaction_seconds=600.0,
    hold_for_autovacuum=True,
)

FORBIDDEN = {
    "replica_lag": "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_current_wal_lsn() FROM PUBLIC",
    "lock_waits": "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_blocking_pids(int) FROM PUBLIC",
    "long_transactions": "REVOKE SELECT ON pg_catalog.pg_prepared_xacts FROM PUBLIC",
    "autovacuum": "REVOKE SELECT ON pg_catalog.pg_stat_progress_vacuum FROM PUBLIC",
}


@pytest.fixture
def limited(database: str) -> Iterator[str]:
    """DSN of a role without rights of its own."""
    with connect(database) as admin:
        name = admin.info.dbname
        admin.execute(f'CREATE ROLE "only_{name}" LOGIN')
        yield psycopg.conninfo.make_conninfo(database, user=f"only_{name}")


@pytest.mark.parametrize("measure", FORBIDDEN)
def test_what_may_not_be_read_is_said_once_and_the_others_go_on(measure: str, database: str, limited: str) -> None:
    moment = [0.0]
    with connect(database) as admin, connect(limited) as conn:
        admin.execute(FORBIDDEN[measure])
        watcher = Throttle(EVERYTHING, MIGRATION, clock=lambda: moment[0])
        assert watcher.check(conn) == ()
        assert any(measure.replace("_", " ") in text for text in watcher.news())
        for _ in range(3):
            moment[0] += UNKNOWN_SECONDS
            watcher.check(conn)
            assert watcher.news() == []


def test_a_hold_is_lifted_by_other_limits_while_it_holds(database: str) -> None:
    with connect(database) as conn, psycopg.connect(database) as long:
        long.execute("SELECT txid_current()")
        watcher = Throttle(replace(OFF, long_transaction_seconds=0.0), MIGRATION)
        time.sleep(0.01)
        assert [hold.name for hold in watcher.check(conn)] == ["long_transactions"]
        watcher.adopt(OFF)
        assert watcher.check(conn) == ()
