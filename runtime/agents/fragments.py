"""An answer gathered from the chunks that it is streamed in, as many servers send them: with gaps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from runtime.agents.model import Answer, ToolCall
from runtime.errors import ModelGarbled
from runtime.models import KEY_PATTERN, TokenCount

MAX_CHARACTERS = 1_000_000
MAX_CALLS = 128
FINISH_REASONS = {"stop", "tool_calls", "length", "content_filter", "function_call"}
KEY = re.compile(KEY_PATTERN)


class FunctionFragment(Struct):
    """A piece of a name and of arguments; some servers send the arguments as an object, all at once."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallFragment(Struct):
    """A piece of a tool call; which call it belongs to is said by `index`, or `id`, or not at all."""

    index: int | None = None
    id: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | None = None
    function: FunctionFragment | None = None


class Delta(Struct):
    """What a chunk adds to the answer."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallFragment] | None = None


class Choice(Struct):
    """One of the answers that a server may give side by side."""

    index: int | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class Usage(Struct):
    """How many tokens were read and written so far."""

    prompt_tokens: TokenCount | None = None
    completion_tokens: TokenCount | None = None


class Chunk(Struct):
    """The data of one event, as far as it concerns us."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(Chunk)


def decode_chunk(data: str) -> Chunk:
    """A chunk from the data of an event. Raises ModelGarbled."""
    try:
        chunk = _decode(data)
    except (ValueError, RecursionError) as error:
        raise ModelGarbled(f"the language model sent what is not a chunk of an answer: {error}") from error
    if chunk.choices is None and chunk.usage is None and chunk.error is None:
        raise ModelGarbled("the language model sent an object that is not a chunk of an answer")
    return chunk


def _decode(data: str) -> Chunk:
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # Half an emoji, escaped, is no valid JSON to msgspec; the standard library lets it pass.
        return msgspec.convert(json.loads(data), Chunk)


def mend(text: str) -> str:
    """The text with split surrogate pairs joined, and with U+FFFD for halves that stand alone."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _Call:
    """A tool call so far."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.whole = False

    def take(self, fragment: CallFragment) -> int:
        """Add a piece; by how many characters the call has grown."""
        function = fragment.function or FunctionFragment()
        id = "" if self.id else fragment.id or ""
        # Some servers repeat the whole name in each fragment.
        name = "" if function.name == self.name else function.name or ""
        arguments = _text_of(function.arguments)
        self.id += id
        self.name += name
        self.arguments.append(arguments)
        self.whole = isinstance(function.arguments, dict)
        return len(id) + len(name) + len(arguments)


def _text_of(arguments: str | dict[str, Any] | None) -> str:
    try:
        return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments or ""
    except RecursionError as error:
        raise ModelGarbled("the language model sent arguments that are nested too deep") from error


def _is_another(call: _Call, fragment: CallFragment) -> bool:
    """Whether a call begins under the index of one before: some servers give all of them index 0.

    Others give each fragment a new id, but only the first a name.
    """
    named = fragment.function is not None and fragment.function.name
    return bool(named and call.name and fragment.id and fragment.id != call.id)


class Fragments:
    """Gathers one answer; text is handed to `say` as it comes. `make_id` names calls that came without."""

    def __init__(self, say: Callable[[str], None], make_id: Callable[[], str] | None = None) -> None:
        self._say = say
        self._make_id = make_id or (lambda: f"call_{uuid4().hex}")
        self._text: list[str] = []
        self._half = ""
        self._size = 0
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._usage = Usage()
        self.finish_reason = ""

    @property
    def begun(self) -> bool:
        """Whether the first token is there: from then on a new try would say everything twice."""
        return bool(self._text or self._half or self._calls)

    def take(self, chunk: Chunk) -> None:
        """Add a chunk. Raises ModelGarbled where the answer becomes too large."""
        self._usage = chunk.usage or self._usage
        # With the parameter `n` there are several answers; the first is the one.
        for choice in (choice for choice in chunk.choices or () if not choice.index):
            self._take_delta(choice.delta or Delta())
            self.finish_reason = choice.finish_reason or self.finish_reason

    def _take_delta(self, delta: Delta) -> None:
        self._take_text((delta.content or "") + (delta.refusal or ""))
        for fragment in delta.tool_calls or ():
            self._grow(self._call_of(fragment).take(fragment))

    def _grow(self, characters: int) -> None:
        self._size += characters
        if self._size > MAX_CHARACTERS:
            raise ModelGarbled(
                f"the language model sent endless text: more than {MAX_CHARACTERS} characters in an answer"
            )

    def _take_text(self, piece: str) -> None:
        self._grow(len(piece))
        text = self._half + piece
        # The other half of a character may come with the next piece.
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        self._speak(mend(text.removesuffix(self._half)))

    def _speak(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._say(text)

    def _call_of(self, fragment: CallFragment) -> _Call:
        if fragment.index is not None:
            found = self._by_index.get(fragment.index)
            return self._begin(fragment) if found is None or _is_another(found, fragment) else found
        if fragment.id:
            known = (call for call in self._calls if call.id == fragment.id)
            return next(known, None) or self._begin(fragment)
        return self._continued(fragment) or self._begin(fragment)

    def _continued(self, fragment: CallFragment) -> _Call | None:
        """The call that a fragment goes on with which says neither index nor id; None begins a new one."""
        last = self._calls[-1] if self._calls else None
        name = fragment.function and fragment.function.name
        return None if last and name and (last.whole or last.name not in ("", name)) else last

    def _begin(self, fragment: CallFragment) -> _Call:
        if len(self._calls) == MAX_CALLS:
            raise ModelGarbled(f"the language model sent endless text: more than {MAX_CALLS} tool calls")
        call = _Call()
        self._calls.append(call)
        if fragment.index is not None:
            self._by_index[fragment.index] = call
        return call

    def answer(self) -> Answer:
        """The answer, as whole as it has become. Raises ModelGarbled where a call names no tool."""
        self._speak(mend(self._half))
        self._half = ""
        return Answer(
            text="".join(self._text),
            calls=tuple(self._finished_calls()),
            finish_reason=self.finish_reason if self.finish_reason in FINISH_REASONS else "stop",
            input_tokens=self._usage.prompt_tokens or 0,
            output_tokens=self._usage.completion_tokens or 0,
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
            yield ToolCall(id, mend(call.name), mend("".join(call.arguments)))
