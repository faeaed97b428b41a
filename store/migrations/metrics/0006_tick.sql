-- What was not sealed yet, in a form that was never released and is not read
-- any more.
DELETE FROM tick;
