-- What a worker waits for is in its own row and not in a table of its own: on a full disk only an update finds room.
ALTER TABLE embedtui.worker ADD COLUMN holds jsonb NOT NULL DEFAULT '[]';
DROP TABLE embedtui.hold;
-- what a thread does has an age now
UPDATE embedtui.worker SET threads = '[]';
