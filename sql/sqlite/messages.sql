-- The messages of the sessions. One that is stored never changes.
--
-- What was cut away may lie here until it is erased: whatever lists messages leaves out those that the session's
-- row says are cut. `size` is the bytes of a row's texts: pages are bounded by it before the texts are read.

-- name: insert_message(session_db_id, seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra, size)
INSERT INTO messages (session_db_id, seq, role, content, timestamp, name, tool_call_id,
                      tool_calls, token_count, metadata, extra, size)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12);

-- name: erase_messages(session_db_id, after_seq, through_seq)
DELETE FROM messages WHERE session_db_id = ?1 AND seq > ?2 AND seq <= ?3;

-- name: sum_messages_after(session_db_id, after_seq, through_seq, cut_after, cut_through, limit)
-- What a cut takes away: the first messages behind one, up to another. last_seq is the last that was summed.
SELECT count(*) AS message_count, coalesce(sum(token_count), 0) AS token_total,
       coalesce(sum(size), 0) AS size, max(seq) AS last_seq
  FROM (SELECT seq, token_count,
               coalesce(size, length(CAST(content AS BLOB)) + coalesce(length(CAST(tool_calls AS BLOB)), 0)
                              + coalesce(length(CAST(metadata AS BLOB)), 0) + coalesce(length(CAST(extra AS BLOB)), 0)) AS size
          FROM messages
         WHERE session_db_id = ?1 AND seq > ?2 AND seq <= ?3
           AND NOT (seq > ?4 AND seq <= ?5)
         ORDER BY seq
         LIMIT ?6) AS taken;

-- name: list_messages_to_erase(session_db_id, after_seq, limit)
-- About how many bytes each takes.
SELECT seq, coalesce(size, length(CAST(content AS BLOB)) + coalesce(length(CAST(tool_calls AS BLOB)), 0)
                      + coalesce(length(CAST(metadata AS BLOB)), 0) + coalesce(length(CAST(extra AS BLOB)), 0)) AS size
  FROM messages
 WHERE session_db_id = ?1 AND seq > ?2
 ORDER BY seq
 LIMIT ?3;

-- name: list_messages_after(session_db_id, after_seq, limit)
-- The first messages behind one, for the writer.
SELECT seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra
  FROM messages
 WHERE session_db_id = ?1 AND seq > ?2
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
 ORDER BY seq
 LIMIT ?3;

-- name: list_page_after(session_db_id, after_seq, through_seq, role, limit, max_bytes)
-- Messages behind one, up to another, oldest first; of any role where it is null. None at all where they have more
-- bytes together: then they are measured first.
SELECT seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra
  FROM messages
 WHERE session_db_id = ?1 AND seq > ?2 AND seq <= ?3
   AND (?4 IS NULL OR role = ?4)
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
 ORDER BY seq
 LIMIT iif((SELECT sum(size)
              FROM (SELECT size
                      FROM messages
                     WHERE session_db_id = ?1 AND seq > ?2 AND seq <= ?3
                       AND (?4 IS NULL OR role = ?4)
                       AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
                            OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
                     ORDER BY seq
                     LIMIT ?5)) <= ?6, ?5, 0);

-- name: measure_page_after(session_db_id, after_seq, through_seq, role, limit)
-- The sizes of the same.
SELECT size
  FROM messages
 WHERE session_db_id = ?1 AND seq > ?2 AND seq <= ?3
   AND (?4 IS NULL OR role = ?4)
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
 ORDER BY seq
 LIMIT ?5;

-- name: list_page_before(session_db_id, after_seq, through_seq, role, limit, max_bytes)
-- The same, latest first.
SELECT seq, role, content, timestamp, name, tool_call_id, tool_calls, token_count, metadata, extra
  FROM messages
 WHERE session_db_id = ?1 AND seq > ?2 AND seq <= ?3
   AND (?4 IS NULL OR role = ?4)
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
 ORDER BY seq DESC
 LIMIT iif((SELECT sum(size)
              FROM (SELECT size
                      FROM messages
                     WHERE session_db_id = ?1 AND seq > ?2 AND seq <= ?3
                       AND (?4 IS NULL OR role = ?4)
                       AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
                            OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
                     ORDER BY seq DESC
                     LIMIT ?5)) <= ?6, ?5, 0);

-- name: measure_page_before(session_db_id, after_seq, through_seq, role, limit)
SELECT size
  FROM messages
 WHERE session_db_id = ?1 AND seq > ?2 AND seq <= ?3
   AND (?4 IS NULL OR role = ?4)
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
 ORDER BY seq DESC
 LIMIT ?5;

-- name: measure_page_at(session_db_id, role, offset, limit)
-- The numbers and sizes of a numbered page, for clients that count pages: its cost grows with the number.
SELECT seq, size
  FROM messages
 WHERE session_db_id = ?1 AND (?2 IS NULL OR role = ?2)
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
 ORDER BY seq
 LIMIT ?4 OFFSET ?3;

-- name: find_last_message_time(session_db_id, through_seq)
-- When the last message up to a number was sent.
SELECT timestamp
  FROM messages
 WHERE session_db_id = ?1 AND seq <= ?2
   AND (seq <= (SELECT cut_after FROM sessions WHERE id = ?1)
        OR seq > (SELECT cut_through FROM sessions WHERE id = ?1))
 ORDER BY seq DESC
 LIMIT 1;

-- name: list_open_ends(ends)
-- Of each of the sessions [[session_db_id, seq, cut_after, cut_through], …], as if it ended with that message, the
-- last message of a user or an assistant and what follows it: where that message calls tools, the calls and their
-- results. Differs because SQLite's planner may read every message first: CROSS JOIN keeps the order as written.
SELECT m.session_db_id, m.seq, m.role, m.tool_call_id, m.tool_calls
  FROM json_each(?1) AS k
 CROSS JOIN messages AS m
    ON m.session_db_id = k.value ->> 0
   AND m.seq <= k.value ->> 1
   AND NOT (m.seq > k.value ->> 2 AND m.seq <= k.value ->> 3)
   AND m.seq >= (SELECT seq
                   FROM messages
                  WHERE session_db_id = k.value ->> 0 AND seq <= k.value ->> 1
                    AND NOT (seq > k.value ->> 2 AND seq <= k.value ->> 3)
                    AND role IN ('user', 'assistant')
                  ORDER BY seq DESC
                  LIMIT 1)
 ORDER BY m.session_db_id, m.seq;
