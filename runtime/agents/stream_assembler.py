"""An answer gathered from the chunks that it is streamed in, as many servers send them: with gaps."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from runtime.agents.model import Answer, ToolCall, new_call_id
from runtime.errors import ModelGarbled
from runtime.models import KEY_PATTERN, TokenCount

# The most of one answer: characters of all of it, each of at most four bytes; tool calls; characters
# in the name of a tool.
MAX_CHARACTERS = 1_000_000
MAX_CALLS = 128
MAX_NAME = 1000
# Choices and pieces of tool calls in one event. Servers send one of each, or all the calls at once.
MAX_PIECES = 8 * MAX_CALLS
# Events, and pieces of tool calls, that add nothing to the answer. Each token of a model's thinking is one of
# these: models think some 100,000 tokens at most.
MAX_EMPTY = 250_000
# A longer chunk is decoded by the standard library: msgspec takes 1.5 s for a megabyte of long floats.
LONG_CHUNK = 4096
FINISH_REASONS = {"stop", "tool_calls", "length", "content_filter", "function_call"}
KEY = re.compile(KEY_PATTERN)


class FunctionFragment(Struct):
    """A piece of a name and of arguments; some servers send the arguments as an object, all at once."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallFragment(Struct):
    """A piece of a tool call; its call is given by `index`, by `id`, or not at all."""

    index: int | None = None
    id: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | None = None
    function: FunctionFragment | None = None


class Delta(Struct):
    """What a chunk adds to the answer."""

    content: str | list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[CallFragment] | None = None


class Choice(Struct):
    """One of the answers that a server may give side by side."""

    index: int | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(Struct):
    """The data of one event, as far as it concerns us; some servers send other objects in between."""

    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None
    message: Any = None


_decoder = msgspec.json.Decoder(Chunk)


def decode_chunk(data: str) -> Chunk:
    """A chunk from the data of an event; another object adds nothing. Raises ModelGarbled."""
    try:
        return _decode(data)
    except (ValueError, RecursionError) as error:
        raise ModelGarbled(f"the language model sent what is not a chunk of an answer: {error}") from error


def _decode(data: str) -> Chunk:
    if len(data) > LONG_CHUNK:
        return msgspec.convert(json.loads(data), Chunk)
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # Half an emoji, escaped, is no valid JSON to msgspec; the standard library lets it pass.
        return msgspec.convert(json.loads(data), Chunk)


def mend(text: str) -> str:
    """The text with split surrogate pairs joined, and with U+FFFD for lone halves."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _Brackets:
    """Finds where a JSON object that comes in pieces ends. Each character is looked at once."""

    SIGNS = re.compile(r'["\\{}\[\]]')

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = False

    def end_in(self, text: str) -> bool:
        """Whether the first bracket of all is closed in the next piece, if brackets are all that counts."""
        # A character after a backslash is no sign; it may be the first of the next piece.
        free_from = int(self._escaped and bool(text))
        for match in self.SIGNS.finditer(text):
            sign = match[0]
            if match.start() < free_from:
                continue
            if self._quoted and sign == "\\":
                free_from = match.start() + 2
            elif sign == '"':
                self._quoted = not self._quoted
            elif not self._quoted and sign != "\\":
                self._depth += 1 if sign in "{[" else -1
                if self._depth <= 0:
                    return True
        self._escaped = free_from > len(text) or (self._escaped and not text)
        return False


class _CallSoFar:
    """A tool call so far."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self._arguments = io.StringIO()
        # How much of the arguments was looked at, and whether that is a JSON object: None before its end.
        self._looked_at = 0
        self._brackets = _Brackets()
        self._whole: bool | None = None

    @property
    def arguments(self) -> str:
        return self._arguments.getvalue()

    def take(self, fragment: CallFragment) -> int:
        """Add a piece; by how many characters the call has grown. Raises ModelGarbled."""
        function = fragment.function or FunctionFragment()
        id = "" if self.id else fragment.id or ""
        # Some servers repeat the whole name in each fragment.
        name = "" if function.name == self.name else function.name or ""
        if len(self.name) + len(name) > MAX_NAME:
            raise ModelGarbled(f"the language model named a tool with more than {MAX_NAME} characters")
        arguments = _text_of(function.arguments)
        self.id += id
        self.name += name
        self._arguments.write(arguments)
        return len(id) + len(name) + len(arguments)

    def is_whole(self) -> bool:
        """Whether the arguments so far are a JSON object with nothing missing."""
        # It is asked of each of many fragments: what was looked at once is not parsed again.
        self._arguments.seek(self._looked_at)
        new = self._arguments.read()
        self._looked_at += len(new)
        if self._whole:
            self._whole = not new.strip()
        elif self._whole is None and self._brackets.end_in(new):
            self._whole = _is_object(self.arguments)
        return bool(self._whole)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _text_of(arguments: str | dict[str, Any] | None) -> str:
    try:
        return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments or ""
    except RecursionError as error:
        raise ModelGarbled("the language model sent arguments that are nested too deep") from error


def _text_in(content: str | list[Any] | None) -> str:
    """The text of a content; of one in parts, that which is no thinking or the like."""
    if not isinstance(content, list):
        return content or ""
    parts = (part for part in content if isinstance(part, dict) and part.get("type") == "text")
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _tokens(usage: dict[str, Any], name: str) -> int:
    """The count of this name, else 0: no answer is to be lost for a count that is wrong."""
    count = usage.get(name)
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    try:
        return msgspec.convert(count, TokenCount)
    except msgspec.ValidationError:
        return 0


