-- published: dify, api/core/rag/datasource/vdb/pgvector/pgvector.py, SQL_CREATE_TABLE
-- table: embedding_vector_index_5f1c_node
CREATE TABLE IF NOT EXISTS embedding_vector_index_5f1c_node (
    id UUID PRIMARY KEY,
    text TEXT NOT NULL,
    meta JSONB NOT NULL,
    embedding vector(8) NOT NULL
) using heap;
CREATE INDEX IF NOT EXISTS embedding_cosine_v1_idx_2f0e5d3c ON embedding_vector_index_5f1c_node
USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64);
INSERT INTO embedding_vector_index_5f1c_node VALUES
(gen_random_uuid(), 'Refunds are paid within five days.', '{"doc_id": "1"}', '[1,1,1,1,1,1,1,1]');
