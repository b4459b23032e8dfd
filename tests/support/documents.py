"""The documents of the repository, and what tests read in them: blocks, links, tables, examples.

An example shows a reply as it was once. The real one equals it when blanks, line breaks and everything that
differs from run to run (ids, times, tokens) are left aside; `…` in what is shown stands for any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "runtime/**/*.md", "tests/**/*.md", ".github/*.md")
    for path in ROOT.glob(pattern)
    if not path.is_relative_to(ROOT / "tests" / "data")
)

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# What differs from run to run, and what stands for it in the pattern of a reply. The first is kept: a later
# example may name it.
_VARYING = re.compile(
    rf"(?P<uuid>{_UUID})"
    r"|(?P<time>\d{4}-\d\d-\d\dT?\d\d:\d\d:\d\d(?:\.\d+)?Z)"
    r"|(?P<token>art_[0-9a-f]+_[0-9a-f]+)"
    r"|(?P<hex>\b(?:[0-9a-f]{16}|[0-9a-f]{12})\b)"
    r"|(?P<any>…)"
)
_PATTERNS = {
    "uuid": f"({_UUID})",
    "time": r"\d{4}-\d\d-\d\dT?\d\d:\d\d:\d\d(?:\.\d+)?Z",
    "token": r"art_[0-9a-f]+_[0-9a-f]+",
    "hex": r"[0-9a-f]{12,16}",
    "any": r".*?",
}


def name_of(document: Path) -> str:
    """The path of a document below the repository, for messages and test ids."""
    return document.relative_to(ROOT).as_posix()


def read(name: str) -> str:
    """The text of a document, by its path below the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def table_rows(text: str) -> list[list[str]]:
    """The rows of every table, each as its cells; headings and the lines below them are left out."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: its language, its text, and the line that it begins on."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in _BLOCK.finditer(text)
    ]


@dataclass(frozen=True)
class Example:
    """A request and the reply to it, as an `http` block shows them."""

    line: int
    method: str
    path: str
    headers: dict[str, str]
    body: str
    status: int
    reply_headers: dict[str, str]
    reply: str


def examples(text: str) -> Iterator[Example]:
    """The examples of a document.

    A block has the request, an empty line and the reply. The first line of a request is its method and path,
    that of a reply its status; headers and the body follow.
    """
    for block in blocks(text):
        if block.language == "http":
            request, _, reply = block.text.partition("\n\n")
            first, headers, body = _parts(request)
            status, reply_headers, reply_body = _parts(reply)
            method, path = first.split(" ", 1)
            yield Example(
                block.line, method, path, headers, body, int(status.split()[0]), reply_headers, reply_body
            )


def _parts(message: str) -> tuple[str, dict[str, str], str]:
    first, *lines = message.splitlines()
    headers = {}
    while lines and (header := re.fullmatch(r"([A-Z][\w-]*): (.*)", lines[0])):
        headers[header[1]] = header[2]
        lines = lines[1:]
    return first, headers, "\n".join(lines)


class Replies:
    """Compares replies with those shown. Ids that were shown stand for the real ones from then on."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def real(self, text: str) -> str:
        """A request with the ids of this run in place of those that were shown."""
        for shown, real in self._ids.items():
            text = text.replace(shown, real)
        return text

    def match(self, shown: str, reply: str, *, whole: bool = True) -> bool:
        """Whether a reply is the one shown, or begins with it where it need not be `whole`."""
        text = _without_blanks(shown)
        pattern, ids, place = "", [], 0
        for found in _VARYING.finditer(text):
            kind = str(found.lastgroup)
            pattern += re.escape(text[place : found.start()]) + _PATTERNS[kind]
            ids += [found[0]] if kind == "uuid" else []
            place = found.end()
        pattern += re.escape(text[place:])
        compare = re.fullmatch if whole else re.match
        matched = compare(pattern, _without_blanks(reply), re.DOTALL)
        if matched:
            self._ids.update(zip(ids, matched.groups(), strict=True))
        return matched is not None


def _without_blanks(text: str) -> str:
    return "".join(text.split())
