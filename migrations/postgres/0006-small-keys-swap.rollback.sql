-- Makes the two indexes again that 0006 dropped (DROP INDEX). Sessions come first, as in every write of a running
-- instance: in the other order the two wait for each other.

CREATE INDEX IF NOT EXISTS sessions_idle
    ON sessions (last_activity, id) WHERE deleted_at IS NULL;

CREATE INDEX IF NOT EXISTS messages_role ON messages (session_db_id, role, seq);
