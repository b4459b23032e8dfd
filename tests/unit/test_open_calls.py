"""Which calls of tools a stored message makes."""

from __future__ import annotations

import json

from runtime.store.write.rules.open_calls import MAX_CALLS, MAX_LENGTH, calls_in


def calls(count: int, arguments: str = "{}") -> str:
    return json.dumps(
        [{"id": f"c{n}", "function": {"name": "t", "arguments": arguments}} for n in range(count)]
    )


def test_the_calls_of_a_model_are_found() -> None:
    assert calls_in(None) == calls_in("[]") == {}
    assert calls_in(calls(2)) == {"c0": '"t"', "c1": '"t"'}
    assert len(calls_in(calls(MAX_CALLS))) == MAX_CALLS
    assert len(calls_in(calls(1, "x" * (MAX_LENGTH - 100)))) == 1


def test_more_calls_than_a_model_makes_are_none() -> None:
    assert calls_in(calls(MAX_CALLS + 1)) == {}
    assert calls_in(calls(1, "x" * MAX_LENGTH)) == {}


def test_what_others_stored_in_a_form_of_their_own_calls_nothing() -> None:
    assert calls_in('[{"id":1}]') == calls_in("[1]") == calls_in('[{"name":"t"}]') == {}
