-- What: takes away two indexes that every append moved: messages by role, and sessions by activity over all owners.
-- Why: they were a third of what an append writes. Pages of one role go through the messages by number, and the
--   cleanup goes owner by owner. Differs from SQLite, whose tables have new shapes: here large values stand apart
--   (TOAST) already, and an index holds small keys.
-- Locks: sessions and messages against everything, for an instant. Sessions first, as in every write of a running
--   instance: in the other order the two wait for each other.
-- Interrupted: one transaction, and each statement may be repeated.

DROP INDEX IF EXISTS sessions_idle;

DROP INDEX IF EXISTS messages_role;
