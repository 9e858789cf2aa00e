-- Rows that are embedded by batch jobs of the provider. A job is recorded before it is made and after, under a token that
-- its metadata carries: whoever comes after a crash finds it by that.
CREATE TABLE embedtui.batch_job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES embedtui.migration,
    token uuid NOT NULL UNIQUE,
    -- packed: nothing was asked for; asked: the provider may have made it; sent: it has; taken, dropped: it is over
    state text NOT NULL DEFAULT 'packed' CHECK (state IN ('packed', 'asked', 'sent', 'taken', 'dropped')),
    worker integer,
    file text NOT NULL DEFAULT '',
    batch text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT '',           -- the provider's word
    reason text NOT NULL DEFAULT '',
    inputs integer NOT NULL,
    lines integer NOT NULL,
    finished integer NOT NULL DEFAULT 0,       -- lines, by the provider's count
    estimate bigint NOT NULL,                  -- tokens
    reserved bigint NOT NULL,                  -- of pace.spent_tokens
    rows bigint NOT NULL DEFAULT 0,            -- stored
    tokens bigint NOT NULL DEFAULT 0,          -- by the provider's count
    created_at timestamptz NOT NULL DEFAULT now(),
    asked_at timestamptz,
    sent_at timestamptz,
    looked_at timestamptz,
    missing_since timestamptz,
    ended_at timestamptz
);
CREATE INDEX batch_job_open ON embedtui.batch_job (migration, id) WHERE state IN ('packed', 'asked', 'sent');

-- which rows a line of a job is about, and what they said; gone once its answer is stored
CREATE TABLE embedtui.batch_line (
    job bigint NOT NULL REFERENCES embedtui.batch_job,
    number integer NOT NULL,
    shard bigint NOT NULL,
    keys jsonb NOT NULL,
    sources bigint[] NOT NULL,
    bytes bigint NOT NULL,
    tokens bigint,                             -- NULL: not answered
    PRIMARY KEY (job, number)
);

ALTER TABLE embedtui.shard
    DROP CONSTRAINT shard_state_check,
    ADD CONSTRAINT shard_state_check CHECK (state IN ('open', 'leased', 'batch', 'done')),
    ADD COLUMN job bigint,
    ADD COLUMN live boolean NOT NULL DEFAULT false;  -- what a job left is for the live endpoint

ALTER TABLE embedtui.model
    ADD COLUMN batch boolean NOT NULL DEFAULT false,
    ADD COLUMN batch_price double precision,
    ADD COLUMN batch_inputs integer;
