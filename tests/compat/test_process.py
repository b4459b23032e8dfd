"""A process that uses the names of the earlier service, from its start to its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runtime.compat.database import Database

PATIENCE = 60.0

SAVE = """
import datetime, logging, sys, threading
# A busy machine is warned of; errors are shown.
logging.disable(logging.WARNING)
from runtime.compat.database import Database
from runtime.compat.session_manager import SessionManager
from runtime.compat.agent_context import AgentContextManager, AgentType
NOON = datetime.datetime(2026, 1, 7, 12)
db = Database(sys.argv[1])
"""
FORGOTTEN = {
    "saved": "db.save_session('s', [{'role': 'user', 'content': 'x'}] * 3, NOON)",
    "only in memory": """
state = SessionManager(db).create('s')
state.messages += [{'role': 'user', 'content': 'x'}] * 3
""",
    "more than a pool would take": """
state = SessionManager(db).create('s')
state.messages += [{'role': 'user', 'content': 'x'}] * 5000
""",
    "written by a thread that outlives main": """
main = threading.main_thread()
def work():
    main.join()
    db.save_session('s', [{'role': 'user', 'content': 'x'}] * 3, NOON)
threading.Thread(target=work).start()
""",
    "ended by an error": "SessionManager(db).create('s').messages.append({'content': 'x'})\nsys.exit(3)",
}


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", FORGOTTEN)
def test_a_forgotten_close_neither_hangs_nor_loses_anything(database_url: str, case: str) -> None:
    ended = run(SAVE + FORGOTTEN[case], database_url)
    assert (ended.stdout, ended.stderr) == ("", "")
    assert ended.returncode == (3 if case == "ended by an error" else 0)
    db = Database(database_url)
    counts = {"more than a pool would take": 5000, "ended by an error": 1}
    assert (db.get_session_stats("s") or {})["message_count"] == counts.get(case, 3)
    db.close()


def test_importing_all_of_it_opens_and_makes_nothing(sqlite_url: str) -> None:
    modules = (
        "agent_context, agent_context_async, database, database_async, session_manager, session_manager_async"
    )
    program = (
        f"import os, sys, threading\nfrom runtime.compat import {modules}\n"
        "print(threading.active_count(), os.path.exists('data'), 'fastapi' in sys.modules)"
    )
    assert run(program).stdout == "1 False False\n"


SQLALCHEMY = """
import sys, types
exc = types.ModuleType("sqlalchemy.exc")
class IntegrityError(Exception):
    def __init__(self, statement, params, orig):
        super().__init__(f"({type(orig).__name__}) {orig}")
exc.IntegrityError = IntegrityError
sys.modules["sqlalchemy"], sys.modules["sqlalchemy.exc"] = types.ModuleType("sqlalchemy"), exc
from runtime.compat.database import Database
from runtime.errors import AgentRuntimeError
db = Database(sys.argv[1])
try:
    db.save_session("s", [{"role": "robot"}], None)
except IntegrityError as error:
    print(isinstance(error, AgentRuntimeError), error)
"""


def test_where_sqlalchemy_is_installed_its_integrity_error_catches_ours(sqlite_url: str) -> None:
    ended = run(SQLALCHEMY, sqlite_url)
    assert ended.stdout.startswith("True (ValueError) role 'robot' is none of user"), ended.stderr
