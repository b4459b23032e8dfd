-- Takes the new shapes away, which are empty.

DROP TABLE IF EXISTS messages_new;

DROP TABLE IF EXISTS agent_switches_new;

DROP TABLE IF EXISTS pending_approvals_new;

DROP TABLE IF EXISTS turn_events_new;

DROP TABLE IF EXISTS sessions_new;
