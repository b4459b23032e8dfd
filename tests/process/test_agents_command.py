"""`agent-runtime agents` as an operator meets it."""

from __future__ import annotations

from pathlib import Path

from tests.support.server_process import run_command

FILE = """\
[agents.orchestrator]
name = "Only one"
description = "Does it all."
instructions = "Do it."
model = "large"
parameters = { temperature = 0.5 }
tools = ["write_file"]
files = ["docs/*", "*.md"]

[limits]
seconds = 90
"""


def test_the_agents_command_prints_the_registry_or_the_mistake(tmp_path: Path) -> None:
    ended = run_command("agents", env={})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("all built in\n")
    for told in ("orchestrator (", "coder (", "architect (", "debug (", "ask (", "25 questions"):
        assert told in ended.stdout

    file = tmp_path / "agents.toml"
    file.write_text(FILE)
    ended = run_command("agents", env={"AGENTS_FILE": str(file)})
    assert ended.returncode == 0, ended.stderr
    for told in (
        f"from {str(file)!r}; sections that it leaves out are built in\n",
        "  orchestrator (Only one)\n    Does it all.\n",
        "model:         large\n",
        "parameters:    temperature = 0.5\n",
        "tools:         write_file\n",
        "hands over to: nobody\n",
        "edits only:    docs/*, *.md\n",
        "  write_file        waits for approval: changes files\n",
        "  read_file         runs without approval\n",
        "25 questions to the model, 5 handovers, 90 seconds\n",
    ):
        assert told in ended.stdout
    assert "coder" not in ended.stdout

    file.write_text(FILE.replace("write_file", "wrte_file"))
    ended = run_command("agents", env={"AGENTS_FILE": str(file)})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"agent-runtime: AGENT_RUNTIME__AGENTS_FILE {str(file)!r}, line 7: agents.orchestrator.tools[0]:"
        " there is no tool 'wrte_file'; the nearest is 'write_file'\n"
    )
