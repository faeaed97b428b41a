-- The record of what was decided. Rows are only ever added; the chain of hashes
-- shows whoever went around the triggers.
CREATE TABLE journal(
  seq      INTEGER PRIMARY KEY,
  at       INTEGER NOT NULL,
  kind     TEXT NOT NULL,
  split    TEXT NOT NULL,
  change   TEXT NOT NULL,
  proposal TEXT NOT NULL,
  actor    TEXT NOT NULL,
  text     TEXT NOT NULL,
  data     BLOB, -- JSON, byte for byte
  prev     TEXT NOT NULL,
  hash     TEXT NOT NULL) STRICT;
CREATE INDEX journal_split  ON journal(split, seq);
CREATE INDEX journal_change ON journal(change, seq) WHERE change <> '';
CREATE INDEX journal_kind   ON journal(kind, seq);
CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

-- Where the chain ends, so that a missing tail is noticed as well.
CREATE TABLE journal_end(id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, hash TEXT NOT NULL) STRICT;
INSERT INTO journal_end VALUES (1, 0, '');

-- The place of a thing on the topology, for ever.
CREATE TABLE slot(key TEXT PRIMARY KEY, n INTEGER NOT NULL UNIQUE) STRICT, WITHOUT ROWID;

CREATE TABLE setting(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
