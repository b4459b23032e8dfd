-- Puts the old shapes back, with all rows but those that were waiting to be erased. One transaction.

DELETE FROM turns WHERE session_db_id IN (SELECT id FROM sessions WHERE owner IS NULL);

DELETE FROM agent_contexts WHERE session_db_id IN (SELECT id FROM sessions WHERE owner IS NULL);

DELETE FROM sessions WHERE owner IS NULL;

CREATE TABLE IF NOT EXISTS messages_old (
    session_db_id integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq           integer NOT NULL,
    role          text NOT NULL,
    content       text NOT NULL,
    timestamp     timestamptz NOT NULL,
    name          text,
    tool_call_id  text,
    tool_calls    text,
    token_count   integer,
    metadata      text,
    -- The fields that we do not know, as one object.
    extra         text,
    PRIMARY KEY (session_db_id, seq)
) WITHOUT ROWID;

INSERT INTO messages_old (session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls,
            token_count, metadata, extra)
SELECT session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls,
       token_count, metadata, extra
  FROM messages
 WHERE NOT EXISTS (SELECT 1
                     FROM sessions AS s
                    WHERE s.id = session_db_id AND seq > s.cut_after AND seq <= s.cut_through)
   AND session_db_id IN (SELECT id FROM sessions);

CREATE TABLE IF NOT EXISTS agent_switches_old (
    session_db_id integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    n             integer NOT NULL,
    from_agent    text NOT NULL,
    to_agent      text NOT NULL,
    switched_at   timestamptz NOT NULL,
    reason        text,
    metadata      text NOT NULL,
    PRIMARY KEY (session_db_id, n)
) WITHOUT ROWID;

INSERT INTO agent_switches_old (session_db_id, n, from_agent, to_agent, switched_at, reason, metadata)
SELECT session_db_id, n, from_agent, to_agent, switched_at, reason, metadata
  FROM agent_switches
 WHERE session_db_id IN (SELECT id FROM sessions);

CREATE TABLE IF NOT EXISTS pending_approvals_old (
    session_db_id      integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    call_id            text NOT NULL,
    tool_name          text NOT NULL,
    arguments          text NOT NULL,
    reason             text,
    status             text NOT NULL,
    created_at         timestamptz NOT NULL,
    expires_at         timestamptz,
    decided_at         timestamptz,
    modified_arguments text,
    feedback           text,
    PRIMARY KEY (session_db_id, call_id)
) WITHOUT ROWID;

INSERT INTO pending_approvals_old (session_db_id, call_id, tool_name, arguments, reason, status, created_at,
            expires_at, decided_at, modified_arguments, feedback)
SELECT session_db_id, call_id, tool_name, arguments, reason, status, created_at,
       expires_at, decided_at, modified_arguments, feedback
  FROM pending_approvals
 WHERE session_db_id IN (SELECT id FROM sessions);

CREATE TABLE IF NOT EXISTS turn_events_old (
    session_db_id integer NOT NULL,
    turn_n        integer NOT NULL,
    n             integer NOT NULL,
    kind          text NOT NULL,
    data          text NOT NULL,
    PRIMARY KEY (session_db_id, turn_n, n),
    FOREIGN KEY (session_db_id, turn_n) REFERENCES turns (session_db_id, n) ON DELETE CASCADE
) WITHOUT ROWID;

INSERT INTO turn_events_old (session_db_id, turn_n, n, kind, data)
SELECT session_db_id, turn_n, n, kind, data
  FROM turn_events
 WHERE session_db_id IN (SELECT id FROM sessions);

CREATE TABLE IF NOT EXISTS sessions_old (
    id              integer PRIMARY KEY AUTOINCREMENT,
    owner           text NOT NULL,
    session_id      text NOT NULL,
    title           text,
    description     text,
    metadata        text NOT NULL,
    created_at      timestamptz NOT NULL,
    last_activity   timestamptz NOT NULL,
    is_active       integer NOT NULL,
    deleted_at      timestamptz,
    -- The head, which is also the lock.
    version         integer NOT NULL,
    last_seq        integer NOT NULL,
    message_count   integer NOT NULL,
    token_total     integer NOT NULL,
    -- The version that last took messages away: what was cached before it may be gone.
    cut_version     integer NOT NULL,
    -- The version that last changed anything but added messages: what a follower has to be told of.
    changed_version integer NOT NULL,
    -- The title that a session has until somebody sets one, and the message that it comes from.
    first_user_seq  integer,
    first_user_text text,
    UNIQUE (owner, session_id)
);

INSERT INTO sessions_old (id, owner, session_id, title, description, metadata, created_at, last_activity,
            is_active, deleted_at, version, last_seq, message_count, token_total,
            cut_version, changed_version, first_user_seq, first_user_text)
SELECT id, owner, session_id, title, description, metadata, created_at, last_activity,
       is_active, deleted_at, version, last_seq, message_count, token_total,
       cut_version, changed_version, first_user_seq, first_user_text
  FROM sessions;

INSERT INTO sqlite_sequence (name, seq)
SELECT 'sessions_old', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'sessions_old');

UPDATE sqlite_sequence
   SET seq = max(seq, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'sessions'), 0))
 WHERE name = 'sessions_old';

DROP TABLE messages;

ALTER TABLE messages_old RENAME TO messages;

DROP TABLE agent_switches;

ALTER TABLE agent_switches_old RENAME TO agent_switches;

DROP TABLE pending_approvals;

ALTER TABLE pending_approvals_old RENAME TO pending_approvals;

DROP TABLE turn_events;

ALTER TABLE turn_events_old RENAME TO turn_events;

DROP TABLE sessions;

ALTER TABLE sessions_old RENAME TO sessions;

CREATE INDEX IF NOT EXISTS sessions_live
    ON sessions (owner, last_activity, id) WHERE deleted_at IS NULL;

CREATE INDEX IF NOT EXISTS sessions_deleted
    ON sessions (owner, last_activity, id) WHERE deleted_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS sessions_idle
    ON sessions (last_activity, id) WHERE deleted_at IS NULL;

CREATE INDEX IF NOT EXISTS sessions_erasable
    ON sessions (deleted_at, id) WHERE deleted_at IS NOT NULL;

CREATE INDEX IF NOT EXISTS messages_role ON messages (session_db_id, role, seq);

CREATE INDEX IF NOT EXISTS pending_approvals_status
    ON pending_approvals (session_db_id, status, created_at, call_id);

CREATE INDEX IF NOT EXISTS pending_approvals_waiting
    ON pending_approvals (expires_at) WHERE status = 'pending';
