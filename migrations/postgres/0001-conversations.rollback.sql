-- Takes the conversations away, and everything in them.

DROP TABLE IF EXISTS pending_approvals;

DROP TABLE IF EXISTS agent_switches;

DROP TABLE IF EXISTS agent_contexts;

DROP TABLE IF EXISTS messages;

DROP TABLE IF EXISTS sessions;
