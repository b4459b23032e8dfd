-- The tokens that programs sign in with, each by its hash.

-- name: insert_token(id, hash, name, owner, scope, created_at, expires_at)
INSERT INTO tokens (id, hash, name, owner, scope, created_at, expires_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7);

-- name: list_named_tokens(ids)
-- The tokens of [id, …].
SELECT t.id, t.hash, t.name, t.owner, t.scope, t.created_at, t.expires_at, t.revoked_at
  FROM json_each(?1) AS k
  JOIN tokens AS t ON t.id = k.value;

-- name: list_tokens()
-- All of them, also those revoked, but for the one that stands for erased ones; a person asks.
SELECT id, name, owner, scope, created_at, expires_at, revoked_at
  FROM tokens
 WHERE id <> ''
 ORDER BY created_at, id;

-- name: find_any_token()
-- A row, if a token was ever made.
SELECT 1 AS found FROM tokens LIMIT 1;

-- name: revoke_token(id, revoked_at)
-- Once: the time of the first revocation stays.
UPDATE tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL;
