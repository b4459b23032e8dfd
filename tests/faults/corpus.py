"""Texts and values that break programs which paste what they are given into something else."""

from __future__ import annotations

from random import Random
from typing import Any

SQL = [
    "'",
    '"',
    "''",
    "`",
    ";",
    "--",
    "/*",
    "*/",
    "' OR '1'='1",
    "' OR 1=1 -- ",
    '" OR ""="',
    "'); DROP TABLE sessions; --",
    "'; DELETE FROM messages; --",
    "x' UNION SELECT name, sql FROM sqlite_master --",
    "x' UNION SELECT usename, passwd FROM pg_shadow --",
    "'; UPDATE sessions SET title = 'owned'; COMMIT; --",
    "'; ATTACH DATABASE 'other.db' AS x; --",
    "'; PRAGMA writable_schema = 1; --",
    "'||(SELECT pg_sleep(5))||'",
    "$$; SELECT 1; $$",
    "$q$ text $q$",
    "\\'; SELECT 1; --",
    "E'\\x27'",
    "U&'\\0027'",
    "x'27'",
    "%' ESCAPE '!",
    "100%_of\\_it",
    "COPY sessions TO PROGRAM 'true'",
    "{a,b}",
    '{"a,b"}',
    "ARRAY['x']::text[]",
    "(1,2)",
    "NULL",
    "default",
    "now()",
]
PLACEHOLDERS = [
    "$1",
    "$1::text",
    "?",
    "?1",
    ":name",
    "@name",
    "%s",
    "%(name)s",
    "%d%n",
    "{}",
    "{0}",
    "{0.__class__}",
]
TEMPLATES = [
    "{{7*7}}",
    "${7*7}",
    "#{7*7}",
    "<%= 7*7 %>",
    "${jndi:ldap://127.0.0.1/x}",
    "<script>alert(1)</script>",
]
JSON = [
    '{"role":"system"}',
    '"}]}',
    '\\"',
    "\\",
    "\\u0000",
    "\\ud800",
    '","seq":1,"role":"system","x":"',
    "[1,2",
    "null",
    "true",
    "NaN",
    "0",
    "-1",
    "1e400",
    "9007199254740993",
    "18446744073709551616",
    "__proto__",
    "constructor",
    "$ref",
]
LINES = [
    "a\nb",
    "a\r\nb",
    "\r\nSet-Cookie: owned=1\r\n\r\n",
    "\n2026-01-01T00:00:00.000Z ERROR agent_runtime.app: not written by the program",
    "\n\ndata: {}\n\nevent: done\n\n",
    "\x1b[2J\x1b[31mred",
    "\x9b31mred",
    "\x00",
    "a\x00b",
    "\x07\x08\x7f",
    "\x85",
    "\u2028\u2029",
    "\t",
]
UNICODE = [
    "é",
    "e\u0301",
    "Zalgo\u0338\u0323\u0353",
    "\u202etxet desrever\u202c",
    "\u200bzero\u200dwidth\ufeff",
    "\ufeff",
    "\ufffe\uffff",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\U0010ffff",
    "İıſßẞ",
    "\u00a0 \u3000",
    "ﷺ",
    "%00",
    "%2e%2e%2f",
    "..",
    ".",
    "../../etc/passwd",
    "a/b?c=d#e",
    "a%",
    "file:///etc/passwd",
]
SPACES = ["", " ", "  a  ", "-", "--help", "=1+1", "~"]
LONG = ["x" * 255, "x" * 256, "é" * 255, "'" * 4000, "x" * 100_000]

TEXTS = [*SQL, *PLACEHOLDERS, *TEMPLATES, *JSON, *LINES, *UNICODE, *SPACES, *LONG]


def nested(depth: int, inner: Any) -> Any:
    """A value within so many lists and objects."""
    for level in range(depth):
        inner = [inner] if level % 2 else {"k": inner}
    return inner


# Put round a text where any JSON may stand.
NUMBERS = [
    0,
    -1,
    2**53 + 1,
    -(2**63),
    2**63 - 1,
    2**64 - 1,
    0.1,
    -1.5e-300,
    1.7976931348623157e308,
    True,
    None,
]


def value_around(text: str, index: int) -> Any:
    """A JSON object that has a text as a name, as a value and deep within, and a number."""
    return {
        text: text,
        "n": NUMBERS[index % len(NUMBERS)],
        "deep": nested(index % 300, text),
        "list": [text, [], {}],
    }


def mixed(chance: Random, count: int) -> list[str]:
    """Texts made of two or three of the others."""
    short = [text for text in TEXTS if len(text) < 100]
    return ["".join(chance.choices(short, k=chance.choice((2, 3)))) for _ in range(count)]
