-- What: the conversations themselves: sessions with their heads, messages, who holds the
--   conversation and how it was handed over, and the tool calls that wait for a person.
-- Why: the first release.
-- Locks: nothing that exists; every table is new.
-- Interrupted: one transaction, and each statement may be repeated.
--
-- Free text and structures of the client stand as JSON text, as they do on Postgres, where a
-- json column is what has room for U+0000 and for numbers of any size.
-- The declared type timestamptz is what the driver's converter goes by: the value is text,
-- RFC 3339 in UTC with six decimals, whose order is that of time.

CREATE TABLE IF NOT EXISTS sessions (
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

-- Lists, latest activity first: a live session stands in the first index, a deleted one in the second.
CREATE INDEX IF NOT EXISTS sessions_live
    ON sessions (owner, last_activity, id) WHERE deleted_at IS NULL;

CREATE INDEX IF NOT EXISTS sessions_deleted
    ON sessions (owner, last_activity, id) WHERE deleted_at IS NOT NULL;

-- The cleanup, over all owners.
CREATE INDEX IF NOT EXISTS sessions_idle
    ON sessions (last_activity, id) WHERE deleted_at IS NULL;

CREATE INDEX IF NOT EXISTS sessions_erasable
    ON sessions (deleted_at, id) WHERE deleted_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS messages (
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

-- Pages of one role, where that role is rare.
CREATE INDEX IF NOT EXISTS messages_role ON messages (session_db_id, role, seq);

CREATE TABLE IF NOT EXISTS agent_contexts (
    session_db_id integer PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    current_agent text NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    switch_count  integer NOT NULL,
    metadata      text NOT NULL
);

CREATE TABLE IF NOT EXISTS agent_switches (
    session_db_id integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    n             integer NOT NULL,
    from_agent    text NOT NULL,
    to_agent      text NOT NULL,
    switched_at   timestamptz NOT NULL,
    reason        text,
    metadata      text NOT NULL,
    PRIMARY KEY (session_db_id, n)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS pending_approvals (
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

CREATE INDEX IF NOT EXISTS pending_approvals_status
    ON pending_approvals (session_db_id, status, created_at, call_id);
