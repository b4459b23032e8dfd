"""Agents, as http-api.md has them, on both databases."""

from __future__ import annotations

from pathlib import Path

from tests.api.serving import Client, Json, check, check_problem, make, serving

CONTEXT_FIELDS = {"session_id", "current_agent", "switch_count", "created_at", "updated_at", "metadata"}
SWITCH_FIELDS = {"id", "from_agent", "to_agent", "switched_at", "reason", "metadata"}


async def hand_over(client: Client, *agents: str) -> None:
    for agent in agents:
        await check(await client.post("/sessions/s/agent", json={"agent": agent}))


async def test_the_built_in_agents(client: Client) -> None:
    agents = await check(await client.get("/agents"))
    assert [agent["type"] for agent in agents] == ["orchestrator", "coder", "architect", "debug", "ask"]
    fields = {"type", "name", "description", "allowed_tools", "has_file_restrictions"}
    assert all(set(agent) == fields for agent in agents)
    assert [agent["type"] for agent in agents if agent["has_file_restrictions"]] == ["architect"]


AGENTS = """
[agents.orchestrator]
name = "First"
description = "Takes what comes."
instructions = "Hand over."
hands_over_to = ["writer"]

[agents.writer]
name = "Writer"
description = "Writes."
instructions = "Write."
tools = ["save"]
files = ["*.txt"]

[tools.save]
description = "Save a file."
edits = "path"
[tools.save.parameters]
type = "object"
properties = { path = { type = "string" } }
"""


async def test_the_agents_of_a_file(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "agents.toml"
    file.write_text(AGENTS)
    async with serving(database_url, agents_file=str(file)) as client:
        assert await check(await client.get("/agents")) == [
            {
                "type": "orchestrator",
                "name": "First",
                "description": "Takes what comes.",
                "allowed_tools": ["switch_agent"],
                "has_file_restrictions": False,
            },
            {
                "type": "writer",
                "name": "Writer",
                "description": "Writes.",
                "allowed_tools": ["save"],
                "has_file_restrictions": True,
            },
        ]


async def test_switch(client: Client) -> None:
    await make(client)
    body = {"agent": "coder", "reason": "code", "metadata": {"a": 1}}
    response = await client.post("/sessions/s/agent", json=body)
    assert await check(response) == {
        "session_id": "s",
        "from_agent": "orchestrator",
        "to_agent": "coder",
        "switch_count": 1,
        "version": 2,
    }
    assert response.headers["ETag"] == '"2"'
    page = await check(await client.get("/sessions/s/switches"))
    assert set(page) == {"session_id", "switches", "next_before"}
    [switch] = page["switches"]
    assert set(switch) == SWITCH_FIELDS
    assert (switch["id"], switch["reason"], switch["metadata"]) == (1, "code", {"a": 1})


async def test_switch_to_the_current_agent_changes_nothing(client: Client) -> None:
    await make(client)
    response = await client.post("/sessions/s/agent", json={"agent": "orchestrator"})
    answered = await check(response)
    assert (answered["switch_count"], answered["version"]) == (0, 1)


async def test_a_program_may_bring_its_own_agents(client: Client) -> None:
    await make(client)
    await hand_over(client, "my/agent ü")
    assert (await check(await client.get("/sessions/s")))["current_agent"] == "my/agent ü"


async def test_switches_by_pages_latest_first(client: Client) -> None:
    await make(client)
    await hand_over(client, "coder", "ask", "debug")
    first = await check(await client.get("/sessions/s/switches?limit=2"))
    assert [switch["to_agent"] for switch in first["switches"]] == ["debug", "ask"]
    rest = await check(await client.get(f"/sessions/s/switches?before={first['switches'][-1]['id']}"))
    assert [switch["to_agent"] for switch in rest["switches"]] == ["coder"]


async def test_current_agent(client: Client) -> None:
    await make(client)
    empty = await check(await client.get("/agents/s/current"))
    assert [(entry["from"], entry["to"]) for entry in empty["agent_history"]] == [(None, "orchestrator")]
    assert empty["switch_count"] == 0
    await hand_over(client, "coder", "ask")
    response = await client.get("/agents/s/current")
    current = await check(response)
    assert set(current) == {"session_id", "current_agent", "agent_history", "switch_count"}
    assert (current["current_agent"], current["switch_count"]) == ("ask", 2)
    history = current["agent_history"]
    assert [entry["to_agent"] for entry in history] == ["orchestrator", "coder", "ask"]
    for entry in history:
        named = (entry["from"], entry["to"], entry["timestamp"])
        assert named == (entry["from_agent"], entry["to_agent"], entry["switched_at"])
    assert [entry["from"] for entry in history] == [None, "orchestrator", "coder"]
    assert response.headers["ETag"] == '"3"'


async def test_context(client: Client) -> None:
    await make(client)
    response = await client.patch("/sessions/s/context", json={"metadata": {"plan": ["a"]}})
    changed = await check(response)
    assert set(changed) == CONTEXT_FIELDS
    assert changed["metadata"] == {"plan": ["a"]}
    assert response.headers["ETag"] == '"2"'
    assert await check(await client.get("/sessions/s/context")) == changed


BAD_HANDOVERS: list[tuple[Json, str]] = [
    ({}, "$.agent"),
    ({"agent": ""}, "$.agent"),
    ({"agent": "a\n"}, "$.agent"),
    ({"agent": "x" * 256}, "$.agent"),
    ({"agent": 1}, "$.agent"),
    ({"agent": "a", "reason": 1}, "$.reason"),
    ({"agent": "a", "metadata": []}, "$.metadata"),
    ({"agent": "a", "resaon": ""}, "$.resaon"),
]


async def test_bad_handovers(client: Client) -> None:
    await make(client)
    for body, path in BAD_HANDOVERS:
        await check_problem(await client.post("/sessions/s/agent", json=body), 422, "invalid_input", path)
    for body in ({}, {"metadata": []}, {"metadata": None}):
        await check_problem(
            await client.patch("/sessions/s/context", json=body), 422, "invalid_input", "$.metadata"
        )
    assert (await check(await client.get("/sessions/s")))["version"] == 1
