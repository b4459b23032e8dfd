-- Which agent holds each conversation.

-- name: insert_agent_context(session_db_id, current_agent, created_at, updated_at, switch_count, metadata)
INSERT INTO agent_contexts (session_db_id, current_agent, created_at, updated_at, switch_count,
                            metadata)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: update_agent_context(session_db_id, current_agent, updated_at, switch_count, metadata)
-- Metadata stays where it is null.
UPDATE agent_contexts
   SET current_agent = $2, updated_at = $3, switch_count = $4, metadata = coalesce($5, metadata)
 WHERE session_db_id = $1;

-- name: find_agent_context(session_db_id)
SELECT current_agent, created_at, updated_at, switch_count, metadata
  FROM agent_contexts
 WHERE session_db_id = $1;

-- name: update_context_creation(session_db_id, created_at)
-- Only where a context is saved with the time at which it was made.
UPDATE agent_contexts SET created_at = $2 WHERE session_db_id = $1;
