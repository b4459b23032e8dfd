-- What: the words of messages for the search, what is still to be indexed, and how far older messages are.
-- Why: a search finds words by an index. The words are cut by the program, so that both databases find the same.
-- Locks: messages against writes, for an instant: new rows refer to them.
-- Interrupted: one transaction, and each statement may be repeated.

-- An id is the time of the message in milliseconds, followed by 20 bits that tell messages of one moment apart: the
-- index lists the latest first. No positions: phrases are looked for in the texts.
CREATE TABLE IF NOT EXISTS search_entries (
    id            bigint NOT NULL PRIMARY KEY,
    session_db_id bigint NOT NULL,
    seq           bigint NOT NULL,
    words         tsvector NOT NULL,
    UNIQUE (session_db_id, seq),
    FOREIGN KEY (session_db_id, seq) REFERENCES messages (session_db_id, seq) ON DELETE CASCADE
);

CREATE INDEX IF NOT EXISTS search_entries_words ON search_entries USING gin (words);

-- The messages that a batch added: [[session_db_id, after_seq, through_seq], …].
CREATE TABLE IF NOT EXISTS search_queue (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    writer    text COLLATE "C" NOT NULL,
    queued_at timestamptz NOT NULL,
    ranges    text NOT NULL
);

-- One row: the sessions up to `through_id` were there before; those up to `after_id` are indexed.
CREATE TABLE IF NOT EXISTS search_backfill (
    id         bigint NOT NULL PRIMARY KEY,
    after_id   bigint NOT NULL,
    through_id bigint NOT NULL
);

INSERT INTO search_backfill (id, after_id, through_id)
SELECT 1, 0, coalesce(max(id), 0) FROM sessions WHERE true ON CONFLICT (id) DO NOTHING;
