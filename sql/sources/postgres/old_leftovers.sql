-- Databases of the older service: what has no session, and what has no place here. Each row names one thing, or some
-- by what they have in common.

-- name: list_orphan_messages()
SELECT m.session_db_id::text AS name, count(*) AS things
  FROM messages AS m
 WHERE NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.id = m.session_db_id)
 GROUP BY m.session_db_id
 ORDER BY 1;

-- name: list_orphan_contexts()
SELECT c.session_db_id::text AS name, 1 AS things
  FROM agent_contexts AS c
 WHERE NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.id = c.session_db_id)
 ORDER BY 1;

-- name: list_orphan_inline_contexts()
SELECT c.session_id AS name, 1 AS things
  FROM agent_contexts AS c
 WHERE NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.session_id = c.session_id)
 ORDER BY 1;

-- name: list_orphan_switches()
SELECT w.context_db_id::text AS name, count(*) AS things
  FROM agent_switches AS w
 WHERE NOT EXISTS (SELECT 1
                     FROM agent_contexts AS c
                     JOIN sessions AS s ON s.id = c.session_db_id
                    WHERE c.id = w.context_db_id)
 GROUP BY w.context_db_id
 ORDER BY 1;

-- name: list_orphan_approvals()
SELECT a.call_id || ' of ' || a.session_id AS name, 1 AS things
  FROM pending_approvals AS a
 WHERE NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.id::text = a.session_id)
 ORDER BY 1;

-- name: list_orphan_numbered_approvals()
-- While the key was not the id of the session.
SELECT a.call_id || ' of ' || a.session_id AS name, 1 AS things
  FROM pending_approvals AS a
 WHERE NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.session_id = a.session_id)
 ORDER BY 1;

-- name: list_orphan_requests()
SELECT a.request_id || ' of ' || a.session_id AS name, 1 AS things
  FROM pending_approvals AS a
 WHERE a.request_type = 'tool' AND NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.id::text = a.session_id)
 ORDER BY 1;

-- name: list_orphan_numbered_requests()
-- While the key was not the id of the session.
SELECT a.request_id || ' of ' || a.session_id AS name, 1 AS things
  FROM pending_approvals AS a
 WHERE a.request_type = 'tool' AND NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.session_id = a.session_id)
 ORDER BY 1;

-- name: list_plan_approvals()
SELECT a.request_id || ' of ' || a.session_id AS name, 1 AS things
  FROM pending_approvals AS a
 WHERE a.request_type <> 'tool'
 ORDER BY 1;

-- name: list_plans()
SELECT id || ' of ' || session_id AS name, 1 AS things FROM plans ORDER BY 1;

-- name: list_subtasks()
SELECT id || ' of the plan ' || plan_id AS name, 1 AS things FROM subtasks ORDER BY 1;

-- name: list_fsm_states()
SELECT current_state || ' of ' || session_id AS name, 1 AS things FROM fsm_states ORDER BY 1;
