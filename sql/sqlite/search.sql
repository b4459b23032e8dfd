-- What the search finds: an entry for each message with its words, and what is still to be indexed.

-- name: announce(writer, queued_at, ranges, notification)
-- In the transaction of a batch: the messages that it added, [[session_db_id, after_seq, through_seq], …]. Differs
-- because no other process serves a SQLite file: there is nobody to notify.
INSERT INTO search_queue (writer, queued_at, ranges) SELECT ?1, ?2, ?3 WHERE ?4 IS NULL;

-- name: list_search_queue(writer, queued_before, limit)
-- What this writer has added, and what another one has that is late: it may be gone.
SELECT id, ranges
  FROM search_queue
 WHERE writer = ?1 OR queued_at < ?2
 ORDER BY id
 LIMIT ?3;

-- name: find_search_progress(queued_before)
-- Whether the queue is late, and how far the messages are that were there before.
SELECT EXISTS (SELECT 1 FROM search_queue WHERE queued_at < ?1) AS is_late, after_id, through_id,
       (SELECT coalesce(max(id), 0) FROM sessions) AS last_id
  FROM search_backfill
 WHERE id = 1;

-- name: list_sessions_to_index(after_id, through_id, limit)
SELECT id, last_seq FROM sessions WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3;

-- name: list_messages_to_index(ranges)
-- The sizes of the messages of [[session_db_id, after_seq, through_seq], …].
SELECT m.session_db_id, m.seq, m.size
  FROM json_each(?1) AS k
 CROSS JOIN messages AS m
    ON m.session_db_id = k.value ->> 0 AND m.seq > k.value ->> 1 AND m.seq <= k.value ->> 2
 ORDER BY m.session_db_id, m.seq;

-- name: list_texts_to_index(places)
-- The messages [[session_db_id, seq], …]. Sessions that are being erased are left out: they would only be erased again.
SELECT m.session_db_id, m.seq, m.role, m.timestamp, m.content, m.tool_calls, s.owner, s.session_id
  FROM json_each(?1) AS k
 CROSS JOIN messages AS m ON m.session_db_id = k.value ->> 0 AND m.seq = k.value ->> 1
 CROSS JOIN sessions AS s ON s.id = m.session_db_id
 WHERE s.owner IS NOT NULL
 ORDER BY m.timestamp, m.session_db_id, m.seq;

-- name: insert_search_entry(session_db_id, seq, first_id, words)
-- With the first free id of its moment, unless the message is gone, or has an entry.
INSERT INTO search_entries (id, session_db_id, seq, words)
SELECT coalesce((SELECT max(id) + 1 FROM search_entries WHERE id >= ?3 AND id < ?3 + 1048576), ?3), ?1, ?2, ?4
 WHERE EXISTS (SELECT 1 FROM messages WHERE session_db_id = ?1 AND seq = ?2)
    ON CONFLICT (session_db_id, seq) DO NOTHING;

-- name: delete_from_search_queue(id)
DELETE FROM search_queue WHERE id = ?1;

-- name: update_search_backfill(after_id, through_id)
UPDATE search_backfill SET after_id = ?1, through_id = ?2 WHERE id = 1;

-- name: list_word_segments()
-- The parts of the index of words. Removed words stand in old parts until these are merged, where SQLite cannot
-- remove them at once.
SELECT DISTINCT segid FROM search_words_idx WHERE sqlite_version() < '3.42';

-- name: merge_word_segments(pages)
-- Merges some pages: of all parts where the number is negative, then of those whose merging has begun.
INSERT INTO search_words (search_words, rank) VALUES ('merge', ?1);

-- name: list_search_candidates(words, below_id, from_id, limit, owner, session_id, role, agent, after, before)
-- The latest entries that have all words, [[word, is_prefix], …], below one id, and whether each is what is looked
-- for: live, of this owner, and of this session, role, agent and time where they are given.
SELECT c.id, e.session_db_id, e.seq, s.session_id, m.role, m.timestamp, m.size,
       coalesce(s.title, s.first_user_text) AS title,
       s.owner = ?5 AND s.deleted_at IS NULL AND NOT (m.seq > s.cut_after AND m.seq <= s.cut_through)
       AND (?6 IS NULL OR s.session_id = ?6) AND (?7 IS NULL OR m.role = ?7)
       AND (?8 IS NULL OR a.current_agent = ?8)
       AND (?9 IS NULL OR m.timestamp >= ?9) AND (?10 IS NULL OR m.timestamp < ?10) AS fits
  FROM (SELECT rowid AS id
          FROM search_words
         WHERE search_words MATCH (SELECT group_concat('"' || (value ->> 0) || '"' || iif(value ->> 1, ' *', ''), ' AND ')
                                     FROM json_each(?1))
           AND rowid < ?2 AND rowid >= ?3
         ORDER BY rowid DESC
         LIMIT ?4) AS c
 CROSS JOIN search_entries AS e ON e.id = c.id
 CROSS JOIN messages AS m ON m.session_db_id = e.session_db_id AND m.seq = e.seq
 CROSS JOIN sessions AS s ON s.id = e.session_db_id
  LEFT JOIN agent_contexts AS a ON a.session_db_id = s.id
 ORDER BY c.id DESC;

-- name: find_search_entry(owner, session_id, seq)
-- Where a page goes on: the entry of the last message of the one before.
SELECT e.id
  FROM sessions AS s
  JOIN search_entries AS e ON e.session_db_id = s.id
 WHERE s.owner = ?1 AND s.session_id = ?2 AND e.seq = ?3;

-- name: list_search_texts(places)
-- The texts of the messages [[session_db_id, seq], …].
SELECT m.session_db_id, m.seq, m.content, m.tool_calls
  FROM json_each(?1) AS k
 CROSS JOIN messages AS m ON m.session_db_id = k.value ->> 0 AND m.seq = k.value ->> 1;
