"""Merges metadata as JSON Merge Patch (RFC 7396) does."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.store.records import JsonText, encode_text

# Raw keeps the digits of a number.
_decode = msgspec.json.Decoder(float_hook=msgspec.Raw).decode


def merge(stored: JsonText, patch: JsonText) -> JsonText:
    """The JSON text of an object after a patch: null removes a member, and objects are merged.

    The patch `null` removes all members: metadata is always an object.
    """
    return "{}" if patch == "null" else encode_text(_merge(_decode(stored), _decode(patch)))


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged
