"""Puts the parts together: opens the store, serves HTTP over it, and takes both down in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from aiohttp import http_parser, web
from aiohttp.typedefs import Handler
from msgspec import structs

from runtime import __version__
from runtime.access.authentication import open_authenticator
from runtime.agents.configuration import load_registry
from runtime.agents.engine import Engine, make_model
from runtime.api.application import create_app
from runtime.api.connection import Runner
from runtime.api.fd_limits import quieten, raise_limit
from runtime.api.routes import DEFAULT_STREAM_TIMEOUTS
from runtime.config import PREFIX, Settings
from runtime.errors import SettingsError
from runtime.metrics import Metrics
from runtime.models import utc_now
from runtime.store.store import Store, open_store

logger = logging.getLogger("agent_runtime.app")

# W11: how much of SHUTDOWN_TIMEOUT each step may take. aiohttp waits for its handlers, then cancels them
# and waits as long again.
TURNS_SHARE = 1 / 8
DRAIN_SHARE = 1 / 8
CANCEL_SHARE = 1 / 8
FLUSH_SHARE = 0.45  # what is left is for the process to end
# A process that has not ended so many seconds after its time is ended: nothing in it may wait for a disk that
# does not answer.
LAST_SECONDS = 0.25


class RequestsInHand:
    """Counts the requests in hand, so that they can be finished while their bodies are still read.

    aiohttp's own shutdown reads nothing more: a request whose body is on its way could not be answered.
    """

    def __init__(self) -> None:
        self._count = 0
        self._draining = False
        self._none = asyncio.Event()

    def around(self, handler: Handler) -> Handler:
        """A handler that counts."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self._count += 1
            try:
                response = await handler(request)
                if self._draining:
                    response.force_close()
                return response
            finally:
                self._count -= 1
                if self._draining and not self._count:
                    self._none.set()

        return answer

    async def finish(self, timeout: float) -> None:
        """Wait for those in hand, `timeout` seconds at most; each is the last on its connection."""
        self._draining = True
        if self._count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._none.wait(), timeout)


async def serve(settings: Settings, clock: Callable[[], datetime] = utc_now) -> int:
    """Serve until SIGTERM or SIGINT, then shut down in order; return how many writes were lost (W11).

    `clock` gives the time of day.

    Raises StartupError or DatabaseUnavailable where it cannot start.
    """
    raise_limit()
    quieten(asyncio.get_running_loop())
    _collect_seldom()
    stop = asyncio.Event()
    _on_signals(stop)
    _log_start(settings)
    metrics = Metrics()
    # Their errors are raised before a database is touched.
    registry, model = load_registry(settings.agents_file), make_model(settings)
    flushing = structs.replace(settings, shutdown_timeout=settings.shutdown_timeout * FLUSH_SHARE)
    async with (
        open_store(None, flushing, metrics, clock=clock) as store,
        open_authenticator(settings, store.tokens) as gate,
    ):
        engine = Engine(store, registry, model, metrics)
        app = create_app(store, engine, gate, settings, metrics)
        async with store.keep_retention(), _listening(app, store, engine, settings):
            await stop.wait()
            logger.info("shutting down, in at most %g s", settings.shutdown_timeout)
            _end_in_time(settings.shutdown_timeout)
    return store.unstored


@asynccontextmanager
async def _listening(
    app: web.Application, store: Store, engine: Engine, settings: Settings
) -> AsyncIterator[None]:
    """Accept requests; at the end refuse new ones, end turns and streams and finish the handlers in hand."""
    in_hand = RequestsInHand()
    runner = Runner(
        app,
        read_timeout=settings.read_timeout,
        patience=DEFAULT_STREAM_TIMEOUTS.patience,
        shutdown_timeout=settings.shutdown_timeout * CANCEL_SHARE,
        around=in_hand.around,
    )
    await runner.setup()
    try:
        await _listen(runner, settings.host, settings.port)
        yield
        for site in runner.sites:
            await site.stop()
    finally:
        await engine.close(settings.shutdown_timeout * TURNS_SHARE)
        store.end_streams()
        await in_hand.finish(settings.shutdown_timeout * DRAIN_SHARE)
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        place = f"{PREFIX}HOST {host!r}, {PREFIX}PORT {port}"
        raise SettingsError(f"cannot listen on {place}: {error.strerror or error}") from error
    for address in runner.addresses:
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        logger.info("listening on http://%s:%d", name, address[1])


def _on_signals(stop: asyncio.Event) -> None:
    """The first signal asks for an orderly end; a second one ends the process at once."""

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            logger.error("%s again: exiting at once, writes may be lost", number.name)
            # Not sys.exit: it would wait for threads, and for the flush that this is to cut short.
            os._exit(1)
        logger.info("%s received", number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)


def _end_in_time(timeout: float) -> None:
    """End the process after the timeout even if a thread waits for something that cannot be interrupted."""

    def end() -> None:
        logger.error(
            "the server did not come to its end in %g s: exiting at once, writes may be lost", timeout
        )
        os._exit(1)

    timer = threading.Timer(timeout + LAST_SECONDS, end)
    timer.daemon = True
    timer.start()


def _collect_seldom() -> None:
    """Look for cycles after 10,000 new objects, not 700, and never among what was imported.

    Requests leave few, and to search for them takes a tenth of the time of an append.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _log_start(settings: Settings) -> None:
    logger.info("agent-runtime %s, process %d", __version__, os.getpid())
    if settings.dialect == "gateway":
        reason = "" if settings.stream_dialect else f", since {PREFIX}LLM_PROXY_URL is set"
        logger.info("turns are streamed in the dialect of the earlier service's gateway%s", reason)
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        logger.warning("aiohttp runs without its C parser: requests will be slow")
