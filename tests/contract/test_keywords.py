"""A keyword that a write does not know is a TypeError, and nothing is stored."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from runtime.errors import SessionNotFound
from runtime.store.store import Store

ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "create_session": ((), {}),
    "update_session": ((), {"title": "new"}),
    "delete_session": ((), {}),
    "restore_session": ((), {}),
    "fork_session": (("f",), {}),
    "append_messages": (([{"role": "user", "content": "hello"}],), {}),
    "replace_messages": (([],), {}),
    "truncate_messages": ((), {"after": 0}),
    "switch_agent": (("coder",), {}),
    "update_context": (({"k": 1},), {}),
    "create_approval": (("c", "tool", {}), {}),
    "decide_approval": (("c", "approve"), {}),
    "delete_approval": (("c",), {}),
    "stop_turn": (("t",), {}),
}


def test_every_write_is_covered() -> None:
    writes = {
        name
        for name, method in inspect.getmembers(Store, inspect.isfunction)
        if inspect.Parameter.VAR_KEYWORD in {p.kind for p in inspect.signature(method).parameters.values()}
    }
    assert writes == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_an_unknown_keyword_is_a_type_error(store: Store, name: str) -> None:
    arguments, keywords = ARGUMENTS[name]
    if name != "create_session":
        await store.create_session("s", title="old")
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'ownr'; every write takes owner, "):
        await getattr(store, name)("s", *arguments, **keywords, ownr="alice")
    if name == "create_session":
        with pytest.raises(SessionNotFound):
            await store.get_session("s")
    else:
        assert (await store.get_session("s")).version == 1


@pytest.mark.parametrize("durability", ["committed", "buffered"])
async def test_a_buffered_write_refuses_it_too(store: Store, durability: Any) -> None:
    await store.create_session("s")
    with pytest.raises(TypeError, match="'if_mach', 'ownr'"):
        await store.append_messages(
            "s",
            [{"role": "user", "content": "hello"}],
            durability=durability,
            ownr="alice",  # type: ignore[call-overload]
            if_mach=3,
        )
    assert (await store.list_messages("s")).encoded == []
