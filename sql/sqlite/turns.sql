-- The turns of the sessions: what was asked of an agent, and how it ended. At most the last turn of a
-- session runs.

-- name: insert_turn(session_db_id, n, turn_id, status, agent, started_at, ended_at, error, input_tokens, output_tokens, instance, beat, stop_requested, last_event, text_length, events_kept)
INSERT INTO turns (session_db_id, n, turn_id, status, agent, started_at, ended_at, error,
                   input_tokens, output_tokens, instance, beat, stop_requested,
                   last_event, text_length, events_kept)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16);

-- name: update_turn(session_db_id, n, status, agent, ended_at, error, input_tokens, output_tokens, beat, stop_requested, last_event, text_length)
UPDATE turns
   SET status = ?3, agent = ?4, ended_at = ?5, error = ?6, input_tokens = ?7, output_tokens = ?8,
       beat = ?9, stop_requested = ?10, last_event = ?11, text_length = ?12
 WHERE session_db_id = ?1 AND n = ?2;

-- name: list_last_turns(session_db_ids)
-- The last turn of each of the sessions [id, …].
SELECT t.session_db_id, t.n, t.turn_id, t.status, t.agent, t.started_at, t.ended_at, t.error,
       t.input_tokens, t.output_tokens, t.instance, t.beat, t.stop_requested,
       t.last_event, t.text_length
  FROM json_each(?1) AS k
  JOIN turns AS t
    ON t.session_db_id = k.value
   AND t.n = (SELECT max(n) FROM turns WHERE session_db_id = k.value);

-- name: find_turn(session_db_id, turn_id)
-- A turn of a session that is not deleted.
SELECT t.session_db_id, t.n, t.turn_id, t.status, t.agent, t.started_at, t.ended_at, t.error,
       t.input_tokens, t.output_tokens, t.instance, t.beat, t.stop_requested, t.last_event,
       t.text_length
  FROM turns AS t
  JOIN sessions AS s ON s.id = t.session_db_id
 WHERE t.session_db_id = ?1 AND t.turn_id = ?2 AND s.deleted_at IS NULL;

-- name: list_turns(session_db_id, limit)
-- The turns of a session, latest first.
SELECT session_db_id, n, turn_id, status, agent, started_at, ended_at, error, input_tokens,
       output_tokens, instance, beat, stop_requested, last_event, text_length
  FROM turns
 WHERE session_db_id = ?1
 ORDER BY n DESC
 LIMIT ?2;

-- name: find_calling_agent(session_db_id, created_at)
-- Whose turn asked for the approvals that were made then: a turn ends when it hands out calls.
SELECT agent
  FROM turns
 WHERE session_db_id = ?1 AND ended_at = ?2
 ORDER BY n
 LIMIT 1;

-- name: list_running_turns(after_id, limit)
-- A page of the turns that run, of all sessions, to find those whose process has died.
SELECT s.id, s.owner, s.session_id, t.turn_id, t.instance, t.beat
  FROM turns AS t
  JOIN sessions AS s ON s.id = t.session_db_id
 WHERE t.status = 'running' AND t.session_db_id > ?1 AND s.deleted_at IS NULL
 ORDER BY t.session_db_id
 LIMIT ?2;

-- name: find_instance(instance)
-- Whether another instance lives: differs because one process owns the file (W13), so none does.
SELECT 1 AS alive WHERE ?1 IS NULL;

-- name: forget_turn_events(ended_before, limit)
-- Notes of the turns that ended first that their events are gone: those that delete_old_turn_events took
-- away, which with two instances at work may be others than this one would choose.
UPDATE turns AS t
   SET events_kept = 0
 WHERE (t.session_db_id, t.n) IN (SELECT session_db_id, n
                                    FROM turns
                                   WHERE events_kept AND ended_at < ?1
                                   ORDER BY ended_at, session_db_id, n
                                   LIMIT ?2)
   AND NOT EXISTS (SELECT 1
                     FROM turn_events AS e
                    WHERE e.session_db_id = t.session_db_id AND e.turn_n = t.n AND e.n < t.last_event);

-- name: find_oldest_kept_turn()
-- When the turn ended whose events are to be forgotten next.
SELECT ended_at FROM turns WHERE events_kept AND ended_at IS NOT NULL ORDER BY ended_at LIMIT 1;

-- name: list_turns_to_erase(session_db_id, after_n, limit)
SELECT n, coalesce(length(CAST(error AS BLOB)), 0) AS size
  FROM turns
 WHERE session_db_id = ?1 AND n > ?2
 ORDER BY n
 LIMIT ?3;

-- name: erase_turns(session_db_id, n)
-- Those up to this one.
DELETE FROM turns WHERE session_db_id = ?1 AND n <= ?2;
