"""What is kept of an outcome under an idempotency key, and what is made of it again (W12, R6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import Raw, structs

from runtime.models import AgentContext, Approval, Session, is_left_out
from runtime.store.write.kept_replies import decode_reply, encode_reply
from runtime.store.write.outcomes import ApprovalWritten, ContextWritten, Outcome, SessionWritten

AT = datetime(2026, 12, 1, tzinfo=UTC)
SMALL, LARGE = Raw(b'{"k":1}'), Raw(b'{"k":"' + b"x" * 70_000 + b'"}')
SESSION = Session(
    session_id="s",
    title="t",
    description="d",
    encoded_metadata=SMALL,
    created_at=AT,
    last_activity=AT,
    is_active=True,
    deleted_at=None,
    version=3,
    last_seq=7,
    message_count=7,
    current_agent="coder",
)
CONTEXT = AgentContext("s", 3, "coder", 2, AT, AT, SMALL)
APPROVAL = Approval("c", "s", "tool", SMALL, "why", "edited", AT, None, AT, Raw(b"null"), "so")

OUTCOMES: dict[str, tuple[Outcome, str]] = {
    "metadata": (SessionWritten(session_id="s", version=3, session=SESSION), "session"),
    "context": (ContextWritten(session_id="s", version=3, context=CONTEXT), "context"),
    "arguments": (ApprovalWritten(session_id="s", version=3, approval=APPROVAL), "approval"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_small_outcome_is_kept_as_it_is(name: str) -> None:
    outcome, _ = OUTCOMES[name]
    kind, kept = json.loads(encode_reply(outcome))
    assert kind == type(outcome).__name__
    assert kept["version"] == 3
    assert decode_reply(encode_reply(outcome)) == outcome


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("metadata", "encoded_metadata", LARGE),
        ("metadata", "encoded_metadata", Raw(b"")),
        ("metadata", "title", "x" * 65_000),
        ("context", "encoded_metadata", LARGE),
        ("arguments", "encoded_arguments", LARGE),
        ("arguments", "encoded_modified_arguments", LARGE),
        ("arguments", "feedback", "x" * 70_000),
    ],
)
def test_of_a_large_outcome_is_kept_that_it_is_large(name: str, field: str, value: Any) -> None:
    outcome, part = OUTCOMES[name]
    more = {"description": "y" * 5000} if field == "title" else {}
    large = structs.replace(
        outcome, **{part: structs.replace(getattr(outcome, part), **{field: value}, **more)}
    )
    kept = encode_reply(large)
    assert len(kept) < 1000
    again = decode_reply(kept)
    encoded = getattr(again, part)
    first = encoded.encoded_arguments if name == "arguments" else encoded.encoded_metadata
    assert is_left_out(first)
    assert (type(again), again.version, again.session_id) == (type(outcome), 3, "s")


def test_what_earlier_versions_kept_is_read() -> None:
    metadata = json.dumps({"k": "x" * 100_000})
    kept = (
        '["SessionWritten",{"session_id":"s","version":3,"session":{"session_id":"s","title":null,'
        f'"description":null,"metadata":{metadata},"created_at":"2026-12-01T00:00:00Z",'
        '"last_activity":"2026-12-01T00:00:00Z","is_active":true,"deleted_at":null,"version":3,"last_seq":0,'
        '"message_count":0,"current_agent":"coder"}}]'
    )
    outcome = decode_reply(kept)
    assert isinstance(outcome, SessionWritten)
    assert bytes(outcome.session.encoded_metadata).decode() == metadata
