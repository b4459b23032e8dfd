"""The identity of a caller."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, structs

from runtime.errors import Forbidden
from runtime.models import Scope

# Each scope holds those before it.
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")


class Identity(Struct, frozen=True):
    """The caller of a request, as authenticated.

    `client` is who its requests are counted for, empty for those known by their address alone; `token_id`
    is the token that proved it, if one did; after `expires_at` it is proven no more. `acts_as` is the owner
    that the caller acts for in place of its own `owner`.
    """

    owner: str = ""
    scope: Scope | None = "admin"
    client: str = ""
    token_id: str = ""
    expires_at: datetime | None = None
    acts_as: str | None = None

    @property
    def effective_owner(self) -> str:
        """The owner whose sessions the request reads and writes."""
        return self.owner if self.acts_as is None else self.acts_as

    def demand(self, scope: Scope, what: str = "this") -> None:
        """Raise Forbidden unless this scope is held, which `what` needs."""
        if self.scope is None or SCOPES.index(self.scope) < SCOPES.index(scope):
            held = self.scope or "none of ours"
            raise Forbidden(f"{what} needs the scope {scope}; yours is {held}", scope)

    def act_for(self, owner: str) -> Identity:
        """The same caller, acting for another owner.

        Its quotas, its token and its end stay its own: see `Quotas` for why.
        """
        return structs.replace(self, acts_as=owner)


# The caller of an open server.
ANYBODY = Identity()
