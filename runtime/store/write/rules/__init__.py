"""The rules of the domain: one function for each command.

A rule changes the batch as the requests before it left it, and returns the outcome. It raises an error only
before its first change: a command that fails changes nothing (W3).
"""

from runtime.store.write.rules import (
    agents,
    approvals,
    forks,
    imports,
    messages,
    saves,
    search,
    sessions,
    turn_starts,
    turns,
)
from runtime.store.write.rules.rule import Rules

RULES: Rules = {
    **sessions.RULES,
    **messages.RULES,
    **agents.RULES,
    **approvals.RULES,
    **saves.RULES,
    **forks.RULES,
    **imports.RULES,
    **search.RULES,
    **turn_starts.RULES,
    **turns.RULES,
}
