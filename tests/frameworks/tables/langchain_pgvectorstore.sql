-- langchain-postgres 0.0.19, 2026-11-27: its own statements and rows, recorded by tests/frameworks/record.py.
-- table: handbook
-- embedded: {"key": ["4fe1ae4d-ced0-4a45-90d1-7c600ef4af3d"], "text": "Refunds are paid within five days."}
-- embedded: {"key": ["04b8b839-6ee6-42d9-b7c1-0de60231cf2f"], "text": "Water the ficus\nonce a week, never more."}
-- embedded: {"key": ["458e7840-5b00-4e19-a154-3e40f9c9a0b9"], "text": "The night train leaves at 22:04 from platform 7."}
CREATE TABLE "public"."handbook"(
            "langchain_id" UUID PRIMARY KEY,
            "content" TEXT NOT NULL,
            "embedding" vector(8) NOT NULL
            ,
"title" text ,
"langchain_metadata" JSON
);
INSERT INTO handbook ("langchain_id", "content", "embedding", "title", "langchain_metadata") VALUES ('04b8b839-6ee6-42d9-b7c1-0de60231cf2f', 'Water the ficus
once a week, never more.', '[2,1,1,1,1,1,1,1]', 'Plants', '{"page": 2}');
INSERT INTO handbook ("langchain_id", "content", "embedding", "title", "langchain_metadata") VALUES ('458e7840-5b00-4e19-a154-3e40f9c9a0b9', 'The night train leaves at 22:04 from platform 7.', '[3,1,1,1,1,1,1,1]', 'Trains', '{"page": 3}');
INSERT INTO handbook ("langchain_id", "content", "embedding", "title", "langchain_metadata") VALUES ('4fe1ae4d-ced0-4a45-90d1-7c600ef4af3d', 'Refunds are paid within five days.', '[1,1,1,1,1,1,1,1]', 'Refunds', '{"page": 1}');
