-- Column lists of a kind. A blob names the list that it was written with, so
-- columns can be added without touching what is there.
CREATE TABLE layout(
  id   INTEGER PRIMARY KEY,
  kind TEXT NOT NULL,
  cols TEXT NOT NULL, -- JSON ["cpu","mem",…]
  UNIQUE(kind, cols)) STRICT;

-- One thing in one life: a server from its start, a consumer from its creation.
CREATE TABLE entity(
  id       INTEGER PRIMARY KEY AUTOINCREMENT, -- < 2^32, never reused
  kind     TEXT NOT NULL,
  name     TEXT NOT NULL,
  epoch    INTEGER NOT NULL,
  first_ms INTEGER NOT NULL,
  last_ms  INTEGER NOT NULL, -- of what is sealed
  UNIQUE(kind, name, epoch)) STRICT;
CREATE INDEX entity_last ON entity(last_ms);

-- What is not sealed yet, one row per look: the durability of the open slot.
CREATE TABLE tick(id INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, d BLOB NOT NULL) STRICT;
CREATE TABLE acks(id INTEGER PRIMARY KEY AUTOINCREMENT, slot INTEGER NOT NULL, d BLOB NOT NULL) STRICT;

-- Sealed slots: k = slot << 32 | entity, so inserts append and retention is a
-- prefix delete. Rowid tables: a leaf page holds almost a page of blob.
CREATE TABLE raw(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT; -- every look
CREATE TABLE r1(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;  -- 1 min, 2 h a row
CREATE TABLE r2(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;  -- 10 min, 6 h a row
CREATE TABLE r3(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;  -- 1 h, 7 d a row
CREATE TABLE h0(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;  -- sketches of 10 s, 10 min a row
CREATE TABLE h1(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;  -- 5 min, 2 h a row
CREATE TABLE h2(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;  -- 1 h, 1 d a row

CREATE TABLE event(
  id     INTEGER PRIMARY KEY,
  ts     INTEGER NOT NULL,
  kind   TEXT NOT NULL,
  sev    TEXT NOT NULL,
  entity TEXT NOT NULL,
  text   TEXT NOT NULL) STRICT;
CREATE INDEX event_ts ON event(ts);

-- How far the jobs got, in ms.
CREATE TABLE mark(k TEXT PRIMARY KEY, v INTEGER NOT NULL) STRICT, WITHOUT ROWID;
