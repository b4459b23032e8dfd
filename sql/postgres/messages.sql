-- The messages of the sessions. One that is stored never changes.
--
-- What was cut away may lie here until it is erased: whatever lists messages leaves out those that the session's
-- row says are cut. `size` is the bytes of a row's texts: pages are bounded by it before the texts are read.
-- Differs because on SQLite every row has it; on Postgres those of an older version have none: it is computed.

-- name: insert_message(session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra, size)
-- execute: copy messages
INSERT INTO messages (session_db_id, seq, role, content, timestamp, name, tool_call_id,
                      tool_calls, token_count, metadata, extra, size)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: erase_messages(session_db_id, after_seq, through_seq)
DELETE FROM messages WHERE session_db_id = $1 AND seq > $2 AND seq <= $3;

-- name: sum_messages_after(session_db_id, after_seq, through_seq, cut_after, cut_through, limit)
-- What a cut takes away: the first messages behind one, up to another. last_seq is the last that was summed.
SELECT count(*) AS message_count, coalesce(sum(token_count), 0)::bigint AS token_total,
       coalesce(sum(size), 0)::bigint AS size, max(seq) AS last_seq
  FROM (SELECT seq, token_count,
               coalesce(size, pg_column_size(content) + coalesce(pg_column_size(tool_calls), 0)
                              + coalesce(pg_column_size(metadata), 0) + coalesce(pg_column_size(extra), 0)) AS size
          FROM messages
         WHERE session_db_id = $1 AND seq > $2 AND seq <= $3
           AND NOT (seq > $4 AND seq <= $5)
         ORDER BY seq
         LIMIT $6) AS taken;

-- name: list_messages_to_erase(session_db_id, after_seq, limit)
-- About how many bytes each takes. Where no size was stored it is what the row takes on disk: the texts are not read.
SELECT seq, coalesce(size, pg_column_size(content) + coalesce(pg_column_size(tool_calls), 0)
                      + coalesce(pg_column_size(metadata), 0) + coalesce(pg_column_size(extra), 0)) AS size
  FROM messages
 WHERE session_db_id = $1 AND seq > $2
 ORDER BY seq
 LIMIT $3;

-- name: list_messages_after(session_db_id, after_seq, limit)
-- The first messages behind one, for the writer.
SELECT seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra
  FROM messages
 WHERE session_db_id = $1 AND seq > $2
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = $1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = $1))
 ORDER BY seq
 LIMIT $3;

-- name: list_page_after(session_db_id, after_seq, through_seq, role, limit, max_bytes)
-- Messages behind one, up to another, oldest first; of any role where it is null. None at all where they have more
-- bytes together: then they are measured first.
-- Differs because Postgres keeps large values apart, and reads none of them before it sends the row; SQLite
-- would read them as it fills a page.
WITH page AS MATERIALIZED (
    SELECT seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra,
           coalesce(size, octet_length(content::text) + coalesce(octet_length(name::text), 0)
                + coalesce(octet_length(tool_call_id::text), 0)
                + coalesce(octet_length(tool_calls::text), 0)
                + coalesce(octet_length(metadata::text), 0)
                + coalesce(octet_length(extra::text), 0)) AS size
      FROM messages
     WHERE session_db_id = $1 AND seq > $2 AND seq <= $3
       AND ($4::text IS NULL OR role = $4)
       AND (seq <= (SELECT cut_after FROM sessions WHERE id = $1)
            OR seq > (SELECT cut_through FROM sessions WHERE id = $1))
     ORDER BY seq
     LIMIT $5
)
SELECT seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra
  FROM page
 WHERE (SELECT sum(size)::bigint FROM page) <= $6
 ORDER BY seq;

-- name: measure_page_after(session_db_id, after_seq, through_seq, role, limit)
-- The sizes of the same.
SELECT coalesce(size, octet_length(content::text) + coalesce(octet_length(name::text), 0)
                + coalesce(octet_length(tool_call_id::text), 0)
                + coalesce(octet_length(tool_calls::text), 0)
                + coalesce(octet_length(metadata::text), 0)
                + coalesce(octet_length(extra::text), 0)) AS size
  FROM messages
 WHERE session_db_id = $1 AND seq > $2 AND seq <= $3
   AND ($4::text IS NULL OR role = $4)
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = $1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = $1))
 ORDER BY seq
 LIMIT $5;

