"""What happened lately, as the metrics and the audit log read it."""

from __future__ import annotations

from runtime.store.read.activity import Activity, sessions_of
from runtime.store.store import Store, open_store
from runtime.store.turn_store import tool_result
from runtime.store.write.turn_commands import AdvanceTurn, Ending

CALLS = [{"id": "c", "type": "function", "function": {"name": "write_file", "arguments": "{}"}}]


async def play(store: Store, owner: str = "") -> None:
    """A turn that calls a tool, its failed result, a turn that fails, a handover, and three decisions."""
    options = {"owner": owner}
    await store.create_session("s", **options)  # type: ignore[arg-type]
    await store.append_messages(
        "s", [{"role": "assistant", "content": None, "tool_calls": CALLS}], owner=owner
    )
    failed = tool_result("c", "disk full", failed=True)
    written = await store.turns.start_turn("s", result=failed, owner=owner)
    await end(store, written.turn.turn_id, Ending("completed"), owner, input_tokens=7, output_tokens=3)
    written = await store.turns.start_turn("s", messages=[{"role": "user", "content": "hi"}], owner=owner)
    await end(store, written.turn.turn_id, Ending("failed", '"no model"', "model_unavailable"), owner)
    await store.switch_agent("s", "coder", owner=owner)
    for call_id, decision in (("a", "approve"), ("r", "reject")):
        await store.create_approval("s", call_id, "write_file", {}, owner=owner)
        await store.decide_approval("s", call_id, decision, owner=owner)  # type: ignore[arg-type]
    await store.create_approval("s", "w", "write_file", {}, owner=owner)


async def end(
    store: Store, turn_id: str, ending: Ending, owner: str, input_tokens: int = 0, output_tokens: int = 0
) -> None:
    from runtime.store.records import SessionKey

    command = AdvanceTurn(
        SessionKey(owner, "s"),
        turn_id,
        store.turns.instance,
        0,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        ending=ending,
    )
    await store.turns.advance_turn(command)


def gist(activity: Activity) -> tuple[object, ...]:
    return (
        [
            (turn.status, turn.agent, turn.error, turn.input_tokens, turn.output_tokens)
            for turn in activity.turns
        ],
        [(switch.from_agent, switch.to_agent) for switch in activity.switches],
        [(approval.call_id, approval.tool_name, approval.status) for approval in activity.approvals],
        [(message.is_result, message.tool_name, message.failed) for message in activity.tool_messages],
    )


PLAYED = (
    [("failed", "orchestrator", "no model", 0, 0), ("completed", "orchestrator", None, 7, 3)],
    [("orchestrator", "coder")],
    [("w", "write_file", "pending"), ("r", "write_file", "rejected"), ("a", "write_file", "approved")],
    [(True, "write_file", True), (False, "…", False)],
)


async def test_activity_is_read_from_what_is_stored(database_url: str) -> None:
    async with open_store(database_url) as store:
        await play(store)
        assert gist(await store.activity.of_owner("")) == PLAYED
        assert gist(await store.activity.of_session("s")) == PLAYED
    async with open_store(database_url) as store:
        activity = await store.activity.of_owner("")
        assert gist(activity) == PLAYED
        assert sessions_of(activity.turns) == ["s"]


async def test_each_owner_sees_their_own(database_url: str) -> None:
    async with open_store(database_url) as store:
        await play(store, "alice")
        assert gist(await store.activity.of_owner("alice")) == PLAYED
        assert gist(await store.activity.of_owner("bob")) == ([], [], [], [])


async def test_what_was_cut_or_deleted_is_not_read(database_url: str) -> None:
    async with open_store(database_url) as store:
        await play(store)
        await store.truncate_messages("s", after=1)
        assert [message.is_result for message in (await store.activity.of_owner("")).tool_messages] == [False]
        await store.delete_session("s")
        assert gist(await store.activity.of_owner("")) == ([], [], [], [])
