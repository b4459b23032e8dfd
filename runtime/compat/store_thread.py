"""A store in a thread of its own, with its own event loop, for callers in any other thread.

The thread is a daemon, and so are those that it starts. Python does not wait for daemons at its exit: it
waits for the threads of the program, which may still write, and then calls `close_all`, which stores what
waits. So a forgotten close loses nothing, and cannot hang the exit.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from runtime.errors import ShuttingDown
from runtime.store.store import Store, open_store

logger = logging.getLogger("agent_runtime.compat")

Result = TypeVar("Result")
Part = TypeVar("Part")
Work = Callable[[Store], Coroutine[Any, Any, Result]]


class _ThreadForEach(ThreadPoolExecutor):
    """Runs each call in a thread of its own, until the very end: a pool refuses calls once main has ended."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


class StoreThread:
    """An open store, and the thread that it lives in. Raises StartupError where it cannot be opened."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.flushes: list[Callable[[], None]] = []
        """What is called before the store is closed: to save what is only in memory."""
        self.is_closed = False
        self.lock = threading.RLock()
        self._parts: dict[object, Any] = {}
        self._running: set[Future[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_ThreadForEach())
        self._ends = asyncio.Event()
        opened: Future[Store] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="agent-runtime", daemon=True)
        self._thread.start()
        self._store = opened.result()

    def _run(self, opened: Future[Store]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._keep_open(opened))

    async def _keep_open(self, opened: Future[Store]) -> None:
        try:
            async with open_store(self.url) as store:
                opened.set_result(store)
                await self._ends.wait()
        except BaseException as error:
            if opened.done():
                logger.exception("closing the store failed")
            else:
                opened.set_exception(error)

    def part(self, kind: Callable[[StoreThread], Part]) -> Part:
        """The one object of a kind that all who use this store share."""
        with self.lock:
            if kind not in self._parts:
                self._parts[kind] = kind(self)
            found: Part = self._parts[kind]
            return found

    def submit(self, work: Work[Result]) -> Future[Result]:
        """Start work on the store, after all that was submitted before; does not wait for its end.

        Raises ShuttingDown after `close`.
        """
        with self.lock:
            if self.is_closed:
                raise ShuttingDown("the database is closed; a new Database opens it again")
            future = asyncio.run_coroutine_threadsafe(work(self._store), self._loop)
            self._running.add(future)
            future.add_done_callback(self._running.discard)
            return future

    def run(self, work: Work[Result]) -> Result:
        """Do work on the store and return its result. Blocks, also where an event loop runs."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("the thread of the store cannot wait for itself")
        return self.submit(work).result()

    def run_all(self, begin: Sequence[Callable[[], Future[Any]]]) -> None:
        """Begin each work, and wait for all. What fails is logged: the others are done."""
        futures: list[Future[Any]] = []
        for each in begin:
            try:
                futures.append(each())
            except Exception as error:
                logger.error("a change was not stored: %s", error)
        for future in futures:
            future.add_done_callback(_log_failure)
        wait(futures)

    def settle(self, future: Future[Any]) -> None:
        """Wait for work, or, where an event loop runs, see to it that a failure is logged."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            future.result()
        else:
            future.add_done_callback(_log_failure)

    def close(self) -> None:
        """Save what is only in memory, finish what has begun, and close. Later calls raise ShuttingDown."""
        with self.lock:
            if self.is_closed:
                return
            flushes, self.flushes = self.flushes, []
        for flush in flushes:
            flush()
        with self.lock:
            self.is_closed = True
            running = set(self._running)
        wait(running)
        self._loop.call_soon_threadsafe(self._ends.set)
        self._thread.join()


def _log_failure(future: Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("a change was not stored: %s", error)


_open: dict[str, StoreThread] = {}
_opening = threading.Lock()


def open_thread(url: str) -> StoreThread:
    """The store at a URL, opened by the first who asks. Raises StartupError."""
    key = _place(url)
    with _opening:
        thread = _open.get(key)
        if thread is None:
            thread = _open[key] = StoreThread(url)
        return thread


def _place(url: str) -> str:
    """What a URL names: a file that is in use cannot be opened once more under another path."""
    scheme, separator, rest = str(url).partition("://")
    path = os.path.realpath(rest[1:]) if scheme.startswith("sqlite") else rest
    return f"{scheme.partition('+')[0]}{separator}{path}"


def close_thread(thread: StoreThread) -> None:
    """Close a store for all who use it; the next one who asks for its URL opens it again."""
    with _opening:
        for key in [key for key, other in _open.items() if other is thread]:
            del _open[key]
        thread.close()


def close_url(url: str) -> None:
    """Close the store at a URL, if it is open."""
    thread = _open.get(_place(url))
    if thread is not None:
        close_thread(thread)


def close_all() -> None:
    """Close every store: nothing that was saved is lost at the end of the process."""
    for thread in list(_open.values()):
        try:
            close_thread(thread)
        except Exception:
            logger.exception("closing a store failed")


atexit.register(close_all)
