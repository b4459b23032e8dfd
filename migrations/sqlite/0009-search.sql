-- What: the words of messages for the search, what is still to be indexed, and how far older messages are.
-- Why: a search finds words by an index. The words are cut by the program, so that both databases find the same.
-- Locks: nothing that is in use: the server is not running (W13).
-- Interrupted: one transaction, and each statement may be repeated.

-- An id is the time of the message in milliseconds, followed by 20 bits that tell messages of one moment apart: the
-- index lists the latest first. Words stand once each, with a space between them.
CREATE TABLE IF NOT EXISTS search_entries (
    id            integer PRIMARY KEY,
    session_db_id integer NOT NULL,
    seq           integer NOT NULL,
    words         text NOT NULL,
    UNIQUE (session_db_id, seq),
    FOREIGN KEY (session_db_id, seq) REFERENCES messages (session_db_id, seq) ON DELETE CASCADE
);

-- Which entries have a word. No positions: phrases are looked for in the texts. The tokenizer leaves words as they
-- are: letters outside ASCII belong to words, and so does the sign that tells marks of ours from words.
CREATE VIRTUAL TABLE IF NOT EXISTS search_words USING fts5 (
    words, content = 'search_entries', content_rowid = 'id', detail = none, columnsize = 0,
    tokenize = "ascii tokenchars '@'"
);

-- What is removed leaves no trace in the index, where SQLite can do that; elsewhere the index is merged afterwards.
INSERT INTO search_words (search_words, rank)
SELECT 'secure-delete', 1 WHERE sqlite_version() >= '3.42';

-- However an entry comes and goes, with its message too, its words do as well.
CREATE TRIGGER IF NOT EXISTS search_entries_inserted AFTER INSERT ON search_entries BEGIN
    INSERT INTO search_words (rowid, words) VALUES (new.id, new.words);
END;

CREATE TRIGGER IF NOT EXISTS search_entries_deleted AFTER DELETE ON search_entries BEGIN
    INSERT INTO search_words (search_words, rowid, words) VALUES ('delete', old.id, old.words);
END;

-- The messages that a batch added: [[session_db_id, after_seq, through_seq], …].
CREATE TABLE IF NOT EXISTS search_queue (
    id        integer PRIMARY KEY AUTOINCREMENT,
    writer    text NOT NULL,
    queued_at timestamptz NOT NULL,
    ranges    text NOT NULL
);

-- One row: the sessions up to `through_id` were there before; those up to `after_id` are indexed.
CREATE TABLE IF NOT EXISTS search_backfill (
    id         integer NOT NULL PRIMARY KEY,
    after_id   integer NOT NULL,
    through_id integer NOT NULL
);

INSERT INTO search_backfill (id, after_id, through_id)
SELECT 1, 0, coalesce(max(id), 0) FROM sessions WHERE true ON CONFLICT (id) DO NOTHING;
