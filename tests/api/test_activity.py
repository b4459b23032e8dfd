"""The metrics and the audit log, as the earlier service's gateway and benchmark client ask for them."""

from __future__ import annotations

from tests.api.asking import call
from tests.api.test_gateway import HANDOVER, WRITE, chatting
from tests.model_server import calls, says, status
from tests.support.gateway_clients import HEADERS, ide_error, ide_result, ide_user

SECOND = call("w2", "write_file", path="b.py", content="2")


async def test_the_metrics_of_a_played_conversation(database_url: str) -> None:
    script = [calls(HANDOVER), calls(WRITE), calls(SECOND), says("Done."), status(500)]
    async with chatting(database_url, script) as (gateway, _):
        for path in ("/events/metrics/session/s", "/events/metrics/session/unknown"):
            async with gateway.client.get(path, headers=HEADERS) as response:
                assert response.status == 404
        await gateway.send(ide_user("Write two files"))
        await gateway.send(ide_result("w", "write_file", {"success": True}))
        await gateway.send(ide_error("w2", "write_file", "disk full"))
        await gateway.send(ide_user("And now?"))

        metrics = await gateway.get("/events/metrics/session/s")
        assert [each["success"] for each in metrics["requests"]] == [True, True, True, False]
        assert [each["has_tool_calls"] for each in metrics["requests"]] == [True, True, False, False]
        assert [each["prompt_tokens"] for each in metrics["requests"]] == [24, 12, 12, 0]
        assert (metrics["total_requests"], metrics["failed_requests"]) == (4, 1)
        assert (metrics["total_tokens"], metrics["requests_with_tools"]) == (4 * 17, 2)
        assert {each["model"] for each in metrics["requests"]} == {"gpt-4o-mini"}
        assert metrics["requests"][3]["error"]
        assert metrics["total_duration_ms"] == sum(each["duration_ms"] for each in metrics["requests"])

        sessions = await gateway.get("/events/metrics/sessions")
        assert sessions == {"sessions": ["s"], "count": 1}
        counted = (await gateway.get("/events/metrics"))["metrics"]
        assert counted["agent_switches"] == {"orchestrator_to_coder": 1}
        assert counted["tool_executions"] == {
            "write_file": {"requested": 2, "completed": 1, "failed": 1, "requires_approval": 2}
        }
        assert counted["hitl_decisions"] == {"write_file": {"APPROVE": 1, "EDIT": 0, "REJECT": 1}}
        assert counted["errors"] == {"coder": {"failed": 1}}
        assert counted["agent_processing"]["coder"]["count"] == 4

        log = await gateway.get("/events/audit-log?limit=100")
        kinds = [entry["event_type"] for entry in log["audit_log"]]
        assert sorted(kinds) == [
            *("agent_error", "agent_switched", "hitl_decision_made", "hitl_decision_made"),
            *("tool_approval_required", "tool_approval_required", "tool_execution_failed"),
        ]
        assert [entry["timestamp"] for entry in log["audit_log"]] == sorted(
            entry["timestamp"] for entry in log["audit_log"]
        )
        assert len({entry["event_id"] for entry in log["audit_log"]}) == log["count"] == 7
        one = await gateway.get("/events/audit-log?limit=1&session_id=s&event_type=agent_switched")
        assert [entry["to_agent"] for entry in one["audit_log"]] == ["coder"]
        assert one["filters"] == {"limit": 1, "session_id": "s", "event_type": "agent_switched"}
        stats = await gateway.get("/events/stats")
        assert (stats["total_published"], stats["failed_handlers"], stats["success_rate"]) == (7, 0, 1.0)
        assert stats["last_event_time"] == log["audit_log"][-1]["timestamp"]


async def test_without_activity_everything_is_empty(database_url: str) -> None:
    async with chatting(database_url, []) as (gateway, _):
        assert (await gateway.get("/events/metrics"))["computed"] == {}
        assert await gateway.get("/events/metrics/sessions") == {"sessions": [], "count": 0}
        assert (await gateway.get("/events/audit-log"))["audit_log"] == []
        assert (await gateway.get("/events/stats"))["last_event_time"] is None
