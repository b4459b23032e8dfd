-- One row an instance: the number of the last batch that it stored (W7).

-- name: raise_batch(id, batch, written_at)
-- In the batch's own transaction: the batch is stored if, and only if, its number is.
INSERT INTO writers (id, batch, written_at)
VALUES (?1, ?2, ?3)
    ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, written_at = excluded.written_at;

-- name: lock_batch(id, written_at)
-- The number of the last batch that is in. Here nobody else can hold the row: the same
-- statement as on Postgres, for the same answer.
INSERT INTO writers (id, batch, written_at)
VALUES (?1, 0, ?2)
    ON CONFLICT (id) DO UPDATE SET batch = writers.batch
RETURNING batch;

-- name: delete_writer(id)
DELETE FROM writers WHERE id = ?1;

-- name: delete_old_writers(written_before)
-- The rows of instances that died long ago. Differs because here only one lives, and nobody else deletes.
DELETE FROM writers WHERE written_at < ?1;
