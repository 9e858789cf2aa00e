-- published: mastra, stores/pg/src/vector/index.ts, createIndex
-- table: docs_index
CREATE TABLE IF NOT EXISTS docs_index (
    id SERIAL PRIMARY KEY,
    vector_id TEXT UNIQUE NOT NULL,
    embedding vector(8),
    metadata JSONB DEFAULT '{}'::jsonb
);
CREATE INDEX docs_index_vector_idx ON docs_index USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
INSERT INTO docs_index (vector_id, embedding, metadata) VALUES ('a1', '[1,1,1,1,1,1,1,1]', '{"text": "Refunds are paid within five days."}');
