-- What: the labels of sessions, by which lists are filtered: agent, time of creation, whether active, and the top-level
--   members of the metadata; and the sessions that have none yet.
-- Why: each filter of a list is served by an index. An index of the sessions themselves would be moved by every append.
-- Locks: nothing that is in use: the server is not running (W13).
--   The labels are written by the server, in the background and in small transactions.
-- Interrupted: one transaction, and each statement may be repeated.

CREATE TABLE IF NOT EXISTS session_labels (
    session_db_id integer NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name          text NOT NULL,
    value         text NOT NULL,
    owner         text NOT NULL,
    PRIMARY KEY (session_db_id, name)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS session_labels_value ON session_labels (owner, name, value, session_db_id);

CREATE TABLE IF NOT EXISTS unlabelled_sessions (
    session_db_id integer PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE
);

INSERT INTO unlabelled_sessions (session_db_id)
SELECT id FROM sessions WHERE owner IS NOT NULL
    ON CONFLICT DO NOTHING;
