"""The import rules of the design, read from the source: who may know whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import runtime

FOLDER = Path(runtime.__file__).parent
GROUND = {"errors", "models", "config", "metrics", "logs", "retry", "uncancellable"}

# What each part of runtime/ may import of the others; "" is runtime/__init__.py, for its version.
ALLOWED = {
    **dict.fromkeys(GROUND, GROUND),
    "db": GROUND | {"db"},
    "store": GROUND | {"db", "store"},
    "access": GROUND | {"store", "access"},
    "agents": GROUND | {"store", "agents"},
    "api": GROUND | {"store", "access", "agents", "api", ""},
    "app": GROUND | {"store", "access", "agents", "api", ""},
    "compat": GROUND | {"store", "compat"},
    "transfer": GROUND | {"db", "store", "transfer"},
    "cli": GROUND | {"db", "store", "access", "agents", "app", "transfer", "cli", ""},
    "__main__": {"cli"},
    "": GROUND | {"store"},
}

# The rooms of the store: what each may import of the others. Every other file of `store` is ground, but for
# those at the top, which may import everything below.
STORE_TOP = {
    "store.store",
    "store.turn_store",
    "store.core",
    "store.submission",
    "store.tokens",
    "store.saved_states",
    "store.imports",
    "store.owners",
    "store.forks",
    "store.exports",
}
STORE_ROOMS = {
    "ground": {"ground"},
    "write": {"ground", "write"},
    "read": {"ground", "read"},
    "follow": {"ground", "read", "follow"},
    "top": {"ground", "read", "write", "follow", "top"},
}

# The only files that may import a driver, or the server.
ONLY = {
    "asyncpg": ("db.postgres",),
    "aiosqlite": ("db.sqlite", "db.sqlite_connection"),
    "sqlite3": (
        "db.migrate",
        "db.sqlite",
        "db.sqlite_connection",
        "db.sqlite_dialect",
        "db.sqlite_integrity",
        "db.sqlite_log",
        "db.sqlite_snapshot",
        "transfer.old_sqlite",
        "db.sqlite_staging",
    ),
    "yoyo": ("db.migrate",),
    "psycopg": ("db.migrate", "transfer.old_postgres"),
    "aiohttp": ("api", "app", "agents", "access.issuer"),
    "jwt": ("access.issuer",),
    "aiohttp.web": ("api", "app"),
    "fastapi": ("compat.dependencies",),
}

# Loaded when it is used, not when `runtime` is imported.
HEAVY = {"aiohttp", "jwt", "cryptography", "aiosqlite", "asyncpg", "psycopg", "yoyo"}

# `plan` decides in memory: nothing that it reaches may do I/O, tell the time or draw lots.
PLAN_MAY_REACH = ("errors", "models", "store", "db.database")
PURE = ("store.write.plan", "store.write.rules", "store.write.commands", "store.write.turn_commands")
IMPURE = {"asyncio", "os", "pathlib", "random", "secrets", "socket", "threading", "time", "uuid"}


def module_name(path: Path) -> str:
    """The module below `runtime`: "store.plan", "db" for the package itself, "" for runtime."""
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.rglob("*.py"))
}


def imports(tree: ast.Module) -> Iterator[str]:
    """Every name imported, with what it is imported from: "runtime.errors.StartupError"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    """The modules of ours that a module imports, below `runtime`."""
    found = set()
    for name in imports(SOURCES[module]):
        if name.split(".")[0] == "runtime":
            path = name.removeprefix("runtime").removeprefix(".")
            found.add(path if path in SOURCES else path.rpartition(".")[0])
    return found


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down_only(module: str) -> None:
    allowed = ALLOWED[module.split(".")[0]]
    assert {name for name in own_imports(module) if name.split(".")[0] not in allowed} == set()


def store_room(module: str) -> str:
    """The room of the store that a module stands in."""
    room = module.split(".")[1] if module.count(".") > 1 or module in ROOM_PACKAGES else "ground"
    return "top" if module in STORE_TOP else room


ROOM_PACKAGES = {f"store.{room}" for room in ("write", "read", "follow")}


@pytest.mark.parametrize("module", [name for name in SOURCES if within(name, ("store",))])
def test_the_rooms_of_the_store_are_kept(module: str) -> None:
    wrong = {
        name
        for name in own_imports(module)
        if within(name, ("store",)) and name != "store"
        if store_room(name) not in STORE_ROOMS[store_room(module)]
    }
    assert wrong == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions count too. A package counts as its own file alone."""
    order = TopologicalSorter({name: own_imports(name) - {name, ""} for name in SOURCES})
    order.prepare()  # Raises CycleError, which names the circle.
    assert order.is_active()


@pytest.mark.parametrize("library", ONLY)
def test_only_the_named_modules_know_a_driver_or_the_server(library: str) -> None:
    knowing = {name for name, tree in SOURCES.items() if any(within(i, (library,)) for i in imports(tree))}
    assert {name for name in knowing if not within(name, ONLY[library])} == set()


def test_no_name_of_a_class_means_two_things() -> None:
    """But in `compat`, whose names are those of the earlier service."""
    trees = [tree for name, tree in SOURCES.items() if not within(name, ("compat",))]
    classes = Counter(
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_plan_and_all_that_it_reaches_are_pure() -> None:
    reached, open_ends = set(), {"store.write.plan"}
    while open_ends:
        module = open_ends.pop()
        reached.add(module)
        open_ends |= own_imports(module) - reached
    assert {name for name in reached if not within(name, PLAN_MAY_REACH)} == set()
    outside = {name.split(".")[0] for module in reached for name in imports(SOURCES[module])}
    assert outside & IMPURE == set()


def test_plan_and_commands_ask_nobody_for_the_time() -> None:
    users = {name for name in SOURCES if "runtime.models.utc_now" in imports(SOURCES[name])}
    assert {name for name in users if within(name, PURE)} == set()


def test_importing_the_package_loads_no_driver_and_no_server() -> None:
    program = "import runtime, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert HEAVY & set(loaded.split()) == set()
