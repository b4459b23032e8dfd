-- Forgets where forks come from: they stay. A copy that is not finished is erased as a session that is gone.

DROP TABLE IF EXISTS unfinished_forks;

DROP TABLE IF EXISTS forked_sessions;
