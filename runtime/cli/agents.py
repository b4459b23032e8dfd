"""Prints the agents in force."""

from __future__ import annotations

import argparse

from runtime.config import Settings

HELP = "print the agents, tools, approval policy and limits in force"


async def run(_: argparse.Namespace, settings: Settings) -> int:
    """Print the agents, tools, approval policy and limits that are in force, and where they come from."""
    from runtime.agents.configuration import load_registry
    from runtime.agents.describe import describe_registry

    path = settings.agents_file
    registry = load_registry(path)
    print(f"from {path!r}; sections that it leaves out are built in\n" if path else "all built in\n")
    print(describe_registry(registry))
    return 0
