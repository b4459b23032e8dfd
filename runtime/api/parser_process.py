"""Parses large bodies in a process of its own: to decode one takes a second, and holds the GIL.

Both sides write frames: a length in four bytes, and so many bytes. A request is two, the pickled type and the
body. The answer is one of msgpack, and one more for each portion of the messages in the body.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from runtime.api.parsing import parse_body
from runtime.api.problems import HttpError
from runtime.errors import InvalidInput, NotStored
from runtime.store.messages import MessageBatch, NewMessage
from runtime.store.validation import JsonValue

T = TypeVar("T")

# A body of at most this many bytes is parsed where it is read: whatever is in it, in 20 ms or so.
MAX_INLINE = 64 * 1024
# A portion of messages ends with the one that reaches either.
PORTION_BYTES, PORTION_MESSAGES = 64 * 1024, 500
# The worker makes room for another when it has had this much memory: what it freed may still be its own.
MAX_MEMORY = 512 * 1024 * 1024
# Seconds that a body may take in the worker, which takes three at most of 8 MB: it may have been stopped.
PARSE_SECONDS = 60.0

_LENGTH = struct.Struct(">I")
_START = "from runtime.api.parser_process import main; main()"


class Parsed(Struct, frozen=True, tag=True):
    """A body as msgpack, without its messages, which follow in portions."""

    body: msgspec.Raw
    portions: int


class Invalid(Struct, frozen=True, tag=True):
    """An InvalidInput."""

    path: str
    message: str


class Refused(Struct, frozen=True, tag=True):
    """An HttpError."""

    status: int
    code: str
    detail: str


Answer = Parsed | Invalid | Refused


class BodyParser:
    """Parses bodies without holding the event loop. Its process is started for the first large body.

    Large bodies are parsed one after another.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._worker: asyncio.subprocess.Process | None = None

    async def parse(self, body: bytes, wanted: type[T]) -> T:
        """The body as its type. Raises InvalidInput or HttpError, and NotStored where no process answers."""
        if len(body) <= MAX_INLINE:
            return parse_body(body, wanted)
        async with self._turn:
            for _ in range(2):  # The process may have been killed while it had nothing to do.
                try:
                    return await self._parse_apart(body, wanted)
                except (OSError, EOFError, TimeoutError):
                    continue
        raise NotStored("the process that parses large bodies does not answer; try again later")

    async def close(self) -> None:
        """End the process, whatever it does."""
        worker, self._worker = self._worker, None
        if worker is not None:
            # Not by its method, which would wait for a process that is dead in place of the loop's watcher.
            if worker.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            await worker.wait()

    async def _parse_apart(self, body: bytes, wanted: type[T]) -> T:
        worker = self._worker
        if worker is None or worker.returncode is not None:
            worker = self._worker = await _start_worker()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            async with asyncio.timeout(PARSE_SECONDS):
                worker.stdin.writelines(_frames(pickle.dumps(wanted), body))
                await worker.stdin.drain()
                return await _read_answer(worker.stdout, wanted)
        except (InvalidInput, HttpError):
            raise
        except BaseException:
            # The rest of the answer would be taken for the next one.
            await self.close()
            raise


PARSER = web.AppKey("parser", BodyParser)


async def _start_worker() -> asyncio.subprocess.Process:
    # It finds our code where this process did.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _START),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )


async def _read_answer(reader: asyncio.StreamReader, wanted: type[T]) -> T:
    answer = msgspec.msgpack.decode(await _read_frame(reader), type=Answer)
    if isinstance(answer, Invalid):
        raise InvalidInput(answer.path, answer.message)
    if isinstance(answer, Refused):
        raise HttpError(answer.status, answer.code, answer.detail)
    messages: list[NewMessage] = []

    def make_part(kind: type[Any], carried: Any) -> Any:
        return kind(messages if issubclass(kind, MessageBatch) else carried)

    body = msgspec.msgpack.decode(answer.body, type=wanted, dec_hook=make_part)
    for _ in range(answer.portions):
        messages += _decode_portion(await _read_frame(reader))
        await asyncio.sleep(0)  # Of a frame that has come already no reader waits.
    return body


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return await reader.readexactly(length)


def main() -> None:
    """Parse bodies from standard input, one after another, until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C goes to the server, which ends this one.
    gc.disable()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        while True:
            wanted = pickle.loads(_take_frame(source))
            for part in _frames(*_answer(_take_frame(source), wanted)):
                target.write(part)
            target.flush()
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > MAX_MEMORY:
                break


def _take_frame(source: BinaryIO) -> bytes:
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    return source.read(*_LENGTH.unpack(head))


def _answer(body: bytes, wanted: type[Any]) -> Iterator[bytes]:
    """The frames of the answer."""
    answer: Answer
    batches: list[MessageBatch] = []

    def carry(part: Any) -> Any:
        if isinstance(part, MessageBatch):
            batches.append(part)
            return len(part.items)
        assert isinstance(part, JsonValue), f"{part!r} cannot be sent on"
        return part.text

    try:
        parsed = msgspec.msgpack.encode(parse_body(body, wanted), enc_hook=carry)
    except InvalidInput as error:
        answer = Invalid(error.problems[0].path, error.problems[0].message)
    except HttpError as error:
        answer = Refused(error.status, error.code, str(error))
    else:
        portions = [portion for batch in batches for portion in _portions(batch.items)]
        yield msgspec.msgpack.encode(Parsed(msgspec.Raw(parsed), len(portions)))
        yield from map(_encode_portion, portions)
        return
    yield msgspec.msgpack.encode(answer)


def _portions(messages: Sequence[NewMessage]) -> Iterator[list[NewMessage]]:
    portion: list[NewMessage] = []
    size = 0
    for message in messages:
        portion.append(message)
        size += message.size
        if size >= PORTION_BYTES or len(portion) == PORTION_MESSAGES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


_encode_portion = msgspec.msgpack.Encoder().encode
_decode_portion = msgspec.msgpack.Decoder(list[NewMessage]).decode


def _frames(*contents: bytes) -> Iterable[bytes]:
    for content in contents:
        yield _LENGTH.pack(len(content))
        yield content
