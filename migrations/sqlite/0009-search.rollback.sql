-- Takes the tables of the search away. Messages lose nothing: applied again, their words are cut anew.

DROP TRIGGER IF EXISTS search_entries_inserted;

DROP TRIGGER IF EXISTS search_entries_deleted;

DROP TABLE IF EXISTS search_words;

DROP TABLE IF EXISTS search_entries;

DROP TABLE IF EXISTS search_queue;

DROP TABLE IF EXISTS search_backfill;
