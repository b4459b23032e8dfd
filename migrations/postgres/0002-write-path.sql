-- What: the two tables that let a write be repeated: the keys of requests already answered (W12)
--   and, for each running instance, the number of its last batch (W7).
-- Why: the first release.
-- Locks: nothing that exists; both tables are new.
-- Interrupted: one transaction, and each statement may be repeated.

CREATE TABLE IF NOT EXISTS idempotency_keys (
    owner       text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    reply       json NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (owner, key)
);

-- The cleanup.
CREATE INDEX IF NOT EXISTS idempotency_keys_created ON idempotency_keys (created_at);

-- fillfactor: a row is rewritten in its own page with each batch and never grows the table.
CREATE TABLE IF NOT EXISTS writers (
    id         text COLLATE "C" PRIMARY KEY,
    batch      bigint NOT NULL,
    written_at timestamptz NOT NULL
) WITH (fillfactor = 10);
