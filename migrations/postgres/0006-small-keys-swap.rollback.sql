-- Makes the two indexes again that 0006 dropped (DROP INDEX).

CREATE INDEX IF NOT EXISTS messages_role ON messages (session_db_id, role, seq);

CREATE INDEX IF NOT EXISTS sessions_idle
    ON sessions (last_activity, id) WHERE deleted_at IS NULL;
