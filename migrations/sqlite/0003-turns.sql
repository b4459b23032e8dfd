-- What: the turns of the sessions, the events of each turn, and an index of the approvals that wait.
-- Why: agents are run here: a turn outlives the connection and the process that began it.
-- Locks: pending_approvals against writes while its index is made; both tables are new.
-- Interrupted: one transaction, and each statement may be repeated.

CREATE TABLE IF NOT EXISTS turns (
    session_db_id  integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- The n-th turn of its session.
    n              integer NOT NULL,
    turn_id        text NOT NULL,
    status         text NOT NULL,
    agent          text NOT NULL,
    started_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    error          text,
    input_tokens   integer NOT NULL,
    output_tokens  integer NOT NULL,
    -- The lease: which instance runs it, and how many signs of life it gave. They are counted, not timed:
    -- no two clocks have to agree on whether a turn is lost.
    instance       text NOT NULL,
    beat           integer NOT NULL,
    stop_requested integer NOT NULL,
    -- Where its events end: the number of the last one, and the characters in it if it is text.
    last_event     integer NOT NULL,
    text_length    integer NOT NULL,
    -- Whether more of its events than the last are still kept.
    events_kept    integer NOT NULL,
    PRIMARY KEY (session_db_id, n),
    UNIQUE (session_db_id, turn_id)
);

-- One turn a session at a time; and the turns to look after, whose process may have died.
CREATE UNIQUE INDEX IF NOT EXISTS turns_running ON turns (session_db_id) WHERE status = 'running';

-- The turns whose events are to be forgotten, those that ended first before all others.
CREATE INDEX IF NOT EXISTS turns_forgettable ON turns (ended_at) WHERE events_kept;

-- Events are numbered from 1 in each turn. The data of one of kind 'text' is what stands between the
-- quotes of a JSON string: it grows while the model speaks, until it is long enough. The data of every
-- other kind is JSON.
CREATE TABLE IF NOT EXISTS turn_events (
    session_db_id integer NOT NULL,
    turn_n        integer NOT NULL,
    n             integer NOT NULL,
    kind          text NOT NULL,
    data          text NOT NULL,
    PRIMARY KEY (session_db_id, turn_n, n),
    FOREIGN KEY (session_db_id, turn_n) REFERENCES turns (session_db_id, n) ON DELETE CASCADE
) WITHOUT ROWID;

-- How many wait, of all sessions.
CREATE INDEX IF NOT EXISTS pending_approvals_waiting
    ON pending_approvals (expires_at) WHERE status = 'pending';
