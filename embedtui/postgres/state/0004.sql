-- A transaction whose changes could not be captured, and why: append-only as the queue, and beside it, since the queue
-- itself may be what is missing or locked.
CREATE TABLE embedtui.capture_fault (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
