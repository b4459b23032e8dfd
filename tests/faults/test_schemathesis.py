"""Schemathesis reads our OpenAPI document and asks for everything in it, rightly and wrongly: no reply is a
5xx, and each is as the document says. All of its checks are on; schemathesis.toml and schemathesis_hooks.py
say what it must know beyond the document, and why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.api.application import ROUTES
from tests.faults.conftest import Report
from tests.support.server_process import environment, run_command, start_server

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
COMMAND = (sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run")
# Seconds: far more than it takes to try an example of each operation.
PATIENCE = 60.0


@pytest.mark.rounds(1)
def test_every_reply_is_as_documented(
    database_url: str, rounds: int, seed: int, report: Report, tmp_path: Path
) -> None:
    settings = {"DB_URL": database_url, "ACCESS_LOG": "off"}
    token = make_token(settings)
    with start_server(settings) as server:
        ended = run_schemathesis(server.url, token, rounds, seed, tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Traceback" not in server.log
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["complete"]
    # It leaves out the document itself, which it has read before.
    assert found["operations"]["tested"] == len(ROUTES) - 1
    report(rounds=rounds, requests=found["test_cases"]["generated"], refused_beyond_schemas=found["filtered"])


def make_token(settings: dict[str, str]) -> str:
    made = run_command("token", "create", "--name", "schemathesis", "--scope", "admin", env=settings)
    return made.stdout.splitlines()[-1]


def run_schemathesis(
    url: str, token: str, examples: int, seed: int, folder: Path
) -> subprocess.CompletedProcess[str]:
    """So many examples of each operation in each phase; it ends with 0 where no check fails."""
    return subprocess.run(
        [
            *(*COMMAND, f"{url}/openapi.json", "--no-color", "--checks", "all"),
            *("--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--report", "json", "--report-json-path", str(folder / "report.json")),
        ],
        cwd=folder,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE * (2 + examples),
        check=False,
    )
