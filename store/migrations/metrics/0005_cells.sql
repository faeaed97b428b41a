-- Roll-ups of a form that was never released and is not read any more.
DELETE FROM r1 WHERE substr(d, 1, 1) = x'01';
DELETE FROM r2 WHERE substr(d, 1, 1) = x'01';
DELETE FROM r3 WHERE substr(d, 1, 1) = x'01';
