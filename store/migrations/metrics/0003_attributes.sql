-- What an entity was besides its figures, from a moment on until the next row.
CREATE TABLE attr(
  entity INTEGER NOT NULL,
  since  INTEGER NOT NULL, -- ms
  d      TEXT NOT NULL,    -- JSON
  PRIMARY KEY(entity, since)) STRICT, WITHOUT ROWID;
