-- What the search finds: an entry for each message with its words, and what is still to be indexed.

-- name: announce(writer, queued_at, ranges, notification)
-- In the transaction of a batch: the messages that it added, [[session_db_id, after_seq, through_seq], …], where they
-- are to be indexed, and the notification that wakes the followers on other instances once it is in (R2).
WITH queued AS (
    INSERT INTO search_queue (writer, queued_at, ranges) SELECT $1, $2, $3 WHERE $3::text IS NOT NULL
)
SELECT pg_notify('agent_runtime', $4::text);

-- name: list_search_queue(writer, queued_before, limit)
-- What this writer has added, and what another one has that is late: it may be gone.
SELECT id, ranges
  FROM search_queue
 WHERE writer = $1 OR queued_at < $2
 ORDER BY id
 LIMIT $3;

-- name: find_search_progress(queued_before)
-- Whether the queue is late, and how far the messages are that were there before.
SELECT EXISTS (SELECT 1 FROM search_queue WHERE queued_at < $1) AS is_late, after_id, through_id,
       (SELECT coalesce(max(id), 0) FROM sessions) AS last_id
  FROM search_backfill
 WHERE id = 1;

-- name: list_sessions_to_index(after_id, through_id, limit)
SELECT id, last_seq FROM sessions WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3;

-- name: list_messages_to_index(ranges)
-- The sizes of the messages of [[session_db_id, after_seq, through_seq], …]. Differs because rows of an older version
-- have no size.
SELECT m.session_db_id, m.seq,
       coalesce(m.size, octet_length(m.content::text) + coalesce(octet_length(m.tool_calls::text), 0))::bigint AS size
  FROM json_array_elements($1::json) AS k (part)
  JOIN messages AS m
    ON m.session_db_id = (k.part ->> 0)::bigint
   AND m.seq > (k.part ->> 1)::bigint AND m.seq <= (k.part ->> 2)::bigint
 ORDER BY m.session_db_id, m.seq;

-- name: list_texts_to_index(places)
-- The messages [[session_db_id, seq], …]. Sessions that are being erased are left out: they would only be erased again.
SELECT m.session_db_id, m.seq, m.role, m.timestamp, m.content, m.tool_calls, s.owner, s.session_id
  FROM json_array_elements($1::json) AS k (part)
  JOIN messages AS m ON m.session_db_id = (k.part ->> 0)::bigint AND m.seq = (k.part ->> 1)::bigint
  JOIN sessions AS s ON s.id = m.session_db_id
 WHERE s.owner IS NOT NULL
 ORDER BY m.timestamp, m.session_db_id, m.seq;

-- name: insert_search_entry(session_db_id, seq, first_id, words)
-- execute: arrays
-- With the first free ids of their moments, unless a message is gone, or has an entry.
INSERT INTO search_entries (id, session_db_id, seq, words)
SELECT coalesce((SELECT max(id) + 1 FROM search_entries WHERE id >= e.first_id AND id < e.first_id + 1048576), e.first_id)
       + row_number() OVER (PARTITION BY e.first_id ORDER BY e.n) - 1,
       e.session_db_id, e.seq, array_to_tsvector(string_to_array(e.words, ' '))
  FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])
       WITH ORDINALITY AS e (session_db_id, seq, first_id, words, n)
 WHERE EXISTS (SELECT 1 FROM messages AS m WHERE m.session_db_id = e.session_db_id AND m.seq = e.seq)
    ON CONFLICT (session_db_id, seq) DO NOTHING;

-- name: delete_from_search_queue(id)
-- execute: arrays
DELETE FROM search_queue WHERE id = ANY ($1::bigint[]);

-- name: update_search_backfill(after_id, through_id)
UPDATE search_backfill SET after_id = $1, through_id = $2 WHERE id = 1;

-- name: list_word_segments()
-- Differs because the index of words is Postgres's own affair, as the rows of its tables are.
SELECT 0 AS segid WHERE false;

-- name: merge_word_segments(pages)
-- Differs for the same reason: there is nothing to do.
SELECT $1::bigint WHERE false;

-- name: list_search_candidates(words, below_id, from_id, limit, owner, session_id, role, agent, after, before)
-- The latest entries that have all words, [[word, is_prefix], …], below one id, and whether each is what is looked
-- for: live, of this owner, and of this session, role, agent and time where they are given. Differs because the index
-- of words knows no order: a common word is found among the latest entries, and a rare one has few to be sorted.
WITH query AS MATERIALIZED (
    SELECT string_agg(quote_literal(k.part ->> 0) || CASE WHEN (k.part ->> 1)::boolean THEN ':*' ELSE '' END, ' & ')::tsquery
           AS words
      FROM json_array_elements($1::json) AS k (part)
), recent AS MATERIALIZED (
    SELECT id, words FROM search_entries WHERE id < $2 AND id >= $3 ORDER BY id DESC LIMIT 1000
), latest AS MATERIALIZED (
    SELECT id FROM recent WHERE words @@ (SELECT words FROM query) ORDER BY id DESC LIMIT $4
), older AS MATERIALIZED (
    SELECT id
      FROM search_entries
     WHERE words @@ (SELECT words FROM query)
       AND id < (SELECT min(id) FROM recent) AND id >= $3
       AND (SELECT count(*) FROM latest) < $4
), found AS (
    SELECT id FROM latest UNION ALL SELECT id FROM older ORDER BY id DESC LIMIT $4
)
SELECT c.id, e.session_db_id, e.seq, s.session_id, m.role, m.timestamp,
       coalesce(m.size, octet_length(m.content::text) + coalesce(octet_length(m.tool_calls::text), 0))::bigint AS size,
       coalesce(s.title, s.first_user_text) AS title,
       coalesce(s.owner = $5 AND s.deleted_at IS NULL AND NOT (m.seq > s.cut_after AND m.seq <= s.cut_through)
       AND ($6::text IS NULL OR s.session_id = $6) AND ($7::text IS NULL OR m.role = $7)
       AND ($8::text IS NULL OR a.current_agent = $8)
       AND ($9::timestamptz IS NULL OR m.timestamp >= $9) AND ($10::timestamptz IS NULL OR m.timestamp < $10), false) AS fits
  FROM found AS c
  JOIN search_entries AS e ON e.id = c.id
  JOIN messages AS m ON m.session_db_id = e.session_db_id AND m.seq = e.seq
  JOIN sessions AS s ON s.id = e.session_db_id
  LEFT JOIN agent_contexts AS a ON a.session_db_id = s.id
 ORDER BY c.id DESC;

-- name: find_search_entry(owner, session_id, seq)
-- Where a page goes on: the entry of the last message of the one before.
SELECT e.id
  FROM sessions AS s
  JOIN search_entries AS e ON e.session_db_id = s.id
 WHERE s.owner = $1 AND s.session_id = $2 AND e.seq = $3;

-- name: list_search_texts(places)
-- The texts of the messages [[session_db_id, seq], …].
SELECT m.session_db_id, m.seq, m.content, m.tool_calls
  FROM json_array_elements($1::json) AS k (part)
  JOIN messages AS m ON m.session_db_id = (k.part ->> 0)::bigint AND m.seq = (k.part ->> 1)::bigint;
