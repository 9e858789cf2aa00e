-- What is about to take a side away, from its first step to its drop: the pointer does not move to that side meanwhile.
ALTER TABLE embedtui.route ADD COLUMN ending text CHECK (ending IN ('cleanup', 'abort'));

-- Partitions whose rows have been looked through, by the trigger that captures them since: a partition attached (again)
-- has another trigger, and may bring rows that nobody embedded.
CREATE TABLE embedtui.partition (
    migration integer NOT NULL REFERENCES embedtui.migration,
    leaf oid NOT NULL,
    trigger oid NOT NULL,
    PRIMARY KEY (migration, leaf)
);
