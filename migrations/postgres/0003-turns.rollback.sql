-- Forgets the turns and their events; the messages that they brought stay.

DROP INDEX IF EXISTS pending_approvals_waiting;

DROP TABLE IF EXISTS turn_events;

DROP TABLE IF EXISTS turns;
