"""The Python names of the earlier service, on top of the store: swap the imports, and the code runs on.

    from app.services.database import Database                      # before
    from runtime.compat.database import Database                    # after

| before | after |
|---|---|
| `app.services.database` | `runtime.compat.database`, or `runtime.compat.database_async`: see below |
| `app.services.session_manager`, `session_manager_async` | the same below `runtime.compat` |
| `app.services.agent_context`, `agent_context_async` | the same below `runtime.compat` |
| `app.agents.base_agent` (`AgentType`) | `runtime.compat.agent_context` |
| `app.models.schemas` (`Message`, `SessionState`) | `runtime.compat.session_manager` |
| `sqlalchemy.exc` (`IntegrityError`) | `runtime.compat.database`; theirs catches it too, if installed |
| `app.core.dependencies` | `runtime.compat.dependencies`, with `pip install 'agent-runtime[compat]'` |

`app.services.database` had two generations. `runtime.compat.database` has the synchronous one, which is the
fullest; `runtime.compat.database_async` has the later one (`DatabaseService`, and `get_db` as a generator).

- Data of the earlier service is imported first: `agent-runtime import`.
- Methods may be called from any thread, and where an event loop runs. Those that are no coroutines block
  until the database has answered.
- Times without a zone are taken as UTC. Those in results of `Database` and `DatabaseService` have none, as
  the earlier service gave them.
- One process owns a SQLite file. A program with these names and a server can share a Postgres, but no file.
- All objects of one process for the same URL share one open store. It is closed when the process ends; what
  was saved by then is stored.
- There is no SQLAlchemy: `engine`, `SessionLocal`, `get_session` and `session_scope` raise NotSupported,
  which names what to use instead.
"""
