-- mem0ai 2.2.1, 2026-11-27: its own statements and rows, recorded by tests/frameworks/record.py.
-- table: mem0
-- embedded: {"key": ["43b34bd7-8ad7-40b8-b4df-e13def609c6d"], "text": "Refunds are paid within five days."}
-- embedded: {"key": ["2e55009e-50b0-4950-bbe3-55a5ff3a994e"], "text": "Water the ficus\nonce a week, never more."}
-- embedded: {"key": ["a651bbc6-6167-4848-803f-3220a1135edd"], "text": "The night train leaves at 22:04 from platform 7."}
CREATE TABLE IF NOT EXISTS "mem0" (
                    id UUID PRIMARY KEY,
                    vector vector(8),
                    payload JSONB
                );
CREATE INDEX IF NOT EXISTS "mem0_hnsw_idx" ON "mem0"
                    USING hnsw (vector vector_cosine_ops);
CREATE INDEX IF NOT EXISTS "mem0_text_lemmatized_idx" ON "mem0"
                USING gin(to_tsvector('simple', payload->>'text_lemmatized'));
INSERT INTO mem0 ("id", "vector", "payload") VALUES ('2e55009e-50b0-4950-bbe3-55a5ff3a994e', '[2,1,1,1,1,1,1,1]', E'{"data": "Water the ficus\\nonce a week, never more.", "hash": "ed7c592928b71a7d97a57eda2aa2a112", "role": "user", "user_id": "ada", "created_at": "2026-11-27T19:27:14.466397+00:00", "updated_at": "2026-11-27T19:27:14.466397+00:00", "text_lemmatized": "Water the ficus\\nonce a week, never more."}');
INSERT INTO mem0 ("id", "vector", "payload") VALUES ('43b34bd7-8ad7-40b8-b4df-e13def609c6d', '[1,1,1,1,1,1,1,1]', '{"data": "Refunds are paid within five days.", "hash": "ac672ce63dbb10d39c738a4d3bcf060b", "role": "user", "user_id": "ada", "created_at": "2026-11-27T19:27:14.405285+00:00", "updated_at": "2026-11-27T19:27:14.405285+00:00", "text_lemmatized": "Refunds are paid within five days."}');
INSERT INTO mem0 ("id", "vector", "payload") VALUES ('a651bbc6-6167-4848-803f-3220a1135edd', '[3,1,1,1,1,1,1,1]', '{"data": "The night train leaves at 22:04 from platform 7.", "hash": "2b92878a936fa3dd06258f0ef3ab4526", "role": "user", "user_id": "bob", "created_at": "2026-11-27T19:27:14.508400+00:00", "updated_at": "2026-11-27T19:27:14.508400+00:00", "text_lemmatized": "The night train leaves at 22:04 from platform 7."}');
