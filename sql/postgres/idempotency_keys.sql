-- The requests that were answered under a key, each with its reply (W12).

-- name: list_idempotency_keys(names)
-- The keys named by [[owner, key], …].
SELECT i.owner, i.key, i.fingerprint, i.reply
  FROM json_array_elements($1::json) AS k (pair)
  JOIN idempotency_keys AS i ON i.owner = k.pair ->> 0 AND i.key = k.pair ->> 1;

-- name: insert_idempotency_key(owner, key, fingerprint, reply, created_at)
INSERT INTO idempotency_keys (owner, key, fingerprint, reply, created_at)
VALUES ($1, $2, $3, $4, $5);

-- name: find_oldest_idempotency_key()
SELECT created_at FROM idempotency_keys ORDER BY created_at LIMIT 1;

-- name: delete_old_idempotency_keys(created_before, limit)
-- Some of those from before a time, the oldest first: a transaction stays short.
DELETE FROM idempotency_keys
 WHERE (owner, key) IN (SELECT owner, key
                          FROM idempotency_keys
                         WHERE created_at < $1
                         ORDER BY created_at
                         LIMIT $2);
