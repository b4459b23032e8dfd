-- Forgets the tokens: whoever came in by one needs another.

DROP TABLE IF EXISTS tokens;
