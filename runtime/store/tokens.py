"""Access tokens: creates, lists, revokes and verifies them.

They are written outside of the writer's queue (W1), by the command line. No token is cached, so no cache can
be stale.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from operator import itemgetter

from runtime.db.database import Database, Row
from runtime.errors import DatabaseUnavailable, InvalidInput, TokenNotFound
from runtime.models import Scope, Token
from runtime.store.read.batch_loader import BatchLoader
from runtime.store.validation import check_key, json_list

# A token has the form art_<id>_<secret>: a leaked one can be recognised and revoked by its id.
MARK = "art"
FORM = re.compile(f"{MARK}_([0-9a-f]+)_[0-9a-f]+")
# Random bytes. The id must be unique, not secret.
ID_BYTES, SECRET_BYTES = 6, 32
# Seconds that a look-up may take; after that the database counts as unavailable.
LOOK_UP_SECONDS = 5.0
# The most tokens that a transaction erases.
PORTION = 500


class Tokens:
    """The tokens of a database. `make_secret` returns a number of random bytes in hexadecimal."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime],
        make_secret: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self._database = database
        self._clock = clock
        self._make_secret = make_secret
        # Results are not cached: a revocation takes effect at once.
        self._lookup = BatchLoader(self._fetch, itemgetter("id"))

    async def create(
        self, name: str, *, owner: str = "", scope: Scope = "write", lifetime: timedelta | None = None
    ) -> tuple[Token, str]:
        """Create a token, valid for `lifetime` or until it is revoked; return it and its text.

        Only a hash of the text is stored. Raises InvalidInput.
        """
        check_key(name, "name")
        if owner:
            check_key(owner, "owner")
        now = self._clock()
        token = Token(self._make_secret(ID_BYTES), name, owner, scope, now, _end(now, lifetime), None)
        text = f"{MARK}_{token.id}_{self._make_secret(SECRET_BYTES)}"
        row = (token.id, _hash(text), name, owner, scope, now, token.expires_at)
        async with self._database.transaction() as tx:
            await tx.execute_many("insert_token", [row])
        return token, text

    async def list_all(self) -> list[Token]:
        """Every token, the oldest first."""
        return [_token_from(row) for row in await self._database.fetch("list_tokens")]

    async def any_exist(self) -> bool:
        """Whether a token was ever created."""
        return bool(await self._database.fetch("find_any_token"))

    async def revoke(self, wanted: str) -> Token:
        """Revoke the token with this id or text, or the valid one of this name; return it as it was.

        Raises TokenNotFound.
        """
        token = _choose(await self.list_all(), id_in(wanted) or wanted, self._clock())
        async with self._database.transaction() as tx:
            await tx.execute_many("revoke_token", [(token.id, self._clock())])
        return token

    async def erase_all_of(self, owner: str) -> int:
        """Delete the tokens of an owner for good; return how many. A server that was closed stays closed."""
        erased, last = 0, PORTION
        while last == PORTION:
            async with self._database.transaction() as tx:
                rows = await tx.fetch("lock_tokens_to_erase", owner, PORTION)
                if rows:
                    await tx.execute_many("insert_erased_token", [(self._clock(),)])
                    await tx.execute_many("delete_tokens", [(json_list(row["id"] for row in rows),)])
            last = len(rows)
            erased += last
        return erased

    async def count_all_of(self, owner: str) -> int:
        """The number of tokens of an owner."""
        return sum(token.owner == owner for token in await self.list_all())

    async def prove(self, text: str) -> Token | None:
        """The token with this text, if it is valid now."""
        id = id_in(text)
        row = None if id is None else await self._lookup.find(id)
        if row is None or not hmac.compare_digest(row["hash"], _hash(text)):
            return None
        return self._valid(row)

    async def find_valid(self, id: str) -> Token | None:
        """The token with this id, if it is valid now."""
        row = await self._lookup.find(id)
        return None if row is None else self._valid(row)

    def _valid(self, row: Row) -> Token | None:
        token = _token_from(row)
        return token if token.is_valid(self._clock()) else None

    async def _fetch(self, ids: str) -> Sequence[Row]:
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                return await self._database.fetch("list_named_tokens", ids)
        except TimeoutError as error:
            raise DatabaseUnavailable("tokens cannot be looked up for now") from error


def id_in(text: str) -> str | None:
    """The id in a text that has the form of a token, whether or not the token exists."""
    match = FORM.fullmatch(text)
    return match[1] if match else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _end(now: datetime, lifetime: timedelta | None) -> datetime | None:
    try:
        return None if lifetime is None else now + lifetime
    except OverflowError:
        raise InvalidInput("expires", "is later than any date") from None


def _token_from(row: Row) -> Token:
    return Token(*(row[name] for name in Token.__struct_fields__))


def _choose(tokens: list[Token], wanted: str, now: datetime) -> Token:
    named = [token for token in tokens if token.name == wanted and token.is_valid(now)]
    found = [token for token in tokens if token.id == wanted] or named
    if not found:
        raise TokenNotFound(f"there is no token {wanted!r} that could be revoked; `token list` shows all")
    if len(found) > 1:
        ids = ", ".join(token.id for token in found)
        raise TokenNotFound(f"{len(found)} tokens are named {wanted!r}; name one by its id: {ids}")
    return found[0]
