"""An event loop whose time jumps to the next timer when nothing else is to be done: tests never wait."""

from __future__ import annotations

import asyncio
import selectors


class _Selector(selectors.SelectSelector):
    """Never waits: what it would have waited for has passed, as far as the loop can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits, and for nothing that could come"
            self.passed += max(timeout, 0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its `time` begins at 0, in seconds."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.passed
