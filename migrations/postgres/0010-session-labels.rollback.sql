-- Forgets the labels of sessions: lists cannot be filtered.

DROP TABLE IF EXISTS unlabelled_sessions;

DROP TABLE IF EXISTS session_labels;
