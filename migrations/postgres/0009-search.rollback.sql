-- Takes the tables of the search away. Messages lose nothing: applied again, their words are cut anew.

DROP TABLE IF EXISTS search_entries;

DROP TABLE IF EXISTS search_queue;

DROP TABLE IF EXISTS search_backfill;
