-- agno 3.1.10, 2026-11-27: its own statements and rows, recorded by tests/frameworks/record.py.
-- table: ai.recipes
-- embedded: {"key": ["7c332d888724dded5081d9bbd4791656"], "text": "Refunds are paid within five days."}
-- embedded: {"key": ["fe2ffe60d43330f61d8644fe21c43633"], "text": "Water the ficus\nonce a week, never more."}
-- embedded: {"key": ["c3e61cabd4be83835f1f800913e7bd7e"], "text": "The night train leaves at 22:04 from platform 7."}
CREATE SCHEMA IF NOT EXISTS ai;
CREATE TABLE ai.recipes (
	id VARCHAR NOT NULL, 
	name VARCHAR, 
	meta_data JSONB DEFAULT '{}'::jsonb, 
	filters JSONB DEFAULT '{}'::jsonb, 
	content TEXT, 
	embedding VECTOR(8), 
	usage JSONB, 
	created_at TIMESTAMP WITH TIME ZONE DEFAULT now(), 
	updated_at TIMESTAMP WITH TIME ZONE, 
	content_hash VARCHAR, 
	content_id VARCHAR, 
	user_id VARCHAR, 
	PRIMARY KEY (id)
);
CREATE INDEX idx_recipes_user_id ON ai.recipes (user_id);
CREATE INDEX idx_recipes_content_id ON ai.recipes (content_id);
CREATE INDEX idx_recipes_content_hash ON ai.recipes (content_hash);
CREATE INDEX idx_recipes_name ON ai.recipes (name);
CREATE INDEX idx_recipes_id ON ai.recipes (id);
INSERT INTO ai.recipes ("id", "name", "meta_data", "filters", "content", "embedding", "usage", "created_at", "updated_at", "content_hash", "content_id", "user_id") VALUES ('7c332d888724dded5081d9bbd4791656', 'Refunds', '{"page": 1, "title": "Refunds"}', 'null', 'Refunds are paid within five days.', '[1,1,1,1,1,1,1,1]', 'null', '2026-11-27 19:27:18.135744+00', NULL, 'hash-0', NULL, NULL);
INSERT INTO ai.recipes ("id", "name", "meta_data", "filters", "content", "embedding", "usage", "created_at", "updated_at", "content_hash", "content_id", "user_id") VALUES ('c3e61cabd4be83835f1f800913e7bd7e', 'Trains', '{"page": 3, "title": "Trains"}', 'null', 'The night train leaves at 22:04 from platform 7.', '[3,1,1,1,1,1,1,1]', 'null', '2026-11-27 19:27:18.186715+00', NULL, 'hash-2', NULL, NULL);
INSERT INTO ai.recipes ("id", "name", "meta_data", "filters", "content", "embedding", "usage", "created_at", "updated_at", "content_hash", "content_id", "user_id") VALUES ('fe2ffe60d43330f61d8644fe21c43633', 'Plants', '{"page": 2, "title": "Plants"}', 'null', 'Water the ficus
once a week, never more.', '[2,1,1,1,1,1,1,1]', 'null', '2026-11-27 19:27:18.161241+00', NULL, 'hash-1', NULL, NULL);
