-- What: what pages are bounded by, what is left to erase, and sessions that are nobody's any more.
-- Why: a page is bounded in bytes before it is read, and what was cut away or erased goes in portions.
-- Locks: each table for an instant: nothing is rewritten. Rows from before have no size: it is computed when it is
--   asked for.
-- Interrupted: one transaction, and each statement may be repeated.

-- The bytes of their texts.
ALTER TABLE messages ADD COLUMN IF NOT EXISTS size bigint;

ALTER TABLE agent_switches ADD COLUMN IF NOT EXISTS size bigint;

ALTER TABLE pending_approvals ADD COLUMN IF NOT EXISTS size bigint;

ALTER TABLE sessions ADD COLUMN IF NOT EXISTS size bigint;

-- Messages that were taken away and are still to be erased: those after the first number, up to the second.
ALTER TABLE sessions ADD COLUMN IF NOT EXISTS cut_after bigint NOT NULL DEFAULT 0;

ALTER TABLE sessions ADD COLUMN IF NOT EXISTS cut_through bigint NOT NULL DEFAULT 0;

-- Null: the session is gone, and what it leaves is erased in portions.
ALTER TABLE sessions ALTER COLUMN owner DROP NOT NULL;

-- What is left to erase.
CREATE INDEX IF NOT EXISTS sessions_erased ON sessions (id) WHERE owner IS NULL;

CREATE INDEX IF NOT EXISTS sessions_cut ON sessions (id) WHERE cut_through > 0;
