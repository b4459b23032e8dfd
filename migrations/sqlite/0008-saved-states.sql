-- What: an index of approvals by call, and the table of sessions without an agent context of their own.
-- Why: the names of runtime.compat find an approval by its call alone, in any session, and know sessions that nobody
--   has saved a context for.
-- Locks: nothing that is in use: the server is not running (W13).
-- Interrupted: one transaction, and each statement may be repeated.

CREATE INDEX IF NOT EXISTS pending_approvals_call ON pending_approvals (call_id);

CREATE TABLE IF NOT EXISTS bare_sessions (
    session_db_id integer PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE
);
