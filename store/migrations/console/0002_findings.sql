-- One episode of a finding a row, from its opening to its closing.
CREATE TABLE finding(
  id     INTEGER PRIMARY KEY,
  code   TEXT NOT NULL,
  kind   TEXT NOT NULL,
  name   TEXT NOT NULL,
  since  INTEGER NOT NULL,
  seen   INTEGER NOT NULL,
  closed INTEGER, -- NULL while it is open
  d      TEXT NOT NULL, -- JSON of the rest
  UNIQUE(code, kind, name, since)) STRICT;
CREATE INDEX finding_open   ON finding(since) WHERE closed IS NULL;
CREATE INDEX finding_closed ON finding(closed) WHERE closed IS NOT NULL;
CREATE INDEX finding_name   ON finding(kind, name);

-- Suppressions stand apart from the episodes: one outlives them.
CREATE TABLE suppression(
  code   TEXT NOT NULL,
  kind   TEXT NOT NULL,
  name   TEXT NOT NULL,
  by     TEXT NOT NULL,
  reason TEXT NOT NULL,
  at     INTEGER NOT NULL,
  until  INTEGER NOT NULL,
  PRIMARY KEY(code, kind, name)) STRICT, WITHOUT ROWID;
