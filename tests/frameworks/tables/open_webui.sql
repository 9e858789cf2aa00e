-- published: open-webui 03349e6, backend/open_webui/retrieval/vector/dbs/pgvector.py
-- table: document_chunk
CREATE TABLE document_chunk (
    id TEXT NOT NULL,
    vector VECTOR(8),
    collection_name TEXT NOT NULL,
    text TEXT,
    vmetadata JSONB,
    PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS idx_document_chunk_vector ON document_chunk USING ivfflat (vector vector_cosine_ops) WITH (lists = 100);
CREATE INDEX IF NOT EXISTS idx_document_chunk_collection_name ON document_chunk (collection_name);
INSERT INTO document_chunk VALUES
('a', '[1,2,3,4,0,0,0,0]', 'file-1', 'Refunds are paid within five days.', '{}'),
('b', '[4,3,2,1,0,0,0,0]', 'file-2', 'Water the ficus.', '{}');
