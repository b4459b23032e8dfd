"""Health, metrics, and what holds for every path, on both databases."""

from __future__ import annotations

import asyncio
import logging

import pytest

from runtime import __version__
from runtime.api.operations import UNAVAILABLE
from runtime.api.routes import STORE
from tests.support.api_server import USER, Client, append, check, check_problem, make, serving
from tests.support.model_server import calls, says, status
from tests.support.turn_requests import ask, begin, call, fails, read_event, talking, user


async def test_health(client: Client) -> None:
    health = await check(await client.get("/health"))
    assert health == {"status": "ok", "service": "agent-runtime", "version": __version__}


async def test_ready(client: Client) -> None:
    ready = await check(await client.get("/health/ready"))
    assert ready == {"status": "ok", "checks": {"database": "ok", "migrations": "ok", "writer": "ok"}}


async def test_metrics_have_few_labels(client: Client) -> None:
    await make(client, "a")
    await make(client, "b")
    await append(client, USER, session_id="a")
    await append(client, USER, session_id="b")
    await client.get("/nowhere/1")
    await client.request("PROPFIND", "/nowhere/2")
    response = await client.get("/metrics")
    assert response.content_type == "text/plain"
    lines = (await response.text()).splitlines()
    counted = dict(line.rsplit(" ", 1) for line in lines if "http_request_seconds_count" in line)
    start = "agent_runtime_http_request_seconds_count"
    append_route = 'method="POST",route="/sessions/{session_id}/messages",status="201"'
    assert counted[f"{start}{{{append_route}}}"] == "2.0"
    assert counted[f'{start}{{method="GET",route="unmatched",status="404"}}'] == "1.0"
    assert counted[f'{start}{{method="other",route="unmatched",status="404"}}'] == "1.0"
    assert "agent_runtime_transactions_total" in "".join(lines)


async def test_unknown_paths(client: Client) -> None:
    for path in ("/", "/nowhere", "/sessions/", "/sessions/s/nothing", "/agent"):
        await check_problem(await client.get(path), 404, "not_found")


async def samples(client: Client) -> dict[str, float]:
    """Each metric with its labels, without the prefix of all."""
    lines = (await (await client.get("/metrics")).text()).splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.removeprefix("agent_runtime_"): float(value) for name, value in pairs}


async def test_metrics_of_turns(database_url: str) -> None:
    write = calls(call("w", "write_file", path="a", content=""), usage=(100, 10))
    script = [says("Hello", usage=(12, 5)), status(401), write]
    async with talking(database_url, script) as (client, _):
        await ask(client, user("hi"))
        await fails(client, user("hi"), "model_refused")
        await ask(client, {"type": "switch_agent", "agent_type": "coder", "content": "write"})
        await make(client, "other", agent="mine")
        await ask(client, user("hi"), "other")
        found = await samples(client)
        assert {name: value for name, value in found.items() if name.startswith("turns_total")} == {
            'turns_total{agent="orchestrator",status="completed"}': 1,
            'turns_total{agent="orchestrator",status="failed"}': 1,
            'turns_total{agent="coder",status="completed"}': 1,
            'turns_total{agent="other",status="failed"}': 1,
        }
        assert found['model_tokens_total{direction="input"}'] == 112
        assert found['model_tokens_total{direction="output"}'] == 15
        assert found['model_errors_total{code="model_refused"}'] == 1
        # Only the first answer had any text.
        assert found["first_token_seconds_count"] == 1


async def test_metrics_of_what_goes_on_now(database_url: str) -> None:
    gate = asyncio.Semaphore(0)
    async with (
        talking(database_url, [says("a", gate=gate)]) as (client, model),
        begin(client, user("hi")) as stream,
    ):
        await read_event(stream)
        await model.wait_for_requests(1)
        found = await samples(client)
        names = ("turns_running", "model_streams", "sse_streams")
        assert [found[name] for name in names] == [1, 1, 1]


async def test_approvals_that_wait_are_counted(database_url: str) -> None:
    async with serving(database_url) as client:
        await make(client)
        body = {"call_id": "c", "tool_name": "t", "arguments": {}}
        await check(await client.post("/sessions/s/approvals", json=body), 201)
    # At its start a server looks first.
    async with serving(database_url) as client, asyncio.timeout(20):
        while (await samples(client))["pending_approvals"] != 1:
            pass


async def test_wrong_methods(client: Client) -> None:
    for method, path, allowed in (
        ("DELETE", "/sessions", {"GET", "HEAD", "POST"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("GET", "/sessions/s/restore", {"POST"}),
        ("PATCH", "/sessions/s/messages", {"GET", "HEAD", "POST", "PUT", "DELETE"}),
        ("OPTIONS", "/sessions/s", {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}),
    ):
        response = await client.request(method, path)
        await check_problem(response, 405, "method_not_allowed")
        assert set(response.headers["Allow"].split(",")) == allowed


async def test_head(client: Client) -> None:
    await make(client)
    whole = await client.get("/sessions/s")
    head = await client.head("/sessions/s")
    assert head.status == 200
    assert await head.read() == b""
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]
    assert head.headers["ETag"] == whole.headers["ETag"]


async def test_one_log_line_a_request(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "agent_runtime.http"):
        await client.get("/health%0A?a=b", headers={"X-Request-ID": "r1"})
    [line] = [record.getMessage() for record in caplog.records if record.name == "agent_runtime.http"]
    assert line.startswith("GET /health%0A 404 ")
    assert line.endswith(" ms r1")


async def test_the_log_line_can_be_switched_off(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(database_url, access_log=False) as client:
        with caplog.at_level(logging.INFO, "agent_runtime.http"):
            await client.get("/health")
    assert not [record for record in caplog.records if record.name == "agent_runtime.http"]


@pytest.mark.parametrize("open", [True, False], ids=["open", "closed"])
async def test_what_is_not_ready_is_told_and_why_where_nobody_is_a_stranger(
    database_url: str, open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(database_url, internal_api_key="" if open else "internal") as client:
        await client.app[STORE].close(1)
        ready = await check(await client.get("/health/ready"), 503)
    assert (ready["status"], ready["checks"]["migrations"]) == ("unavailable", "ok")
    if open:
        assert "is closed" in ready["checks"]["database"]
    else:
        assert ready["checks"]["database"] == ready["checks"]["writer"] == UNAVAILABLE
        assert "is closed" in caplog.text
