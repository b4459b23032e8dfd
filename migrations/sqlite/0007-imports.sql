-- What: which sessions were imported, and from where.
-- Why: an import that was interrupted goes on with the sessions that are not whole yet, and leaves alone those that
--   are; into a database that holds other sessions it imports nothing.
-- Locks: nothing: the table is new.
-- Interrupted: one statement, and it may be repeated.

CREATE TABLE IF NOT EXISTS imported_sessions (
    session_db_id integer NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    -- The URL of the source, without a password.
    source        text NOT NULL,
    -- The version of the session when all of it was stored; null until then.
    whole_version integer
);
