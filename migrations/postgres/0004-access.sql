-- What: the tokens that programs sign in with.
-- Why: a session is its owner's alone, and a token says who asks. Of the token itself only a hash is kept.
-- Locks: nothing: the table is new.
-- Interrupted: one statement, and it may be repeated.

CREATE TABLE IF NOT EXISTS tokens (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    -- SHA-256 of the token, as hexadecimal digits. It is 256 random bits: nothing slower is needed.
    hash       text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    owner      text COLLATE "C" NOT NULL,
    scope      text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz
);
