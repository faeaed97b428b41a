-- Lists that belong to a moment and are no series: k = hour << 32 | ms in it << 8
-- | topic. The first of a topic in an hour stands for itself, the others are
-- compressed with the help of it.
CREATE TABLE IF NOT EXISTS detail(k INTEGER PRIMARY KEY, d BLOB NOT NULL) STRICT;
