"""The built-in agents. A program may bring agents of its own: any name can hold a conversation."""

from __future__ import annotations

from msgspec import Struct

READING = ["read_file", "list_files", "search_in_code"]
WRITING = ["write_file", "create_directory"]
HANDING_OVER = ["switch_agent"]


class Agent(Struct, frozen=True):
    """What an agent is for and which tools it may call.

    `has_file_restrictions` says that it may write only some kinds of files.
    """

    type: str
    name: str
    description: str
    allowed_tools: list[str]
    has_file_restrictions: bool


AGENTS = (
    Agent(
        type="orchestrator",
        name="Orchestrator",
        description="Finds out what a request needs and hands it to the agent that fits.",
        allowed_tools=[*READING, *HANDING_OVER],
        has_file_restrictions=False,
    ),
    Agent(
        type="coder",
        name="Coder",
        description="Writes, changes and refactors code.",
        allowed_tools=[*READING, *WRITING, "execute_command", *HANDING_OVER],
        has_file_restrictions=False,
    ),
    Agent(
        type="architect",
        name="Architect",
        description="Plans and documents; writes markdown files only.",
        allowed_tools=[*READING, *WRITING, *HANDING_OVER],
        has_file_restrictions=True,
    ),
    Agent(
        type="debug",
        name="Debug",
        description="Looks for the cause of a failure: reads and runs commands, and changes no file.",
        allowed_tools=[*READING, "execute_command", *HANDING_OVER],
        has_file_restrictions=False,
    ),
    Agent(
        type="ask",
        name="Ask",
        description="Explains and answers questions, and changes nothing.",
        allowed_tools=[*READING, *HANDING_OVER],
        has_file_restrictions=False,
    ),
)
