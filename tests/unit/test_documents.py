"""The documents say what the code does: codes, routes, settings, metrics, files and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runtime import errors
from runtime.api.application import ROUTES
from runtime.api.problems import HTTP_CODES, STATUS
from runtime.config import Settings
from runtime.metrics import Metrics
from tests.support.documents import DOCUMENTS, ROOT, examples, name_of, read, table_rows

INSIDE, API = "runtime/README.md", "runtime/api/README.md"
SETTINGS, OPERATIONS = "runtime/docs/settings.md", "runtime/docs/operations.md"

# The code of a guarantee, also in the name of a test.
CODE = re.compile(r"(?<![A-Za-z0-9])([WR][1-9][0-9]?)(?![A-Za-z0-9])|(?<=_)([wr][1-9][0-9]?)(?=_)")
CITING = ("runtime", "sql", "migrations", "tests")

LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\n]+)`")
FILE_NAME = re.compile(r"[\w./-]+\.(?:py|sql|md|toml|yaml)")
# Files of somebody else, or that stand for any.
NOT_OURS = {"0001-what-it-is.sql", "0001-what-it-is.rollback.sql", "NNNN-what-it-is.rollback.sql"}

# Errors of the command line alone, and those that the store answers itself.
NOT_OVER_HTTP = {
    errors.TokenNotFound,
    errors.TokenNotShown,
    errors.CutNotMeasured,
    errors.ForkNotCopied,
    errors.MetadataNotLoaded,
}


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found[1]


# The guarantees.


def defined_codes() -> list[str]:
    return re.findall(r"^- \*\*([WR]\d+)\*\* ", read(INSIDE), re.MULTILINE)


def cited_codes() -> Iterator[tuple[str, str]]:
    """Each code that a file cites, with the file."""
    paths = (path for folder in CITING for path in sorted((ROOT / folder).rglob("*")))
    for path in paths:
        if path.suffix in {".py", ".sql", ".md", ".toml"} and "__pycache__" not in path.parts:
            for upper, lower in CODE.findall(path.read_text(encoding="utf-8")):
                yield (upper or lower).upper(), str(path.relative_to(ROOT))


def test_each_guarantee_is_defined_once_and_none_is_left_out() -> None:
    codes = defined_codes()
    for letter in "WR":
        numbers = [int(code[1:]) for code in codes if code[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))


def test_each_code_that_is_cited_is_defined() -> None:
    defined = set(defined_codes())
    assert {code: path for code, path in cited_codes() if code not in defined} == {}


# The story of an append, the map and the terms.


def test_the_files_of_the_append_exist() -> None:
    story = section(read(INSIDE), "One append, from the socket to the disk and back")
    places = [row[-1] for row in re.findall(r"^\| \d+ \|(.*)\| (.*) \|$", story, re.MULTILINE)]
    names = {name for place in places for name in QUOTED.findall(place) if name.endswith(".py")}
    assert len(names) > 10
    assert {name for name in names if not (ROOT / "runtime" / name).is_file()} == set()


def test_the_map_has_every_package() -> None:
    shown = {
        name
        for row in table_rows(section(read(INSIDE), "The packages"))
        for name in re.findall(r"`(\w+)`", row[0])
    }
    found = {
        path.stem
        for path in (ROOT / "runtime").iterdir()
        if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
    }
    assert shown == found - {"__init__"}


def test_the_terms_are_few() -> None:
    assert 1 <= len(re.findall(r"^\| (?!term|---)", section(read(INSIDE), "Terms"), re.MULTILINE)) <= 15


# The HTTP contract.


def test_the_contract_describes_every_route_and_no_others() -> None:
    methods = "|".join({route.method for route in ROUTES})
    described = set(re.findall(rf"`({methods}) (/[^`?\s]*)", read(API)))
    assert described == {(route.method, route.path) for route in ROUTES}


def test_the_contract_has_an_example_of_every_route() -> None:
    shown = {(example.method, example.path.partition("?")[0]) for example in examples(read(API))}
    lacking = [
        f"{route.method} {route.path}"
        for route in ROUTES
        if not any(
            method == route.method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route.path), path)
            for method, path in shown
        )
    ]
    assert lacking == []


def kinds_of(kind: type[errors.AgentRuntimeError]) -> Iterator[type[errors.AgentRuntimeError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from kinds_of(child)


def test_the_contract_has_every_code_of_an_error() -> None:
    answered = {
        kind for parent in STATUS for kind in kinds_of(parent) if parent is not errors.AgentRuntimeError
    }
    codes = {kind.code for kind in answered - NOT_OVER_HTTP} | {"internal_error"} | set(HTTP_CODES.values())
    table = "\n".join(
        " | ".join(row) for row in re.findall(r"^\| (\d.*) \| (.*) \|$", read(API), re.MULTILINE)
    )
    assert {code for code in codes if f"`{code}`" not in table} == set()


# Settings and metrics.


def test_the_settings_are_those_of_the_program() -> None:
    rows = [(row[0], row[1]) for row in table_rows(read(SETTINGS))]
    settings = msgspec.structs.asdict(Settings())
    assert rows == [(f"`{name.upper()}`", f"`{written(value)}`") for name, value in settings.items()]


def written(value: object) -> str:
    """A default as an operator would set it."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def test_the_metrics_are_those_of_the_program() -> None:
    shown = {row[0].strip("`"): row[1] for row in table_rows(section(read(OPERATIONS), "Metrics"))}
    assert shown == dict(metrics())


def metrics() -> Iterator[tuple[str, str]]:
    """Each metric as the document names it, with its labels, and its kind."""
    made = vars(Metrics()).values()
    for metric in (value for value in made if hasattr(value, "_labelnames")):
        name = metric._name.removeprefix("agent_runtime_") + ("_total" if metric._type == "counter" else "")
        labels = ",".join(metric._labelnames)
        yield (f"{name}{{{labels}}}" if labels else name), metric._type


# Files and links.


def anchors(text: str) -> set[str]:
    """The anchors that a page of this text has, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_and_sections_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = document.parent / target if target else document
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.is_relative_to(ROOT / "runtime")], ids=name_of
)
def test_links_of_the_package_stay_within_it(document: Path) -> None:
    """These documents travel in the wheel, without the rest of the repository."""
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        target = link.partition("#")[0]
        if "://" not in target:
            assert (document.parent / target).resolve().is_relative_to(ROOT / "runtime"), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_file_that_is_named_exists(document: Path) -> None:
    folders = (ROOT, ROOT / "runtime", ROOT / "tests", document.parent)
    names = {
        name
        for quoted in QUOTED.findall(document.read_text(encoding="utf-8"))
        for name in quoted.split()
        if FILE_NAME.fullmatch(name) and name not in NOT_OURS
    }
    assert {name for name in names if not any((folder / name).exists() for folder in folders)} == set()


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(read("README.md").splitlines()) <= 220
