"""Loads the statements of sql/ and checks them.

A statement follows a line that names it and its parameters in the order of their placeholders:

    -- name: list_messages_after(session_db_id, after_seq, limit)
    SELECT … WHERE session_db_id = $1 AND seq > $2 ORDER BY seq LIMIT $3;

The next lines may declare how many rows of parameters are executed:

    -- execute: arrays           once, with an array of values for each parameter
    -- execute: copy TABLE       many rows by COPY into the columns named as the parameters, few one by one
    -- checks: every row         a row of parameters that changes no row of the table is a conflict

Without them a statement is executed once for each row of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.db.database import Dialect
from runtime.errors import StatementError

PLACEHOLDER_MARKS: Mapping[Dialect, str] = {"postgres": "$", "sqlite": "?"}

_HEADER = re.compile(r"^--\s*name:(.*)$", re.MULTILINE)
_SIGNATURE = re.compile(r"\s*([a-z]\w*)\s*\(([^()]*)\)\s*")
_DECLARATION = re.compile(r"--\s*(?P<text>(?:execute|checks):\s*(?:copy\s+(?P<table>[a-z]\w*)|.*?))\s*")
_DECLARATIONS = {"execute: arrays": "as_arrays", "checks: every row": "checks_rows"}
_NAME = re.compile(r"[a-z]\w*")
_TOKEN = re.compile(
    r"""
      (?P<quoted> '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<placeholder> \$\d+ | \?\d* )
    | (?P<end> ; )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Query:
    """A statement of sql/: its text without comments, its parameters in order, and how it is executed.

    `as_arrays` takes an array for each parameter. `copy_into` is the table for COPY, empty for none.
    `checks_rows` makes a row of parameters that changes nothing a conflict.
    """

    name: str
    sql: str
    parameters: tuple[str, ...]
    as_arrays: bool = False
    copy_into: str = ""
    checks_rows: bool = False


Queries = Mapping[str, Query]


def find_folder(name: str) -> Path:
    """The folder `sql` or `migrations`: inside the installed package, else at the top of the checkout."""
    package = Path(__file__).parent.parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise StatementError(f"the folder {name!r} is missing beside {package}: install agent-runtime anew")


def load_queries(dialect: Dialect, folder: Path | None = None) -> dict[str, Query]:
    """The statements of a dialect by name. Raises StatementError, also where the other one differs."""
    folder = folder or find_folder("sql")
    loaded = {each: _load_dialect(folder, each) for each in PLACEHOLDER_MARKS}
    _check_parity(loaded["postgres"], loaded["sqlite"])
    return loaded[dialect]


def _load_dialect(folder: Path, dialect: Dialect) -> dict[str, Query]:
    queries: dict[str, Query] = {}
    for path in sorted((folder / dialect).glob("*.sql")):
        place = f"sql/{dialect}/{path.name}"
        for query in parse_queries(path.read_text(encoding="utf-8"), PLACEHOLDER_MARKS[dialect], place):
            if query.name in queries:
                raise StatementError(f"{place}: {query.name} is defined a second time")
            queries[query.name] = query
    return queries


def parse_queries(text: str, mark: str, place: str) -> Iterator[Query]:
    """The statements of one file. `mark` is what its placeholders begin with, `place` names it in errors."""
    preamble, *parts = _HEADER.split(text)
    if _TOKEN.sub(_drop_comment, preamble).strip():
        raise StatementError(f"{place}: the file begins with a statement that has no name")
    for header, body in zip(parts[::2], parts[1::2], strict=True):
        name, parameters = _parse_header(header, place)
        declared = _parse_declarations(body, mark, parameters, f"{place}: {name}")
        yield Query(name, _parse_body(body, mark, parameters, f"{place}: {name}"), parameters, **declared)


def _parse_header(header: str, place: str) -> tuple[str, tuple[str, ...]]:
    signature = _SIGNATURE.fullmatch(header)
    if signature is None:
        raise StatementError(f"{place}: expected '-- name: statement(parameter, …)', not {header.strip()!r}")
    name, declared = signature.groups()
    parameters = tuple(word.strip() for word in declared.split(",")) if declared.strip() else ()
    for parameter in parameters:
        if not _NAME.fullmatch(parameter) or parameters.count(parameter) > 1:
            raise StatementError(f"{place}: {name} declares the parameter {parameter!r} wrongly or twice")
    return name, parameters


def _parse_declarations(body: str, mark: str, parameters: tuple[str, ...], place: str) -> dict[str, Any]:
    """The fields of Query that the lines after the header declare."""
    declared: dict[str, Any] = {}
    for line in body.splitlines()[1:]:
        if (found := _DECLARATION.fullmatch(line)) is None:
            break
        if found["table"]:
            declared["copy_into"] = found["table"]
        elif found["text"] in _DECLARATIONS:
            declared[_DECLARATIONS[found["text"]]] = True
        else:
            right = ", ".join(map(repr, _DECLARATIONS))
            raise StatementError(f"{place}: expected {right} or 'execute: copy TABLE', not {found['text']!r}")
    if declared and not parameters:
        raise StatementError(
            f"{place}: a statement without parameters is executed once, so it declares nothing"
        )
    if "checks_rows" in declared and mark == "$" and "as_arrays" not in declared:
        raise StatementError(
            f"{place}: 'checks: every row' needs 'execute: arrays': only then rows are counted"
        )
    return declared


def _parse_body(body: str, mark: str, parameters: tuple[str, ...], place: str) -> str:
    used = {token["placeholder"] for token in _TOKEN.finditer(body)} - {None}
    declared = {f"{mark}{number}": name for number, name in enumerate(parameters, 1)}
    for placeholder in sorted(used - declared.keys()):
        raise StatementError(f"{place}: {placeholder} stands for none of its {len(parameters)} parameters")
    for placeholder in sorted(declared.keys() - used):
        raise StatementError(f"{place}: {placeholder}, the parameter {declared[placeholder]}, is not used")
    sql = "\n".join(line for line in _TOKEN.sub(_drop_comment, body).splitlines() if line.strip()).rstrip()
    ends = [token.start() for token in _TOKEN.finditer(sql) if token["end"]]
    if ends != [len(sql) - 1]:
        raise StatementError(f"{place}: expected one statement that ends with a semicolon")
    return sql.removesuffix(";")


def _drop_comment(token: re.Match[str]) -> str:
    return "" if token["comment"] else token.group()


def _check_parity(postgres: Queries, sqlite: Queries) -> None:
    for name in sorted(postgres.keys() ^ sqlite.keys()):
        there, lacking = ("postgres", "sqlite") if name in postgres else ("sqlite", "postgres")
        raise StatementError(f"sql/{lacking} lacks {name}, which sql/{there} has")
    for name, query in postgres.items():
        if sqlite[name].checks_rows != query.checks_rows:
            raise StatementError(f"{name} declares 'checks: every row' in one dialect only")
        if sqlite[name].parameters != query.parameters:
            raise StatementError(
                f"{name} takes ({', '.join(query.parameters)}) in sql/postgres "
                f"and ({', '.join(sqlite[name].parameters)}) in sql/sqlite"
            )
