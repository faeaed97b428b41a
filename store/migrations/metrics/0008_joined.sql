-- Minutes by the hour, until four hours of an entity are joined in one row of
-- r1: a chart of a day then reads a quarter of the rows, and they fill their
-- pages better.
CREATE TABLE m1(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;
INSERT INTO m1(k, d) SELECT k, d FROM r1 ORDER BY k;
DELETE FROM r1;
UPDATE mark SET k = 'm1' WHERE k = 'r1';
