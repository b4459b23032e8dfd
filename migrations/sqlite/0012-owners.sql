-- What: an index of the tokens by owner.
-- Why: when all that an owner has is erased, the tokens are found while no other write can be done.
-- Locks: nothing that is in use: the server is not running (W13).
-- Interrupted: one statement, and it may be repeated.

CREATE INDEX IF NOT EXISTS tokens_owner ON tokens (owner);
