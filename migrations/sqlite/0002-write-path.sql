-- What: the two tables that let a write be repeated: the keys of requests already answered (W12)
--   and, for each running instance, the number of its last batch (W7).
-- Why: the first release.
-- Locks: nothing that exists; both tables are new.
-- Interrupted: one transaction, and each statement may be repeated.

CREATE TABLE IF NOT EXISTS idempotency_keys (
    owner       text NOT NULL,
    key         text NOT NULL,
    fingerprint text NOT NULL,
    reply       text NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (owner, key)
);

-- The cleanup.
CREATE INDEX IF NOT EXISTS idempotency_keys_created ON idempotency_keys (created_at);

CREATE TABLE IF NOT EXISTS writers (
    id         text PRIMARY KEY,
    batch      integer NOT NULL,
    written_at timestamptz NOT NULL
) WITHOUT ROWID;
