"""Every command of README.md, run in order in a fresh folder, twice, with the replies that it shows.

The program is the one installed beside the interpreter of the tests; the port, which may be in use, and the
address of Postgres are those of the test. Blocks that serve with settings of their own take the place of the
server meanwhile, as they would in a terminal.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.support.documents import Block, Replies, blocks, read
from tests.support.server_process import PATIENCE, ServerProcess, environment

README = read("README.md")
PROGRAM = ".venv/bin/agent-runtime"
ADDRESS = "127.0.0.1:8001"
POSTGRES = "postgresql://user:password@localhost/conversations"
SHELL = ("bash", "-euo", "pipefail", "-c")
# A reply that is an error fails its command.
CURL = f'curl() {{ command curl --fail-with-body --max-time {PATIENCE:.0f} "$@"; }}\n'


@dataclass(frozen=True)
class Step:
    """A block to run, and what the README shows of its output; empty where it shows nothing."""

    block: Block
    shown: str

    @property
    def serves(self) -> bool:
        return self.block.text.rstrip().endswith(f"{PROGRAM} serve")


def steps(text: str) -> list[Step]:
    """The blocks of commands, each with the block of output that follows it."""
    found = [block for block in blocks(text) if "pytest" not in block.text]
    follows = [*found[1:], Block("sh", "", 0)]
    outputs = {"json", "text"}
    return [
        Step(block, follower.text if follower.language in outputs else "")
        for block, follower in zip(found, follows, strict=True)
        if block.language in {"sh", "python"}
    ]


class Reader:
    """Somebody who follows the README in `folder`, with one terminal for the server and one beside it."""

    def __init__(self, folder: Path, postgres_url: str) -> None:
        (folder / ".venv").symlink_to(sys.prefix)
        self._folder = folder
        self._postgres_url = postgres_url
        self._replies = Replies()
        self._server = self._serve(PROGRAM + " serve")

    def close(self) -> None:
        """Stop the server, or kill it where that fails."""
        with self._server:
            assert self._server.stop() == 0

    def follow(self, step: Step, *, compare: bool) -> None:
        """Run a block; with `compare` its output must be the one shown."""
        place = f"README.md, line {step.block.line}:\n{step.block.text}"
        if step.serves:
            self._try_server(step.block.text)
            return
        ended = self._run(step.block)
        assert ended.returncode == 0, f"{place}\n{ended.stdout}\n{ended.stderr}"
        if compare and step.shown:
            fits = self._replies.match(step.shown, ended.stdout)
            assert fits, f"{place}\nshown: {step.shown}\nreal:  {ended.stdout}"

    def _run(self, block: Block) -> subprocess.CompletedProcess[str]:
        text = block.text.replace(ADDRESS, self._server.url.removeprefix("http://"))
        command = [".venv/bin/python", "-c", text] if block.language == "python" else [*SHELL, CURL + text]
        return subprocess.run(
            command,
            cwd=self._folder,
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def _try_server(self, text: str) -> None:
        """Serve with the settings of a block, then as before."""
        self.close()
        self._server = self._serve(text.rpartition("&& ")[2].replace(POSTGRES, self._postgres_url))
        with urllib.request.urlopen(f"{self._server.url}/sessions", timeout=PATIENCE) as reply:
            assert reply.status == 200
        self.close()
        self._server = self._serve(PROGRAM + " serve")

    def _serve(self, text: str) -> ServerProcess:
        server = ServerProcess({}, self._folder, command=[*SHELL, f"exec env {text}"])
        server.wait_until_listening()
        return server


def test_every_command_of_the_readme_runs_twice_with_the_replies_shown(
    tmp_path: Path, empty_postgres_url: str
) -> None:
    assert shutil.which("curl"), "curl is missing: the README's examples need it (apt-get install curl)"
    installed = Path(sys.prefix) / "bin" / "agent-runtime"
    assert installed.exists(), f"{installed} is missing: install the checkout (pip install -e .)"
    found = steps(README)
    # What is about tokens comes last: it closes the server.
    tokens = next(place for place, step in enumerate(found) if "token create" in step.block.text)
    reader = Reader(tmp_path, empty_postgres_url)
    try:
        for part in (found[:tokens], found[tokens:]):
            for compare in (True, False):
                for step in part:
                    reader.follow(step, compare=compare)
    finally:
        reader.close()


def test_the_test_command_of_the_readme_is_that_of_the_project() -> None:
    [command] = [block.text.strip() for block in blocks(README) if "pytest" in block.text]
    scripts = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["envs"]["default"]["scripts"]
    assert command.endswith(f".venv/bin/python -m {scripts['test']}")
