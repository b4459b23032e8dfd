"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime.store.batch import Batch
from runtime.store.commands import Command, Outcome, Request

Rules = dict[type[Command], Callable[[Batch, Request, Any], Outcome]]
