-- What: which sessions were copied from another one, and the copies that are not finished.
-- Why: a fork shows where it comes from, also when the original is gone. A long copy is made in portions in a session
--   that nobody sees; where its process dies, what is left is erased.
-- Locks: nothing: the tables are new.
-- Interrupted: one transaction, and each statement may be repeated.

CREATE TABLE IF NOT EXISTS forked_sessions (
    session_db_id   bigint PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    forked_from_id  text COLLATE "C" NOT NULL,
    forked_from_seq bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS unfinished_forks (
    session_db_id bigint PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    instance      text COLLATE "C" NOT NULL
);
