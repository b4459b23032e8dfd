"""The type of a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime.store.write.batch import Batch
from runtime.store.write.commands import Command, Request
from runtime.store.write.outcomes import Outcome

Rules = dict[type[Command], Callable[[Batch, Request, Any], Outcome]]
