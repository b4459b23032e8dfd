"""A language model behind a server that speaks OpenAI's chat-completions API, and streams."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import random
from collections.abc import Awaitable, Callable
from http.client import responses
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from runtime.agents.event_stream import EventStreamParser
from runtime.agents.model import Answer, Question
from runtime.agents.model_errors import beginning, one_line, retry_after, words_in, words_of
from runtime.agents.stream_assembler import Chunk, Fragments, decode_chunk
from runtime.agents.whole_reply import decode_reply
from runtime.errors import (
    ModelError,
    ModelGarbled,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from runtime.store.messages import texts_of

logger = logging.getLogger("agent_runtime.model")

AUTHORIZATION = "Authorization"
MAX_EVENT_BYTES = 1024 * 1024
# Of one answer with its framing: a few hundred bytes for each token.
MAX_STREAM_BYTES = 256 * 1024 * 1024
# A whole reply has at most a million characters of answer, each of up to twelve bytes as JSON.
MAX_REPLY_BYTES = 16 * 1024 * 1024
# How much is read without a pause in which others are served, in bytes.
SLICE = 16 * 1024
# Refusals that may not be there the next time; 5xx is the server's own trouble, and so is like them.
PASSING = {408, 409, 425, 429}

# Seconds: pauses between tries double from the first to the longest.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 20.0
LONGEST_RETRY_AFTER = 60.0


class _Busy(ModelUnavailable):
    """The server refuses for now; `pause` is how long it asks to be left alone, in seconds."""

    def __init__(self, message: str, status: int, pause: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.pause = pause


class _BrokeOff(ModelGarbled):
    """The stream ended before the answer did."""

    def __init__(self) -> None:
        super().__init__("the language model broke off in the middle of its answer")


class ChatCompletions:
    """Implements Model. `timeout` is how long the server may be silent; both timeouts are in seconds.

    `auth_header` carries the key: as a bearer token in `Authorization`, as it is in any other. Without
    `stream` the server is asked for whole replies. With `text_only` the text of a content is sent in place of
    its parts. An answer that begins with `failure_prefix` is a failure of the server.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        model: str,
        *,
        connect_timeout: float,
        timeout: float,
        retries: int,
        auth_header: str = AUTHORIZATION,
        stream: bool = True,
        text_only: bool = False,
        failure_prefix: str = "",
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._url = _endpoint(url)
        self._key = api_key
        self._model = model
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._retries = retries
        self._auth_header = auth_header
        self._stream = stream
        self._text_only = text_only
        self._failure_prefix = failure_prefix
        self._sleep = sleep
        self._draw = draw
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections. Cancel requests in progress first: they would wait for ever."""
        if self._http is not None:
            await self._http.close()

    async def ask(self, question: Question, say: Callable[[str], None]) -> Answer:
        """Ask, again where that may help, but only until the first token. Raises ModelError."""
        body = self._body(question)
        tried = 0
        while True:
            fragments = Fragments(say)
            try:
                await self._try(body, fragments)
                return fragments.answer()
            except (ModelUnavailable, ModelTimeout, _BrokeOff) as error:
                if fragments.begun or tried == self._retries:
                    raise
                pause = self._pause_after(error, tried)
            tried += 1
            await self._sleep(pause)

    def _body(self, question: Question) -> bytes:
        tools = {"tools": question.tools} if question.tools else {}
        messages = list(map(_with_text, question.messages)) if self._text_only else question.messages
        body = {
            "stream_options": {"include_usage": True},
            # What follows is not theirs to change.
            **question.parameters,
            "model": question.model or self._model,
            "messages": messages,
            **tools,
            "stream": self._stream,
        }
        # Some servers refuse the field, whatever it holds.
        if body["stream_options"] is False or not self._stream:
            del body["stream_options"]
        return msgspec.json.encode(body)

    def _pause_after(self, error: ModelError, tried: int) -> float:
        """Seconds until the next try: what the server asks for, else exponential backoff with full jitter."""
        asked = error.pause if isinstance(error, _Busy) else None
        if asked is not None and asked > LONGEST_RETRY_AFTER:
            raise ModelUnavailable(
                f"{error} (it is not to be asked again for {asked:.0f} seconds)"
            ) from error
        backoff = min(FIRST_PAUSE * 2**tried, LONGEST_PAUSE)
        pause = self._draw() * backoff if asked is None else asked
        # The server's words stay out of the log: they may repeat what was asked.
        reason = f"status {error.status}" if isinstance(error, _Busy) else error.code
        logger.warning("%s: the model is asked again in %.1f s", reason, pause)
        return pause

    async def _try(self, body: bytes, fragments: Fragments) -> None:
        response = await self._send(body)
        try:
            await self._check(response)
            await self._read(response, fragments)
        finally:
            # Closed at once, also when cancelled: what is left of a stream belongs to no later question.
            response.close()

    async def _send(self, body: bytes) -> aiohttp.ClientResponse:
        """The head of the reply. Raises ModelError."""
        try:
            # aiohttp counts from when the request is written, and a server may stop reading it before.
            async with asyncio.timeout(self._connect_timeout + self._timeout):
                return await self._session().post(self._url, data=io.BytesIO(body), allow_redirects=False)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unanswered(error) from error

    def _session(self) -> aiohttp.ClientSession:
        """Made with the first question: it belongs to the event loop that runs then."""
        if self._http is None:
            headers = {"Content-Type": "application/json", "Accept": self._media_type}
            if self._key:
                bearer = self._auth_header.lower() == AUTHORIZATION.lower()
                headers[self._auth_header] = f"Bearer {self._key}" if bearer else self._key
            self._http = aiohttp.ClientSession(
                headers=headers,
                # Each running turn has a connection of its own, however many there are.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(connect=self._connect_timeout, sock_read=self._timeout),
            )
        return self._http

    def _unanswered(self, error: Exception) -> ModelError:
        match error:
            case aiohttp.ConnectionTimeoutError():
                reason = f"no connection within {self._connect_timeout:g} seconds"
            case TimeoutError():
                return self._silent()
            case aiohttp.ClientResponseError():
                return ModelGarbled("the language model's server does not answer in HTTP")
            case aiohttp.ClientConnectorDNSError():
                reason = "the name of its host is not known"
            case aiohttp.ClientSSLError() | aiohttp.ClientConnectorCertificateError():
                reason = "no secure connection could be made"
            case aiohttp.ClientConnectorError():
                reason = os.strerror(error.errno).lower() if error.errno else "no connection could be made"
            case _:
                reason = "the connection broke before it answered"
        return ModelUnavailable(f"the language model's server cannot be reached: {reason}")

    def _silent(self) -> ModelTimeout:
        return ModelTimeout(f"the language model said nothing for {self._timeout:g} seconds")

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raises ModelError unless an answer follows."""
        if not 200 <= response.status < 300:
            raise await self._refusal(response)
        if response.content_type != self._media_type:
            found = one_line(response.headers.get("Content-Type", "no content type"), self._key)
            wanted = "a stream of events" if self._stream else "JSON"
            raise ModelGarbled(f"the language model's server sent {found} instead of {wanted}")

    @property
    def _media_type(self) -> str:
        return "text/event-stream" if self._stream else "application/json"

    async def _refusal(self, response: aiohttp.ClientResponse) -> ModelError:
        status = response.status
        words = words_in(await beginning(response.content), self._key)
        answer = f"{status} {responses.get(status, '')}".strip() + (f": {words}" if words else "")
        message = f"the language model's server answered {answer}"
        if status in PASSING or status >= 500:
            return _Busy(message, status, retry_after(response.headers))
        return ModelRefused(message)

    async def _read(self, response: aiohttp.ClientResponse, fragments: Fragments) -> None:
        """Read to the end of the answer. Raises ModelError where it does not come."""
        failure: ModelError = _BrokeOff()
        try:
            if not self._stream:
                return self._add(decode_reply(await self._whole(response.content)), fragments)
            if await self._gather(response.content, fragments):
                return
        except TimeoutError:
            failure = self._silent()
        except (aiohttp.ClientError, OSError) as error:
            failure.__cause__ = error
        # With its finish reason an answer is whole, however its stream ends.
        if not fragments.finish_reason:
            raise failure

    async def _gather(self, content: aiohttp.StreamReader, fragments: Fragments) -> bool:
        """Gather the pieces; return whether the server marked the end."""
        parser = EventStreamParser(MAX_EVENT_BYTES)
        left = MAX_STREAM_BYTES
        async for piece in content.iter_any():
            left -= len(piece)
            if left < 0:
                raise ModelGarbled(f"the language model sent more than {MAX_STREAM_BYTES} bytes in an answer")
            for start in range(0, len(piece), SLICE):
                for data in parser.feed(piece[start : start + SLICE]):
                    if data.strip() == "[DONE]":
                        return True
                    self._take(data, fragments)
                await asyncio.sleep(0)
        return False

    async def _whole(self, content: aiohttp.StreamReader) -> bytes:
        parts, left = [], MAX_REPLY_BYTES
        async for part in content.iter_any():
            left -= len(part)
            if left < 0:
                raise ModelGarbled(f"the language model sent a reply of more than {MAX_REPLY_BYTES} bytes")
            parts.append(part)
        return b"".join(parts)

    def _take(self, data: str, fragments: Fragments) -> None:
        if data.strip():
            self._add(decode_chunk(data), fragments)

    def _add(self, chunk: Chunk, fragments: Fragments) -> None:
        error = chunk.message if chunk.error is None and chunk.object == "error" else chunk.error
        if self._failure_prefix and (failure := _beginning_with(self._failure_prefix, chunk)):
            error = failure
        if error is not None:
            raise ModelUnavailable(f"the language model failed: {words_of(error, self._key)}")
        fragments.take(chunk)
        if "error" in (chunk.object, fragments.finish_reason):
            raise ModelUnavailable("the language model failed and gave no reason")


def _beginning_with(prefix: str, chunk: Chunk) -> str:
    """The content of a chunk that begins with a prefix; empty for another."""
    delta = chunk.choices[0].delta if chunk.choices else None
    content = delta.content if delta is not None else None
    return content if isinstance(content, str) and content.startswith(prefix) else ""


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the text of its content in place of a list of parts."""
    content = message.get("content")
    if isinstance(content, msgspec.Raw):
        content = msgspec.json.decode(content)
    return {**message, "content": "\n".join(texts_of(content))} if isinstance(content, list) else message


def _endpoint(url: str) -> str:
    """Where questions go. A query, such as Azure's version of the API, stays behind the path."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return parts._replace(path=f"{path}/chat/completions").geturl()
