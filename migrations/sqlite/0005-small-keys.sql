-- What: new shapes, still empty, of the tables whose rows may hold megabytes; 0006 fills them and puts them
--   in the places of the old ones.
-- Why: the tree of a WITHOUT ROWID table compares whole rows, so that a look-up reads each large row that it
--   passes: beside 24 messages of 8 MB one took 5 ms instead of 20 µs. Now rows lie in the order of arrival, and
--   an index of small keys finds them. Small columns stand first: to reach one behind a large text is to read it.
--   Appending to 5,000 sessions in batches of 256 writes 11 KB a message instead of 41, 3.4 times as fast; the
--   last page takes 75 µs instead of 45. Of that a third is due to two indexes that every append moved, and that
--   are no more: messages by role, and sessions by activity over all owners.
-- Locks: nothing: the tables are new. The server is not running (W13).
-- Interrupted: one transaction, and each statement may be repeated.

CREATE TABLE IF NOT EXISTS messages_new (
    session_db_id integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq           integer NOT NULL,
    role          text NOT NULL,
    -- The bytes of its texts: a page is bounded by them before they are read.
    size          integer,
    timestamp     timestamptz NOT NULL,
    token_count   integer,
    name          text,
    tool_call_id  text,
    content       text NOT NULL,
    tool_calls    text,
    metadata      text,
    -- The fields that we do not know, as one object.
    extra         text,
    UNIQUE (session_db_id, seq)
);

CREATE TABLE IF NOT EXISTS agent_switches_new (
    session_db_id integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    n             integer NOT NULL,
    size          integer,
    from_agent    text NOT NULL,
    to_agent      text NOT NULL,
    switched_at   timestamptz NOT NULL,
    reason        text,
    metadata      text NOT NULL,
    UNIQUE (session_db_id, n)
);

CREATE TABLE IF NOT EXISTS pending_approvals_new (
    session_db_id      integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    call_id            text NOT NULL,
    size               integer,
    status             text NOT NULL,
    created_at         timestamptz NOT NULL,
    expires_at         timestamptz,
    decided_at         timestamptz,
    tool_name          text NOT NULL,
    arguments          text NOT NULL,
    reason             text,
    modified_arguments text,
    feedback           text,
    UNIQUE (session_db_id, call_id)
);

CREATE TABLE IF NOT EXISTS turn_events_new (
    session_db_id integer NOT NULL,
    turn_n        integer NOT NULL,
    n             integer NOT NULL,
    kind          text NOT NULL,
    data          text NOT NULL,
    UNIQUE (session_db_id, turn_n, n),
    FOREIGN KEY (session_db_id, turn_n) REFERENCES turns (session_db_id, n) ON DELETE CASCADE
);

CREATE TABLE IF NOT EXISTS sessions_new (
    id              integer PRIMARY KEY AUTOINCREMENT,
    -- Null: the session is gone, and what it leaves is erased in portions.
    owner           text,
    session_id      text NOT NULL,
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
    -- Messages that were taken away and are still to be erased: those after the first number, up to the second.
    cut_after       integer NOT NULL DEFAULT 0,
    cut_through     integer NOT NULL DEFAULT 0,
    -- The message that an untitled session is named after, and the title that it gives.
    first_user_seq  integer,
    -- The bytes of its texts: a page is bounded by them before they are read.
    size            integer,
    first_user_text text,
    title           text,
    description     text,
    metadata        text NOT NULL,
    UNIQUE (owner, session_id)
);

-- Where 0006 was interrupted between two of its statements, an old table is gone and the new one holds its rows.

CREATE TABLE IF NOT EXISTS messages AS SELECT * FROM messages_new WHERE false;

CREATE TABLE IF NOT EXISTS agent_switches AS SELECT * FROM agent_switches_new WHERE false;

CREATE TABLE IF NOT EXISTS pending_approvals AS SELECT * FROM pending_approvals_new WHERE false;

CREATE TABLE IF NOT EXISTS turn_events AS SELECT * FROM turn_events_new WHERE false;

CREATE TABLE IF NOT EXISTS sessions AS SELECT * FROM sessions_new WHERE false;
