"""Merges metadata as JSON Merge Patch (RFC 7396) does."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from runtime.store.records import JsonText, encode_text

# Values stay text: numbers keep their digits, and a large list takes no time.
_members = msgspec.json.Decoder(dict[str, Raw]).decode


def merge(stored: JsonText, patch: JsonText) -> JsonText:
    """The JSON text of an object after a patch: null removes a member, and objects are merged.

    The patch `null` removes all members: metadata is always an object.
    """
    return "{}" if patch == "null" else encode_text(_merge(_members(stored), _members(patch)))


def _merge(target: dict[str, Raw], patch: dict[str, Raw]) -> dict[str, Any]:
    merged: dict[str, Any] = dict(target)
    for name, value in patch.items():
        beginning = bytes(memoryview(value)[:4])
        if beginning == b"null":
            merged.pop(name, None)
        elif beginning.startswith(b"{"):
            old = target.get(name)
            is_object = old is not None and bytes(memoryview(old)[:1]) == b"{"
            merged[name] = _merge(_members(old) if is_object and old is not None else {}, _members(value))
        else:
            merged[name] = value
    return merged
