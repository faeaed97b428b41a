-- A row of r1 is one hour now: two fit on a page that one of two hours did not
-- share. Those of two cannot be told from it; what raw still has is built anew.
DELETE FROM r1;
DELETE FROM mark WHERE k = 'r1';
