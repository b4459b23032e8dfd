-- Forgets which sessions have no agent context of their own: all of them have the one that they began with.

DROP TABLE IF EXISTS bare_sessions;

DROP INDEX IF EXISTS pending_approvals_call;
