-- What: an index of the tokens by owner.
-- Why: when all that an owner has is erased, the tokens are found while no other write can be done.
-- Locks: tokens against writes while the index is made.
-- Interrupted: one statement, and it may be repeated.

CREATE INDEX IF NOT EXISTS tokens_owner ON tokens (owner);
