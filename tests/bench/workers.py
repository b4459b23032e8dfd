"""Starts the processes of `worker` and asks them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO

from tests.support.server_process import environment

STARTING_SECONDS = 60.0
# `package.SomeError: …` in the first column.
ERROR = re.compile(r"[\w.]+: ")


class WorkerFailed(Exception):
    """A worker ended, or did not answer; the message is the last that it said."""


class Worker:
    """One process of `tests.bench.worker`."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    async def measure(self, callers: int, seconds: float) -> dict[str, float]:
        """What it answers: `rate` and `median`, see `worker.measure`."""
        question = json.dumps({"callers": callers, "seconds": seconds}) + "\n"
        assert self._process.stdin is not None
        self._process.stdin.write(question.encode())
        return await self.answer(seconds + 60)

    async def answer(self, seconds: float) -> dict[str, float]:
        """The next line that it says, within so many seconds. Raises WorkerFailed."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), seconds)
        except TimeoutError:
            # Whatever it is at, it would disturb those that are measured after it.
            self._process.kill()
            raise WorkerFailed(f"no answer within {seconds:g} s") from None
        if not line:
            raise WorkerFailed(await self._last_words())
        answer: dict[str, float] = json.loads(line)
        return answer

    async def _last_words(self) -> str:
        await self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        # Notes on an error may follow it.
        return next(filter(ERROR.match, reversed(lines)), lines[-1] if lines else "it ended without a word")


@asynccontextmanager
async def open_worker(module: str, url: str, python: str = sys.executable) -> AsyncIterator[Worker]:
    """A worker over the store at `url`, by the environment of `python`; it is gone at the end."""
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", module, url),
            env=environment({}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
        try:
            worker = Worker(process, errors)
            await worker.answer(STARTING_SECONDS)
            yield worker
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
