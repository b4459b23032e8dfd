"""The loader of sql/: what it takes, and what it says of a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.db.queries import find_folder, load_queries, parse_queries
from runtime.errors import StatementError

PAGE = "-- name: list_page(owner, after)\nSELECT id FROM t WHERE owner = {0}1 AND id > {0}2;\n"


def write(folder: Path, *, postgres: str, sqlite: str) -> Path:
    for dialect, text in (("postgres", postgres), ("sqlite", sqlite)):
        (folder / dialect).mkdir()
        (folder / dialect / "t.sql").write_text(text, encoding="utf-8")
    return folder


def refusal(text: str, mark: str = "$") -> str:
    with pytest.raises(StatementError) as refused:
        list(parse_queries(text, mark, "sql/x/t.sql"))
    return str(refused.value)


def test_the_statements_of_the_program_are_right() -> None:
    assert load_queries("postgres").keys() == load_queries("sqlite").keys()
    assert load_queries("sqlite")["list_messages_after"].parameters == ("session_db_id", "after_seq", "limit")


def test_a_statement_is_loaded_without_its_comments() -> None:
    header = "-- The file.\n\n-- name: find_it(id)\n-- What it finds.\n"
    text = header + "SELECT a /* why */\n  FROM t -- there\n WHERE id = $1;\n"
    [query] = parse_queries(text, "$", "t.sql")
    assert (query.name, query.parameters) == ("find_it", ("id",))
    assert query.sql == "SELECT a \n  FROM t \n WHERE id = $1"


def test_what_looks_like_a_placeholder_in_a_string_or_a_comment_is_none() -> None:
    text = "-- name: find_it(id)\nSELECT '$9; it''s -- $8', \"$7\" FROM t WHERE id = $1; -- $6\n"
    [query] = parse_queries(text, "$", "t.sql")
    assert query.sql == "SELECT '$9; it''s -- $8', \"$7\" FROM t WHERE id = $1"


def test_how_rows_are_executed_is_declared_after_the_name() -> None:
    text = "-- name: a(x)\n-- execute: arrays\n-- checks: every row\n-- Why.\nUPDATE t SET a = $1;\n"
    [query] = parse_queries(text, "$", "t.sql")
    assert (query.as_arrays, query.checks_rows, query.copy_into) == (True, True, "")
    [query] = parse_queries("-- name: a(x)\n-- execute: copy t\nINSERT INTO t VALUES ($1);", "$", "t.sql")
    assert (query.as_arrays, query.checks_rows, query.copy_into) == (False, False, "t")
    [query] = parse_queries("-- name: a(x)\n-- Why.\n-- execute: arrays\nSELECT $1;", "$", "t.sql")
    assert not query.as_arrays


def test_a_check_of_rows_is_the_same_in_both_dialects(tmp_path: Path) -> None:
    header, check = "-- name: a(x)\n", "-- execute: arrays\n-- checks: every row\n"
    folder = write(tmp_path, postgres=f"{header}{check}SELECT $1;", sqlite=f"{header}SELECT ?1;")
    with pytest.raises(StatementError, match="in one dialect only"):
        load_queries("sqlite", folder)


def test_a_placeholder_may_stand_twice_and_a_statement_may_have_none() -> None:
    text = "-- name: find_it(a)\nSELECT ?1 + ?1;\n-- name: ping()\nSELECT 1;\n"
    assert [query.parameters for query in parse_queries(text, "?", "t.sql")] == [("a",), ()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-- name: a(x)\nSELECT $1, $2;", "sql/x/t.sql: a: $2 stands for none of its 1 parameters"),
        ("-- name: a(x, y)\nSELECT $2;", "sql/x/t.sql: a: $1, the parameter x, is not used"),
        (
            "-- name: a(x)\n-- execute: fast\nSELECT $1;",
            "sql/x/t.sql: a: expected 'execute: arrays', 'checks: every row' or 'execute: copy TABLE', "
            "not 'execute: fast'",
        ),
        (
            "-- name: a()\n-- execute: arrays\nSELECT 1;",
            "sql/x/t.sql: a: a statement without parameters is executed once, so it declares nothing",
        ),
        (
            "-- name: a(x)\n-- checks: every row\nSELECT $1;",
            "sql/x/t.sql: a: 'checks: every row' needs 'execute: arrays': only then rows are counted",
        ),
        ("-- name: a(x)\nSELECT ?1;", "sql/x/t.sql: a: ?1 stands for none of its 1 parameters"),
        ("-- name: a(x)\nSELECT ?;", "sql/x/t.sql: a: ? stands for none of its 1 parameters"),
        ("-- name: a(x, x)\nSELECT $1, $2;", "sql/x/t.sql: a declares the parameter 'x' wrongly or twice"),
        ("-- name: a(x y)\nSELECT $1;", "sql/x/t.sql: a declares the parameter 'x y' wrongly or twice"),
        ("-- name: a\nSELECT 1;", "sql/x/t.sql: expected '-- name: statement(parameter, …)', not 'a'"),
        ("-- name: a()\nSELECT 1", "sql/x/t.sql: a: expected one statement that ends with a semicolon"),
        ("-- name: a()\n-- No more.\n", "sql/x/t.sql: a: expected one statement that ends with a semicolon"),
        (
            "-- name: a()\nSELECT 1; SELECT 2;",
            "sql/x/t.sql: a: expected one statement that ends with a semicolon",
        ),
        (
            "SELECT 1;\n-- name: a()\nSELECT 1;",
            "sql/x/t.sql: the file begins with a statement that has no name",
        ),
    ],
)
def test_a_wrong_statement_is_named(text: str, said: str) -> None:
    assert refusal(text) == said


def test_a_name_is_taken_once_over_all_files(tmp_path: Path) -> None:
    folder = write(tmp_path, postgres=PAGE.format("$"), sqlite=PAGE.format("?"))
    (folder / "postgres" / "u.sql").write_text(PAGE.format("$"), encoding="utf-8")
    with pytest.raises(StatementError, match=r"^sql/postgres/u\.sql: list_page is defined a second time$"):
        load_queries("sqlite", folder)


def test_each_dialect_has_every_statement(tmp_path: Path) -> None:
    folder = write(tmp_path, postgres=PAGE.format("$"), sqlite="-- name: other()\nSELECT 1;")
    with pytest.raises(StatementError, match=r"^sql/sqlite lacks list_page, which sql/postgres has$"):
        load_queries("postgres", folder)


def test_each_dialect_has_the_same_parameters(tmp_path: Path) -> None:
    sqlite = "-- name: list_page(after, owner)\nSELECT ?1, ?2;"
    folder = write(tmp_path, postgres=PAGE.format("$"), sqlite=sqlite)
    said = r"^list_page takes \(owner, after\) in sql/postgres and \(after, owner\) in sql/sqlite$"
    with pytest.raises(StatementError, match=said):
        load_queries("postgres", folder)


def test_a_folder_that_is_not_there_is_a_broken_installation() -> None:
    with pytest.raises(StatementError, match="'nowhere' is missing"):
        find_folder("nowhere")
