-- What ranks entities over a range without reading them all: one row a slot and
-- kind, k = slot << 32 | column list or topic.
CREATE TABLE top(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;

-- A row of h1 is one hour now; those of two cannot be told from it.
DELETE FROM h1;
DELETE FROM mark WHERE k = 'h1';

-- From where on there are rows of top: from the beginning, unless there were
-- measurements before there was this table.
INSERT INTO mark(k, v) SELECT 'top', 1 WHERE NOT EXISTS (SELECT 1 FROM raw);
INSERT INTO mark(k, v) SELECT 'top_acks', 1 WHERE NOT EXISTS (SELECT 1 FROM h0);
