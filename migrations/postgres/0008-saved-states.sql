-- What: an index of approvals by call, and the table of sessions without an agent context of their own.
-- Why: the names of runtime.compat find an approval by its call alone, in any session, and know sessions that nobody
--   has saved a context for.
-- Locks: pending_approvals against writes while its index is made; the table is new.
-- Interrupted: one transaction, and each statement may be repeated.

CREATE INDEX IF NOT EXISTS pending_approvals_call ON pending_approvals (call_id);

CREATE TABLE IF NOT EXISTS bare_sessions (
    session_db_id bigint PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE
);
