"""Functions are short enough to read, and not so short that a reader jumps."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import runtime

FOLDER = Path(runtime.__file__).parent
TEXTS = {path: path.read_text(encoding="utf-8") for path in sorted(FOLDER.rglob("*.py"))}
FUNCTIONS = [
    (path.relative_to(FOLDER).as_posix(), node)
    for path, text in TEXTS.items()
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
]
WORDS = Counter(word for text in TEXTS.values() for word in re.findall(r"[A-Za-z_]\w*", text))

MOST_LINES, USUAL_LINES, SHORT_LINES = 45, 25, 6
# Private functions of up to SHORT_LINES that are named once beside their definition.
MOST_SHORT_HELPERS = 60


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_no_function_is_too_long_to_read() -> None:
    assert [(path, node.name) for path, node in FUNCTIONS if lines(node) > MOST_LINES] == []
    assert sum(lines(node) <= USUAL_LINES for _, node in FUNCTIONS) / len(FUNCTIONS) > 0.9


def test_few_short_helpers_are_used_once() -> None:
    short = [
        (path, node.name)
        for path, node in FUNCTIONS
        if node.name.startswith("_") and not node.name.startswith("__")
        # The private names of compat are those of the earlier service.
        if lines(node) <= SHORT_LINES and WORDS[node.name] == 2 and not path.startswith("compat/")
    ]
    assert len(short) <= MOST_SHORT_HELPERS, short
