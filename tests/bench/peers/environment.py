"""The environment that the peers run in: their dependencies are none of ours."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FOLDER = Path(__file__).parents[3] / ".bench" / "peers"
PYTHON = FOLDER / "bin" / "python"
# What stands in FOLDER: the requirements that were installed last, to their end.
INSTALLED = FOLDER / REQUIREMENTS.name

# The modules of the workers, by the kind of database and the name to show.
PEERS = {
    "sqlite": {
        "OpenAI SQLiteSession": "tests.bench.peers.openai_sqlite",
        "OpenAI AsyncSQLiteSession": "tests.bench.peers.openai_async_sqlite",
        "OpenAI SQLAlchemySession": "tests.bench.peers.openai_sqlalchemy",
        "ADK DatabaseSessionService": "tests.bench.peers.adk",
        "LangGraph AsyncSqliteSaver": "tests.bench.peers.langgraph_sqlite",
    },
    "postgres": {
        "OpenAI SQLAlchemySession": "tests.bench.peers.openai_sqlalchemy",
        "ADK DatabaseSessionService": "tests.bench.peers.adk",
        "LangGraph AsyncPostgresSaver": "tests.bench.peers.langgraph_postgres",
        "LangGraph AsyncPostgresSaver, one a thread": "tests.bench.peers.langgraph_postgres_savers",
    },
}

# Faster than what its documentation says, which is what the goals are measured by: it is shown beside them.
UNDOCUMENTED = {"LangGraph AsyncPostgresSaver, one a thread"}


async def prepare() -> str:
    """Install what the peers need where it is missing or was another list; the path of their Python."""
    if not INSTALLED.exists() or INSTALLED.read_text() != REQUIREMENTS.read_text():
        print("installing the peers into .bench/peers, which takes a minute or two")
        # Anew: what another list asked for is not to be mixed with this one.
        await run(sys.executable, "-m", "venv", "--clear", str(FOLDER))
        await run(str(PYTHON), "-m", "pip", "install", "--quiet", "--quiet", "-r", str(REQUIREMENTS))
        shutil.copyfile(REQUIREMENTS, INSTALLED)
    return str(PYTHON)


async def versions() -> list[str]:
    """'name version' of the peers' packages that are installed."""
    listed = await run(str(PYTHON), "-m", "pip", "list", "--format=json", "--disable-pip-version-check")
    installed = {package["name"].lower(): package["version"] for package in json.loads(listed)}
    return [f"{name} {installed[name]}" for name in _names() if name in installed]


def _names() -> list[str]:
    return re.findall(r"^[\w-]+", REQUIREMENTS.read_text(), re.MULTILINE)


async def run(*command: str) -> str:
    """What a command writes on stdout; its errors go to ours."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, f"failed: {' '.join(command[1:])}"
    return output.decode()
