-- What: the labels of sessions, by which lists are filtered: agent, time of creation, whether active, and the top-level
--   members of the metadata; and the sessions that have none yet.
-- Why: each filter of a list is served by an index. An index of the sessions themselves would be moved by every append.
-- Locks: sessions against changes of their table while their ids are read; the tables are new.
--   The labels are written by the server, in the background and in small transactions.
-- Interrupted: one transaction, and each statement may be repeated.

CREATE TABLE IF NOT EXISTS session_labels (
    session_db_id bigint NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name          text COLLATE "C" NOT NULL,
    value         text COLLATE "C" NOT NULL,
    owner         text COLLATE "C" NOT NULL,
    PRIMARY KEY (session_db_id, name)
);

CREATE INDEX IF NOT EXISTS session_labels_value ON session_labels (owner, name, value, session_db_id);

CREATE TABLE IF NOT EXISTS unlabelled_sessions (
    session_db_id bigint PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE
);

INSERT INTO unlabelled_sessions (session_db_id)
SELECT id FROM sessions WHERE owner IS NOT NULL
    ON CONFLICT DO NOTHING;
