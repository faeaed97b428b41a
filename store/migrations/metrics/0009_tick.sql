-- Without a sequence, which is a page more to write with every look.
CREATE TABLE look(id INTEGER PRIMARY KEY, ts INTEGER NOT NULL, d BLOB NOT NULL) STRICT;
INSERT INTO look(id, ts, d) SELECT id, ts, d FROM tick ORDER BY id;
DROP TABLE tick;
ALTER TABLE look RENAME TO tick;