-- name: list_page_before(session_db_id, after_seq, through_seq, role, limit, max_bytes)
-- The same, latest first.
WITH page AS MATERIALIZED (
    SELECT seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra,
           coalesce(size, octet_length(content::text) + coalesce(octet_length(name::text), 0)
                + coalesce(octet_length(tool_call_id::text), 0)
                + coalesce(octet_length(tool_calls::text), 0)
                + coalesce(octet_length(metadata::text), 0)
                + coalesce(octet_length(extra::text), 0)) AS size
      FROM messages
     WHERE session_db_id = $1 AND seq > $2 AND seq <= $3
       AND ($4::text IS NULL OR role = $4)
       AND (seq <= (SELECT cut_after FROM sessions WHERE id = $1)
            OR seq > (SELECT cut_through FROM sessions WHERE id = $1))
     ORDER BY seq DESC
     LIMIT $5
)
SELECT seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra
  FROM page
 WHERE (SELECT sum(size)::bigint FROM page) <= $6
 ORDER BY seq DESC;

-- name: measure_page_before(session_db_id, after_seq, through_seq, role, limit)
SELECT coalesce(size, octet_length(content::text) + coalesce(octet_length(name::text), 0)
                + coalesce(octet_length(tool_call_id::text), 0)
                + coalesce(octet_length(tool_calls::text), 0)
                + coalesce(octet_length(metadata::text), 0)
                + coalesce(octet_length(extra::text), 0)) AS size
  FROM messages
 WHERE session_db_id = $1 AND seq > $2 AND seq <= $3
   AND ($4::text IS NULL OR role = $4)
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = $1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = $1))
 ORDER BY seq DESC
 LIMIT $5;

-- name: measure_page_at(session_db_id, role, offset, limit)
-- The numbers and sizes of a numbered page, for clients that count pages: its cost grows with the number.
SELECT seq, coalesce(size, octet_length(content::text) + coalesce(octet_length(name::text), 0)
                + coalesce(octet_length(tool_call_id::text), 0)
                + coalesce(octet_length(tool_calls::text), 0)
                + coalesce(octet_length(metadata::text), 0)
                + coalesce(octet_length(extra::text), 0)) AS size
  FROM messages
 WHERE session_db_id = $1 AND ($2::text IS NULL OR role = $2)
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = $1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = $1))
 ORDER BY seq
 OFFSET $3 LIMIT $4;

-- name: find_last_message_time(session_db_id, through_seq)
-- When the last message up to a number was sent.
SELECT timestamp
  FROM messages
 WHERE session_db_id = $1 AND seq <= $2
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = $1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = $1))
 ORDER BY seq DESC
 LIMIT 1;

-- name: list_open_ends(ends)
-- Of each of the sessions [[session_db_id, seq, cut_after, cut_through], …], as if it ended with that message, the
-- last message of a user or an assistant and what follows it: where that message calls tools, the calls and their
-- results.
SELECT m.session_db_id, m.seq, m.role, m.tool_call_id, m.tool_calls
  FROM json_array_elements($1::json) AS k (part)
  JOIN messages AS m
    ON m.session_db_id = (k.part ->> 0)::bigint
   AND m.seq <= (k.part ->> 1)::bigint
   AND NOT (m.seq > (k.part ->> 2)::bigint AND m.seq <= (k.part ->> 3)::bigint)
   AND m.seq >= (SELECT seq
                   FROM messages
                  WHERE session_db_id = (k.part ->> 0)::bigint AND seq <= (k.part ->> 1)::bigint
                    AND NOT (seq > (k.part ->> 2)::bigint AND seq <= (k.part ->> 3)::bigint)
                    AND role IN ('user', 'assistant')
                  ORDER BY seq DESC
                  LIMIT 1)
 ORDER BY m.session_db_id, m.seq;
