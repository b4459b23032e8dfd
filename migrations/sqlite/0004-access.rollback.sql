-- Drops the tokens: their holders need new ones.

DROP TABLE IF EXISTS tokens;
