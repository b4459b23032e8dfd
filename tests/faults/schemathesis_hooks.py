"""What schemathesis must know of our server beyond its OpenAPI document."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

# Requests that fit the document and are refused, and rightly: OpenAPI has no words for what makes them wrong.
BEYOND_SCHEMAS = {
    "?cursor": "a cursor is a `next_cursor` that a page has given, and opaque",
    "?q": "a word, in any script",
    "?before": "one way to read back, and only one",
    "?last": "one way to read back, and only one",
    "?page": "one way to read back, and only one",
    "?page_size": "one way to read back, and only one",
    "$.message.agent_type": "one of the agents of the configuration",
}

# 1.0 is an integer to JSON Schema; to JSON parsers, and so to us, it is a float.
WHOLE_FLOATS = ("Expected `int`, got `float`", "Expected `int | null`, got `float`")


@schemathesis.hook
def filter_failure(ctx: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Whether a failure is one: a refusal of good data that no schema could foresee is none."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 422:
        return True
    problem = response.json()
    if problem["code"] == "idempotency_key_reused":
        # A key is for one request, and keys are generated again and again.
        return False
    [place] = problem["errors"]
    return place["path"] not in BEYOND_SCHEMAS and place["message"] not in WHOLE_FLOATS
