"""The rules of the domain, one function a command.

Each works on what the requests before it left, changes that, and returns the outcome. It raises before
it changes anything: a command that fails leaves everything as it was (W3).
"""

from runtime.store.write.rules import agents, approvals, imports, messages, sessions, turn_starts, turns
from runtime.store.write.rules.rule import Rules

RULES: Rules = {
    **sessions.RULES,
    **messages.RULES,
    **agents.RULES,
    **approvals.RULES,
    **imports.RULES,
    **turn_starts.RULES,
    **turns.RULES,
}
