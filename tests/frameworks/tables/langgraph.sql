-- langgraph-checkpoint-postgres 3.2.0, 2026-11-27: its own statements and rows, recorded by tests/frameworks/record.py.
-- table: store_vectors
-- embedded: {"key": ["memories.ada", "note-0", "text"], "text": "Refunds are paid within five days."}
-- embedded: {"key": ["memories.ada", "note-1", "text"], "text": "Water the ficus\nonce a week, never more."}
-- embedded: {"key": ["memories.ada", "note-2", "text"], "text": "The night train leaves at 22:04 from platform 7."}
CREATE TABLE IF NOT EXISTS store_migrations (
                    v INTEGER PRIMARY KEY
                );
CREATE TABLE IF NOT EXISTS store (
    -- 'prefix' represents the doc's 'namespace'
    prefix text NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (prefix, key)
);
-- For faster lookups by prefix
CREATE INDEX CONCURRENTLY IF NOT EXISTS store_prefix_idx ON store USING btree (prefix text_pattern_ops);
-- Add expires_at column to store table
ALTER TABLE store
ADD COLUMN IF NOT EXISTS expires_at TIMESTAMP WITH TIME ZONE,
ADD COLUMN IF NOT EXISTS ttl_minutes INT;
-- Add indexes for efficient TTL sweeping
CREATE INDEX IF NOT EXISTS idx_store_expires_at ON store (expires_at)
WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS vector_migrations (
                    v INTEGER PRIMARY KEY
                );
CREATE TABLE IF NOT EXISTS store_vectors (
    prefix text NOT NULL,
    key text NOT NULL,
    field_name text NOT NULL,
    embedding vector(8),
    created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (prefix, key, field_name),
    FOREIGN KEY (prefix, key) REFERENCES store(prefix, key) ON DELETE CASCADE
);
CREATE INDEX CONCURRENTLY IF NOT EXISTS store_vectors_embedding_idx ON store_vectors 
    USING hnsw (embedding vector_cosine_ops);
INSERT INTO store_migrations ("v") VALUES ('0');
INSERT INTO store_migrations ("v") VALUES ('1');
INSERT INTO store_migrations ("v") VALUES ('2');
INSERT INTO store_migrations ("v") VALUES ('3');
INSERT INTO store ("prefix", "key", "value", "created_at", "updated_at", "expires_at", "ttl_minutes") VALUES ('memories.ada', 'note-0', '{"text": "Refunds are paid within five days."}', '2026-11-27 19:27:26.513627+00', '2026-11-27 19:27:26.513627+00', NULL, NULL);
INSERT INTO store ("prefix", "key", "value", "created_at", "updated_at", "expires_at", "ttl_minutes") VALUES ('memories.ada', 'note-1', E'{"text": "Water the ficus\\nonce a week, never more."}', '2026-11-27 19:27:26.526335+00', '2026-11-27 19:27:26.526335+00', NULL, NULL);
INSERT INTO store ("prefix", "key", "value", "created_at", "updated_at", "expires_at", "ttl_minutes") VALUES ('memories.ada', 'note-2', '{"text": "The night train leaves at 22:04 from platform 7."}', '2026-11-27 19:27:26.528418+00', '2026-11-27 19:27:26.528418+00', NULL, NULL);
INSERT INTO vector_migrations ("v") VALUES ('0');
INSERT INTO vector_migrations ("v") VALUES ('1');
INSERT INTO vector_migrations ("v") VALUES ('2');
INSERT INTO store_vectors ("prefix", "key", "field_name", "embedding", "created_at", "updated_at") VALUES ('memories.ada', 'note-0', 'text', '[1,1,1,1,1,1,1,1]', '2026-11-27 19:27:26.513627+00', '2026-11-27 19:27:26.513627+00');
INSERT INTO store_vectors ("prefix", "key", "field_name", "embedding", "created_at", "updated_at") VALUES ('memories.ada', 'note-1', 'text', '[2,1,1,1,1,1,1,1]', '2026-11-27 19:27:26.526335+00', '2026-11-27 19:27:26.526335+00');
INSERT INTO store_vectors ("prefix", "key", "field_name", "embedding", "created_at", "updated_at") VALUES ('memories.ada', 'note-2', 'text', '[3,1,1,1,1,1,1,1]', '2026-11-27 19:27:26.528418+00', '2026-11-27 19:27:26.528418+00');
