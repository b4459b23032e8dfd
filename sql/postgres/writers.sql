-- One row an instance: the number of the last batch that it stored (W7).

-- name: raise_batch(id, batch, written_at)
-- In the batch's own transaction: the batch is stored if, and only if, its number is.
INSERT INTO writers (id, batch, written_at)
VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, written_at = excluded.written_at;

-- name: lock_batch(id, written_at)
-- The number of the last batch that is in. Writing the row, rather than reading it, waits for a
-- transaction that still holds it, also for the one that first inserts it.
INSERT INTO writers (id, batch, written_at)
VALUES ($1, 0, $2)
    ON CONFLICT (id) DO UPDATE SET batch = writers.batch
RETURNING batch;

-- name: delete_writer(id)
DELETE FROM writers WHERE id = $1;

-- name: delete_old_writers(written_before)
-- The rows of instances that died long ago. Their connections are gone as well: by the time alone, whoever
-- has a clock that is wrong would take a living one's row, and with it the answer to a lost COMMIT (W7).
DELETE FROM writers
 WHERE written_at < $1
   AND NOT EXISTS (SELECT 1 FROM pg_stat_activity AS a WHERE a.application_name = writers.id);
