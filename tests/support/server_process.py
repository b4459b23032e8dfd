"""Real processes of the program: a server that a test starts, stops and kills, and commands that end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import runtime
from runtime.config import PREFIX

PROGRAM = (sys.executable, "-m", "runtime")
SERVE = (*PROGRAM, "serve")
SOURCES = str(Path(runtime.__file__).parents[1])
PATIENCE = 180.0


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of ours or of libpq, and with those given.

    Names go without the prefix: {"DB_URL": …}. PORT is 0 unless it is given.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith((PREFIX, "PG"))}
    ours = {PREFIX + name: text for name, text in {"PORT": "0", **env}.items()}
    return {**kept, "PYTHONPATH": SOURCES, **ours}


def run_command(
    *arguments: str, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; its output is text."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class ServerProcess:
    """`agent-runtime serve`, or another server, started; killed when a `with` over it ends.

    `wait_until_listening` gives it its `url`.
    """

    def __init__(
        self, env: Mapping[str, str], cwd: Path | None = None, *, command: Sequence[str] = SERVE
    ) -> None:
        self.url = ""
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            command,
            env=environment(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        # The log is read to its end, or a full pipe would stop the server.
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.kill()
        if kind is not None:
            # pytest shows it beside the failure.
            print(self.log, file=sys.stderr)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as log:
            for line in log:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return "".join(self._lines)

    def wait_until_listening(self) -> None:
        """Return once it listens; fail with its log where it ends instead."""
        self.url = self.wait_for(r"listening on (http://[\w.:\[\]-]+)")[1]

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until this stands in the log; fail with the log where the process ends without it."""
        with self._news:
            self._news.wait_for(lambda: self._ended or re.search(pattern, self.log), PATIENCE)
        if found := re.search(pattern, self.log):
            return found
        self.kill()
        raise AssertionError(f"no {pattern!r} in the log of the server:\n{self.log}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal, and do not wait for what it does."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until the process has ended by itself; its exit status."""
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def stop(self) -> int:
        """SIGTERM; wait for the orderly end; its exit status."""
        self.send(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """`kill -9`; harmless where the process has ended."""
        self._process.kill()
        self.wait()


def start_server(env: Mapping[str, str], cwd: Path | None = None) -> ServerProcess:
    """A server that listens, with these settings (names without the prefix)."""
    server = ServerProcess(env, cwd)
    server.wait_until_listening()
    return server
