-- Forgets which sessions were imported: they stay, and an import that was interrupted cannot go on.

DROP TABLE IF EXISTS imported_sessions;
