"""The commands that save a given state: in one batch they do what they do one by one (W3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import RequestError
from runtime.store.messages import new_messages
from runtime.store.records import SessionKey
from runtime.store.write.commands import (
    AppendMessages,
    Command,
    CreateApproval,
    DeleteApproval,
    DeleteSession,
    ReplaceMessages,
    Request,
    SwitchAgent,
    UpdateContext,
)
from runtime.store.write.outcomes import Outcome
from runtime.store.write.plan import plan
from runtime.store.write.save_commands import (
    RemoveContext,
    SaveApproval,
    SaveContext,
    SaveDetails,
    SavedSwitch,
    SaveSession,
    SetApprovalStatus,
)
from tests.support.memory_tables import Tables
from tests.support.random_values import NOON

pytestmark = pytest.mark.usefixtures("uncounted")

KEYS = st.sampled_from([SessionKey("", "a"), SessionKey("", "b"), SessionKey("aside", "a")])
CALLS = st.sampled_from(["c", "d"])
TIMES = st.integers(-3, 3).map(lambda hours: NOON + timedelta(hours=hours))
TEXTS = st.sampled_from([None, '""', '"text"'])
OBJECTS = st.sampled_from(["{}", '{"a":1}'])
AGENTS = st.sampled_from(["orchestrator", "coder"])
STATUSES = st.sampled_from(["pending", "approved", "rejected"])
MESSAGES = st.lists(st.sampled_from("xyz"), max_size=3).map(
    lambda contents: new_messages([{"role": "user", "content": content} for content in contents])
)
SWITCHES = st.lists(
    st.builds(SavedSwitch, st.sampled_from([None, "ask"]), AGENTS, TIMES, TEXTS, OBJECTS), max_size=3
).map(tuple)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(SaveSession, KEYS, MESSAGES, last_activity=TIMES, title=TEXTS),
    st.builds(SaveSession, KEYS, MESSAGES, last_activity=TIMES, title=TEXTS),
    st.builds(SaveDetails, KEYS, title=TEXTS, description=TEXTS),
    st.builds(SaveContext, KEYS, AGENTS, OBJECTS, TIMES, st.integers(0, 3), SWITCHES),
    st.builds(RemoveContext, KEYS),
    st.builds(SaveApproval, KEYS, CALLS, TEXTS.filter(bool), OBJECTS, create=st.booleans(), status=STATUSES),
    st.builds(SetApprovalStatus, KEYS, CALLS, st.one_of(st.none(), STATUSES)),
    st.builds(SwitchAgent, KEYS, AGENTS),
    st.builds(UpdateContext, KEYS, OBJECTS),
    st.builds(AppendMessages, KEYS, MESSAGES),
    st.builds(ReplaceMessages, KEYS, MESSAGES, st.booleans()),
    st.builds(CreateApproval, KEYS, CALLS, TEXTS.filter(bool), OBJECTS),
    st.builds(DeleteApproval, KEYS, CALLS),
    st.builds(DeleteSession, KEYS, hard=st.booleans()),
)


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    tables = Tables()
    yield tables
    tables.close()


def do(tables: Tables, batches: Sequence[Sequence[Request]]) -> tuple[list[Any], Any]:
    """The outcomes of requests that are stored batch by batch, and the tables afterwards."""
    with tables.undone():
        outcomes = []
        for batch in batches:
            planned = plan(tables.known(batch), batch)
            tables.apply(planned.rows)
            outcomes += [_shown(outcome) for outcome in planned.outcomes]
        return outcomes, (tables.sessions(), tables.bare_sessions())


def _shown(outcome: Outcome | RequestError) -> Any:
    return str(outcome) if isinstance(outcome, RequestError) else outcome


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=600)
@given(commands=st.lists(COMMANDS, min_size=2, max_size=8))
def test_w3_a_batch_does_what_its_commands_do_one_by_one(tables: Tables, commands: list[Command]) -> None:
    requests = [
        Request(command, command.key, NOON + timedelta(seconds=n)) for n, command in enumerate(commands)
    ]
    assert do(tables, [requests]) == do(tables, [[request] for request in requests])


def test_an_approval_is_saved_once_for_the_sessions_of_some_owners(tables: Tables) -> None:
    owners = ("", "aside")

    def save(owner: str, session_id: str, *of: str) -> Request:
        command = SaveApproval(
            SessionKey(owner, session_id), "c", '"t"', "{}", create=True, owners=of, created_at=NOON
        )
        return Request(command, command.key, NOON)

    requests = [
        save("else", "x"),
        save("", "a", *owners),
        save("aside", "a", *owners),
        save("", "b", *owners),
        save("aside", "b"),
    ]
    for batches in ([requests], [[request] for request in requests]):
        outcomes, _ = do(tables, batches)
        assert [outcome.changed for outcome in outcomes] == [True, True, False, False, True]
