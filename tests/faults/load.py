"""A load on one or several servers: writers, readers and followers, each move drawn from a seed.

Servers may die and come back elsewhere while it runs: `targets` says where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random

import aiohttp

from tests.faults.asking import Asker, Target
from tests.faults.journal import Journal
from tests.faults.roles import Course, follow, read, write

Tasks = list[asyncio.Task[None]]
Role = Callable[[Course, Random, int], Awaitable[None]]


class Load:
    """`async with load.running():` makes the sessions and runs it; `journal` is what came of it.

    name        begins the names of its sessions, its keys and what it writes: no two loads may share it
    seed        of everything that is drawn; but for the time that each answer takes, a load repeats itself
    sessions    how many there are
    writers     tasks that write, one request after another; so `readers`
    followers   tasks that each follow one session
    buffered    writes ask for `Prefer: respond-async`
    headers     of every request: for a token
    timeout     seconds that a request may take before it counts as hung
    patience    seconds that everybody has, at the end, to come to an end
    pause       seconds between two requests of a task
    switches    whether writers hand sessions over to other agents as well
    """

    def __init__(
        self,
        targets: Sequence[Target | str] | str,
        *,
        seed: int,
        name: str = "load",
        sessions: int = 4,
        writers: int = 4,
        readers: int = 2,
        followers: int = 1,
        buffered: bool = False,
        headers: Mapping[str, str] = {},
        timeout: float = 15.0,
        patience: float = 15.0,
        pause: float = 0.0,
        switches: bool = True,
    ) -> None:
        given = [targets] if isinstance(targets, str) else targets
        self.targets = [
            Target(f"server {n}", each) if isinstance(each, str) else each for n, each in enumerate(given)
        ]
        self.journal = Journal()
        self._name, self._seed = name, seed
        self._sessions = [f"{name}-{n}" for n in range(sessions)]
        self._writers, self._readers, self._followers = writers, readers, followers
        self.buffered, self._switches = buffered, switches and not buffered
        self._headers, self._timeout = headers, timeout
        self._patience, self._pause = patience, pause
        self._stopping = False

    @property
    def stored(self) -> int:
        """How many writes were acknowledged or accepted so far."""
        return self.journal.stored

    async def work(self, writes: int) -> None:
        """Return when so many more were acknowledged or accepted. Bound it with a timeout."""
        enough = self.stored + writes
        while self.stored < enough:  # noqa: ASYNC110 - many tasks write, and none of them counts
            await asyncio.sleep(0.002)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It runs in the background, and is stopped in order: writes under a key are answered, followers hear
        all that is stored. Servers are to be there at the beginning, and again at the end."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
            asker = Asker(http, self.journal, self._headers, self._timeout)
            course = Course(
                self._name, self.targets, self._sessions, asker, self.journal, self.buffered, self._switches
            )
            await self._make_sessions(asker)
            asking, following = self._start(course)
            try:
                yield
            finally:
                await self._stop(course, asking, following)

    async def _make_sessions(self, asker: Asker) -> None:
        for session in self._sessions:
            answer = await asker.ask(self.targets[0], "PUT", f"/sessions/{session}")
            assert answer.fate == "acknowledged", answer

    def _start(self, course: Course) -> tuple[Tasks, Tasks]:
        asking = [self._repeat(write, course, n) for n in range(self._writers)]
        asking += [self._repeat(read, course, self._writers + n) for n in range(self._readers)]
        first = self._writers + self._readers
        following = [follow(course, self._chance(first + n), n) for n in range(self._followers)]
        return [*map(asyncio.create_task, asking)], [*map(asyncio.create_task, following)]

    def _chance(self, number: int) -> Random:
        return Random(f"{self._seed} {number}")

    async def _repeat(self, role: Role, course: Course, number: int) -> None:
        chance = self._chance(number)
        while not self._stopping:
            await role(course, chance, number)
            await asyncio.sleep(self._pause)

    async def _stop(self, course: Course, asking: Tasks, following: Tasks) -> None:
        self._stopping = True
        await self._end(asking, "writers and readers")
        await self._end([asyncio.create_task(self._look(course))], "reads of the heads")
        course.finished = True
        await self._end(following, "followers")

    async def _look(self, course: Course) -> None:
        """What followers are still to hear: unknown and accepted writes may be stored as well."""
        for session in self._sessions:
            answer = await course.asker.ask(self.targets[0], "GET", f"/sessions/{session}")
            if answer.status == 200:
                course.raise_last_seq(session, answer.body["last_seq"])

    async def _end(self, tasks: Tasks, what: str) -> None:
        """Wait for their end; fail with what a task failed with."""
        if not tasks:
            return
        done, late = await asyncio.wait(tasks, timeout=self._patience)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
            self.journal.oddities.append(f"hung: {len(late)} {what} did not end in {self._patience:g} s")
        for task in done:
            task.result()
