-- What else is sent with a request, as the settings last had it: to be seen and compared, never to be followed. Fields
-- for documents are part of the model's identity (see models.py), so they stand in its fingerprint, too.
ALTER TABLE embedtui.model
    ADD COLUMN extra_body jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN timeout_seconds double precision NOT NULL DEFAULT 60;

-- Requests on the wire, by each worker's own count.
ALTER TABLE embedtui.worker ADD COLUMN in_flight integer NOT NULL DEFAULT 0;
