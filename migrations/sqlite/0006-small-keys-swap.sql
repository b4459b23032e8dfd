-- What: puts the new tables of 0005 in the places of the old ones, once portions/ has copied all rows.
-- Why: see 0005.
-- Locks: nothing that is in use: the server is not running (W13).
-- Space: old and new rows stand in the file side by side, so that it grows to about twice its size. It does not
--   shrink afterwards: what comes next goes into the pages of the old rows.
-- Interrupted: while rows are copied, it goes on behind the last one; from here on it is one transaction. Where the
--   mark of it is lost, the rows are copied once more.

INSERT INTO sqlite_sequence (name, seq)
SELECT 'sessions_new', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'sessions_new');

-- Ids are never given again, those of erased sessions neither.
UPDATE sqlite_sequence
   SET seq = max(seq, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'sessions'), 0))
 WHERE name = 'sessions_new';

DROP TABLE IF EXISTS messages;

ALTER TABLE messages_new RENAME TO messages;

DROP TABLE IF EXISTS agent_switches;

ALTER TABLE agent_switches_new RENAME TO agent_switches;

DROP TABLE IF EXISTS pending_approvals;

ALTER TABLE pending_approvals_new RENAME TO pending_approvals;

DROP TABLE IF EXISTS turn_events;

ALTER TABLE turn_events_new RENAME TO turn_events;

DROP TABLE IF EXISTS sessions;

ALTER TABLE sessions_new RENAME TO sessions;

-- Lists, latest activity first: a live session stands in the first index, a deleted one in the second. The first also
-- serves the cleanup, owner by owner.
CREATE INDEX IF NOT EXISTS sessions_live
    ON sessions (owner, last_activity, id) WHERE deleted_at IS NULL;

CREATE INDEX IF NOT EXISTS sessions_deleted
    ON sessions (owner, last_activity, id) WHERE deleted_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS sessions_erasable
    ON sessions (deleted_at, id) WHERE deleted_at IS NOT NULL;

-- What is left to erase.
CREATE INDEX IF NOT EXISTS sessions_erased ON sessions (id) WHERE owner IS NULL;

CREATE INDEX IF NOT EXISTS sessions_cut ON sessions (id) WHERE cut_through > 0;

CREATE INDEX IF NOT EXISTS pending_approvals_status
    ON pending_approvals (session_db_id, status, created_at, call_id);

-- How many wait, of all sessions.
CREATE INDEX IF NOT EXISTS pending_approvals_waiting
    ON pending_approvals (expires_at) WHERE status = 'pending';
