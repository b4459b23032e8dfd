-- Forgets which requests were answered and which batches are in.

DROP TABLE IF EXISTS idempotency_keys;

DROP TABLE IF EXISTS writers;