def _is_another(call: _CallSoFar, fragment: CallFragment) -> bool:
    """Whether a call begins under the index of one before: some servers give all of them index 0, no id."""
    # Others give each fragment a new id, but only the first a name, or repeat the name in each.
    named = fragment.function and fragment.function.name and call.name
    return bool(named and (fragment.id != call.id if fragment.id else call.is_whole()))


def _check_pieces(count: int) -> None:
    if count > MAX_PIECES:
        raise ModelGarbled(f"the language model sent an event of more than {MAX_PIECES} pieces")


class Fragments:
    """Gathers one answer; text is handed to `say` as it comes. `make_id` names calls that came without."""

    def __init__(self, say: Callable[[str], None], make_id: Callable[[], str] | None = None) -> None:
        self._say = say
        self._make_id = make_id or new_call_id
        self._text = io.StringIO()
        self._half = ""
        self._size = self._empty = 0
        self._calls: list[_CallSoFar] = []
        self._by_index: dict[int, _CallSoFar] = {}
        self._usage: dict[str, Any] = {}
        self.finish_reason = ""

    @property
    def begun(self) -> bool:
        """Whether the first token is there: from then on a new try would say everything twice."""
        return bool(self._text.tell() or self._half or self._calls)

    def take(self, chunk: Chunk) -> None:
        """Add a chunk. Raises ModelGarbled where the answer, or what comes beside it, becomes too large."""
        self._usage = chunk.usage if isinstance(chunk.usage, dict) else self._usage
        size, choices = self._size, chunk.choices or ()
        _check_pieces(len(choices))
        # Where there are several answers, the first is the one.
        for choice in (choice for choice in choices if not choice.index):
            self._take_delta(choice.delta or Delta())
            self.finish_reason = choice.finish_reason or self.finish_reason
        if self._size == size:
            self._count_empty()

    def _take_delta(self, delta: Delta) -> None:
        self._take_text(_text_in(delta.content) + (delta.refusal or ""))
        fragments = delta.tool_calls or ()
        _check_pieces(len(fragments))
        for fragment in fragments:
            grown = self._call_of(fragment).take(fragment)
            self._grow(grown)
            if not grown:
                self._count_empty()

    def _count_empty(self) -> None:
        self._empty += 1
        if self._empty > MAX_EMPTY:
            raise ModelGarbled(f"the language model sent more than {MAX_EMPTY} pieces with nothing in them")

    def _grow(self, characters: int) -> None:
        self._size += characters
        if self._size > MAX_CHARACTERS:
            raise ModelGarbled(f"the language model sent endless text: more than {MAX_CHARACTERS} characters")

    def _take_text(self, piece: str) -> None:
        self._grow(len(piece))
        text = self._half + piece
        # The other half of a character may come with the next piece.
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        self._speak(mend(text.removesuffix(self._half)))

    def _speak(self, text: str) -> None:
        if text:
            self._text.write(text)
            self._say(text)

    def _call_of(self, fragment: CallFragment) -> _CallSoFar:
        if fragment.index is not None:
            found = self._by_index.get(fragment.index)
            return self._begin(fragment) if found is None or _is_another(found, fragment) else found
        if fragment.id:
            known = (call for call in self._calls if call.id == fragment.id)
            return next(known, None) or self._begin(fragment)
        return self._continued(fragment) or self._begin(fragment)

    def _continued(self, fragment: CallFragment) -> _CallSoFar | None:
        """The call that a fragment without index and id continues; None for a new one."""
        last = self._calls[-1] if self._calls else None
        name = fragment.function and fragment.function.name
        if last and name and (_is_another(last, fragment) or last.name not in ("", name)):
            return None
        return last

    def _begin(self, fragment: CallFragment) -> _CallSoFar:
        if len(self._calls) == MAX_CALLS:
            raise ModelGarbled(f"the language model sent endless text: more than {MAX_CALLS} tool calls")
        call = _CallSoFar()
        self._calls.append(call)
        if fragment.index is not None:
            self._by_index[fragment.index] = call
        return call

    def answer(self) -> Answer:
        """The answer, as whole as it has become. Raises ModelGarbled where a call names no tool."""
        self._speak(mend(self._half))
        self._half = ""
        return Answer(
            text=self._text.getvalue(),
            calls=tuple(self._finished_calls()),
            finish_reason=self.finish_reason if self.finish_reason in FINISH_REASONS else "stop",
            input_tokens=_tokens(self._usage, "prompt_tokens"),
            output_tokens=_tokens(self._usage, "completion_tokens"),
        )

    def _finished_calls(self) -> Iterator[ToolCall]:
        taken = set[str]()
        for call in self._calls:
            if not call.name:
                raise ModelGarbled("the language model sent a tool call that names no tool")
            # No two calls of an answer share an id, and each is one that can be stored.
            usable = len(call.id) <= 255 and KEY.search(call.id) and call.id not in taken
            id = call.id if usable else self._make_id()
            taken.add(id)
            yield ToolCall(id, mend(call.name), mend(call.arguments))
