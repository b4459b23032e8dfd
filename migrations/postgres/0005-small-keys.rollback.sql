-- Takes the sizes away, and erases at once what was waiting for it: it may take long.

DELETE FROM messages AS m
 USING sessions AS s
 WHERE s.id = m.session_db_id AND m.seq > s.cut_after AND m.seq <= s.cut_through;

DELETE FROM sessions WHERE owner IS NULL;

DROP INDEX IF EXISTS sessions_cut;

DROP INDEX IF EXISTS sessions_erased;

ALTER TABLE sessions ALTER COLUMN owner SET NOT NULL;

ALTER TABLE sessions DROP COLUMN IF EXISTS cut_through;

ALTER TABLE sessions DROP COLUMN IF EXISTS cut_after;

ALTER TABLE sessions DROP COLUMN IF EXISTS size;

ALTER TABLE pending_approvals DROP COLUMN IF EXISTS size;

ALTER TABLE agent_switches DROP COLUMN IF EXISTS size;

ALTER TABLE messages DROP COLUMN IF EXISTS size;
