-- State of all migrations of this database. Every table has a primary key (logical replication needs one).
CREATE TABLE embedtui.model (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text NOT NULL,
    name text NOT NULL,
    dimensions integer NOT NULL CHECK (dimensions > 0),
    base_url text,
    key_variable text NOT NULL DEFAULT '',
    document_prefix text NOT NULL DEFAULT '',
    query_prefix text NOT NULL DEFAULT '',
    max_inputs integer NOT NULL,
    max_tokens integer NOT NULL,
    max_input_tokens integer NOT NULL,
    price_per_million double precision,
    send_dimensions boolean NOT NULL DEFAULT true,
    retired boolean NOT NULL DEFAULT false,
    -- identity of the vectors it makes: provider, name, dimensions, document prefix
    fingerprint text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE embedtui.migration (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    table_oid oid NOT NULL,
    key_columns text[] NOT NULL,
    key_types text[] NOT NULL,
    content_columns text[] NOT NULL,
    placement text NOT NULL CHECK (placement IN ('column', 'table')),
    old_column text NOT NULL,
    old_model integer NOT NULL REFERENCES embedtui.model,
    new_schema text NOT NULL,
    new_table text NOT NULL,
    new_column text NOT NULL,
    new_model integer NOT NULL REFERENCES embedtui.model,
    vector_schema text NOT NULL,
    vector_type text NOT NULL,
    old_vector_type text NOT NULL,
    distance text NOT NULL,
    index_method text NOT NULL,
    fingerprint_method integer NOT NULL DEFAULT 1,
    phase text NOT NULL,
    condition text NOT NULL DEFAULT 'idle',
    reason text NOT NULL DEFAULT '',
    desired text NOT NULL DEFAULT 'run' CHECK (desired IN ('run', 'pause')),
    total_rows bigint,
    synced bigint NOT NULL DEFAULT 0,
    synced_tokens bigint NOT NULL DEFAULT 0,
    settings jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    phase_at timestamptz NOT NULL DEFAULT now()
);
-- one live migration a table
CREATE UNIQUE INDEX migration_live ON embedtui.migration (table_oid) WHERE phase NOT IN ('done', 'aborted');
CREATE UNIQUE INDEX migration_live_name ON embedtui.migration (name) WHERE phase NOT IN ('done', 'aborted');

CREATE TABLE embedtui.worker (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES embedtui.migration,
    host text NOT NULL,
    pid integer NOT NULL,
    operator text NOT NULL DEFAULT '',
    doing text NOT NULL DEFAULT '',
    since timestamptz NOT NULL DEFAULT now(),
    threads jsonb NOT NULL DEFAULT '[]',
    rows bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat timestamptz NOT NULL DEFAULT now(),
    stopped_at timestamptz
);

CREATE TABLE embedtui.shard (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES embedtui.migration,
    leaf oid NOT NULL,
    filenode oid NOT NULL,
    first_block bigint NOT NULL,
    last_block bigint NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'leased', 'done')),
    worker integer,
    lease_until timestamptz,
    passes integer NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    updates bigint NOT NULL DEFAULT 0,
    hot_updates bigint NOT NULL DEFAULT 0,
    tokens bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX shard_claim ON embedtui.shard (migration, id) WHERE state <> 'done';

-- append-only for the application: a bare INSERT, nothing that could wait or conflict
CREATE TABLE embedtui.queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL,
    key text[] NOT NULL,
    kind "char" NOT NULL,          -- i insert, u update, d delete, t truncate, r repair
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE embedtui.fault (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES embedtui.migration,
    key text[] NOT NULL,
    side text NOT NULL DEFAULT 'new',
    class text NOT NULL,
    reason text NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'retry', 'truncate', 'skipped')),
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    UNIQUE (migration, side, key)
);

-- rows whose old vector is no longer that of their content: what a rollback would find stale
CREATE TABLE embedtui.stale (
    migration integer NOT NULL REFERENCES embedtui.migration,
    key text[] NOT NULL,
    side text NOT NULL DEFAULT 'old',
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (migration, side, key)
);

-- one row a migration: token and request buckets shared by all workers of all hosts, and the spend
CREATE TABLE embedtui.pace (
    migration integer PRIMARY KEY REFERENCES embedtui.migration,
    tokens_per_minute double precision,
    requests_per_minute double precision,
    token_level double precision NOT NULL DEFAULT 0,
    request_level double precision NOT NULL DEFAULT 0,
    filled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    blocked_until timestamptz,
    blocked_why text NOT NULL DEFAULT '',
    max_concurrency integer NOT NULL DEFAULT 8,
    concurrency integer,
    spent_tokens bigint NOT NULL DEFAULT 0,
    requests bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    spend_cap double precision,
    characters_per_token double precision
) WITH (fillfactor = 20);

CREATE TABLE embedtui.hold (
    migration integer NOT NULL REFERENCES embedtui.migration,
    name text NOT NULL,
    worker integer NOT NULL,
    detail text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (migration, name, worker)
);

-- the pointer: one row a route name, moved by compare-and-set on the epoch
CREATE TABLE embedtui.route (
    name text PRIMARY KEY,
    migration integer NOT NULL REFERENCES embedtui.migration,
    epoch bigint NOT NULL DEFAULT 1,
    active text NOT NULL DEFAULT 'old' CHECK (active IN ('old', 'new')),
    canary integer NOT NULL DEFAULT 0 CHECK (canary BETWEEN 0 AND 100),
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL DEFAULT '',
    first_cutover_at timestamptz,
    pending jsonb
);

CREATE TABLE embedtui.listener (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    application text NOT NULL DEFAULT '',
    epoch bigint NOT NULL DEFAULT 0,
    epoch_seen_at timestamptz,
    searches_old bigint NOT NULL DEFAULT 0,
    searches_new bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE embedtui.query (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES embedtui.migration,
    text text NOT NULL,
    row_key text[],
    relevant jsonb NOT NULL DEFAULT '[]',      -- [[key, gain], …]
    source text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX query_text ON embedtui.query (migration, md5(text), coalesce(row_key, '{}'));

CREATE TABLE embedtui.query_vector (
    query bigint NOT NULL REFERENCES embedtui.query ON DELETE CASCADE,
    model integer NOT NULL REFERENCES embedtui.model,
    vector real[] NOT NULL,
    PRIMARY KEY (query, model)
);

CREATE TABLE embedtui.evaluation (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES embedtui.migration,
    at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    k integer NOT NULL,
    queries integer NOT NULL,
    measures jsonb NOT NULL,
    checks jsonb NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'INCONCLUSIVE')),
    state jsonb NOT NULL          -- what it saw: rows, models, index, embedded, …
);

CREATE TABLE embedtui.verdict (
    query bigint NOT NULL REFERENCES embedtui.query ON DELETE CASCADE,
    who text NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('new', 'old', 'same', 'bad')),
    note text NOT NULL DEFAULT '',
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (query, who)
);

CREATE TABLE embedtui.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL,
    host text NOT NULL,
    act text NOT NULL,
    detail text NOT NULL DEFAULT ''
);
