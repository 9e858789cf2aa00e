-- langchain-postgres 0.0.19, 2026-11-27: its own statements and rows, recorded by tests/frameworks/record.py.
-- table: langchain_pg_embedding
-- embedded: {"key": ["70f27bdc-4e97-41f3-8e14-2eb5ca17617d"], "text": "Refunds are paid within five days."}
-- embedded: {"key": ["865dc092-6869-4915-849d-20c7954ba796"], "text": "Water the ficus\nonce a week, never more."}
-- embedded: {"key": ["a3105ac3-bbb5-4952-9fa4-0abc53b40a72"], "text": "The night train leaves at 22:04 from platform 7."}
-- embedded: {"key": ["2a509266-606b-43bb-8f69-5f0458bab1ac"], "text": "Elections are held in May."}
-- embedded: {"key": ["a089a9ad-7037-47a1-97a0-d1c9a8b120c7"], "text": "The bridge opens on Friday."}
CREATE TABLE langchain_pg_collection (
	uuid UUID NOT NULL, 
	name VARCHAR NOT NULL, 
	cmetadata JSON, 
	PRIMARY KEY (uuid), 
	UNIQUE (name)
);
CREATE TABLE langchain_pg_embedding (
	id VARCHAR NOT NULL, 
	collection_id UUID, 
	embedding VECTOR, 
	document VARCHAR, 
	cmetadata JSONB, 
	PRIMARY KEY (id), 
	FOREIGN KEY(collection_id) REFERENCES langchain_pg_collection (uuid) ON DELETE CASCADE
);
CREATE INDEX ix_cmetadata_gin ON langchain_pg_embedding USING gin (cmetadata jsonb_path_ops);
INSERT INTO langchain_pg_collection ("uuid", "name", "cmetadata") VALUES ('1b9e3638-ac83-46f6-8f5a-c7ac724ec0a0', 'handbook', 'null');
INSERT INTO langchain_pg_collection ("uuid", "name", "cmetadata") VALUES ('e0990058-2295-4c8a-a0a3-9633240e504d', 'news', 'null');
INSERT INTO langchain_pg_embedding ("id", "collection_id", "embedding", "document", "cmetadata") VALUES ('2a509266-606b-43bb-8f69-5f0458bab1ac', 'e0990058-2295-4c8a-a0a3-9633240e504d', '[4,1,1,1,1,1,1,1]', 'Elections are held in May.', '{"page": 1, "title": "Refunds"}');
INSERT INTO langchain_pg_embedding ("id", "collection_id", "embedding", "document", "cmetadata") VALUES ('70f27bdc-4e97-41f3-8e14-2eb5ca17617d', '1b9e3638-ac83-46f6-8f5a-c7ac724ec0a0', '[1,1,1,1,1,1,1,1]', 'Refunds are paid within five days.', '{"page": 1, "title": "Refunds"}');
INSERT INTO langchain_pg_embedding ("id", "collection_id", "embedding", "document", "cmetadata") VALUES ('865dc092-6869-4915-849d-20c7954ba796', '1b9e3638-ac83-46f6-8f5a-c7ac724ec0a0', '[2,1,1,1,1,1,1,1]', 'Water the ficus
once a week, never more.', '{"page": 2, "title": "Plants"}');
INSERT INTO langchain_pg_embedding ("id", "collection_id", "embedding", "document", "cmetadata") VALUES ('a089a9ad-7037-47a1-97a0-d1c9a8b120c7', 'e0990058-2295-4c8a-a0a3-9633240e504d', '[5,1,1,1,1,1,1,1]', 'The bridge opens on Friday.', '{"page": 2, "title": "Plants"}');
INSERT INTO langchain_pg_embedding ("id", "collection_id", "embedding", "document", "cmetadata") VALUES ('a3105ac3-bbb5-4952-9fa4-0abc53b40a72', '1b9e3638-ac83-46f6-8f5a-c7ac724ec0a0', '[3,1,1,1,1,1,1,1]', 'The night train leaves at 22:04 from platform 7.', '{"page": 3, "title": "Trains"}');
