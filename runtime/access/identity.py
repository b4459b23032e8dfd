"""The identity of a caller."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from runtime.errors import Forbidden
from runtime.models import Scope

# Each scope holds those before it.
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")


class Identity(Struct, frozen=True):
    """The caller of a request, as authenticated.

    `client` is who its requests are counted for, empty for those known by their address alone; `token_id`
    is the token that proved it, if one did; after `expires_at` it is proven no more.
    """

    owner: str = ""
    scope: Scope | None = "admin"
    client: str = ""
    token_id: str = ""
    expires_at: datetime | None = None

    def demand(self, scope: Scope) -> None:
        """Raise Forbidden unless this scope is held."""
        if self.scope is None or SCOPES.index(self.scope) < SCOPES.index(scope):
            held = self.scope or "none of ours"
            raise Forbidden(f"this needs the scope {scope}; yours is {held}", scope)


# The caller of an open server.
ANYBODY = Identity()
