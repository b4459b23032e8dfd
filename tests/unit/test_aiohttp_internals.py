"""The private names of aiohttp that the server depends on are there, and in one module of ours only."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from aiohttp import web, web_protocol
from aiohttp.streams import EMPTY_PAYLOAD

import runtime

INTERNALS = Path(runtime.__file__).parent / "api" / "aiohttp_internals.py"

SLOTS = {
    web.RequestHandler: (
        *("_close", "_force_close", "_request_count", "_messages", "_request_in_progress"),
        *("_current_request", "_loop", "_task_handler", "_waiter"),
    ),
}
SET_BY_INIT = {
    web.Server: ("_loop", "_connections", "_kwargs", "request_handler", "request_factory"),
    web.StreamResponse: ("_req", "_keep_alive", "_payload_writer", "_eof_sent", "_must_be_empty_body"),
}
METHODS = {
    web.AppRunner: {"_make_server": "(self)"},
    web.StreamResponse: {"_start": "(self, request)"},
}


def names(kind: type) -> set[str]:
    """Every name that a class, or its `__init__`, gives to its instances."""
    slots = {slot for parent in kind.__mro__ for slot in getattr(parent, "__slots__", ())}
    source = "".join(
        inspect.getsource(parent) for parent in kind.__mro__ if parent.__module__.startswith("aiohttp")
    )
    assigned = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return slots | assigned | set(dir(kind))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for table in (SLOTS, SET_BY_INIT) for kind, found in table.items() for name in found],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_attribute_that_is_used_exists(kind: type, name: str) -> None:
    assert name in names(kind), f"aiohttp changed: {kind.__name__} has no {name}"


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [(kind, name, wanted) for kind, found in METHODS.items() for name, wanted in found.items()],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_method_that_is_overridden_takes_the_same(kind: type, name: str, wanted: str) -> None:
    method = getattr(kind, name, None)
    assert method is not None, f"aiohttp changed: {kind.__name__} has no {name}"
    found = f"({', '.join(inspect.signature(method).parameters)})"
    assert found == wanted, f"aiohttp changed: {kind.__name__}.{name} takes {found}"
    assert inspect.iscoroutinefunction(method), f"aiohttp changed: {kind.__name__}.{name} is not asynchronous"


def test_a_request_that_cannot_be_parsed_is_described_by_three_fields() -> None:
    fields = list(inspect.signature(web_protocol._ErrInfo).parameters)
    assert fields == ["status", "exc", "message"], f"aiohttp changed: _ErrInfo has {fields}"


def test_an_empty_body_is_at_its_end() -> None:
    assert EMPTY_PAYLOAD.is_eof(), "aiohttp changed: EMPTY_PAYLOAD is not at its end"


def test_no_other_module_uses_them() -> None:
    private = {name for table in (SLOTS, SET_BY_INIT) for found in table.values() for name in found}
    private = {name for name in private if name.startswith("_")} | {"_make_server", "_start", "_ErrInfo"}
    # Names that classes of ours have as well.
    private -= {"_loop", "_close", "_start", "_kwargs", "_messages"}
    users = {
        (path.name, node.attr)
        for path in (INTERNALS.parent.glob("*.py"))
        if path != INTERNALS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in private
    }
    assert users == set()
