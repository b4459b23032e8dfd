"""Files of exports: cut off, damaged, written by hand and by the command, and imports of them."""

from __future__ import annotations

import gzip
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import SourceUnreadable, TargetNotEmpty
from runtime.store.store import open_store
from runtime.transfer.importer import import_file
from tests.support.running_turns import ask
from tests.support.server_process import run_command, start_server
from tests.transfer.exporting import export, export_to, fill
from tests.transfer.importing import import_into

pytestmark = [pytest.mark.usefixtures("uncounted"), pytest.mark.slow]

Line = dict[str, Any]
TIME = "2026-01-05T09:00:00.123456Z"
HEADER: Line = {"format": "agent-runtime", "version": 1, "exported_at": TIME}
MESSAGE: Line = {"message": {"seq": 1, "role": "user", "content": "hi", "timestamp": TIME}}
SWITCH: Line = {"switch": {"id": 1, "to_agent": "coder", "switched_at": TIME, "metadata": {}}}
APPROVAL: Line = {
    "approval": {
        **{"call_id": "c", "tool_name": "write", "arguments": {}, "status": "pending"},
        "created_at": TIME,
    }
}
TURN: Line = {
    "turn": {
        **{"turn_id": "t", "status": "running", "agent": "coder", "started_at": TIME},
        **{"input_tokens": 1, "output_tokens": 2},
    }
}


def session(id: str = "s", messages: int = 1, **fields: Any) -> Line:
    times = {"created_at": TIME, "last_activity": TIME}
    counts = {"version": 3, "last_seq": messages, "message_count": messages}
    context = {"current_agent": "coder", "switch_count": 1, "created_at": TIME, "updated_at": TIME}
    described = {"session_id": id, "owner": "", "metadata": {}, "is_active": True, "current_agent": "coder"}
    return {"session": {**described, **times, **counts, **fields}, "context": {**context, "metadata": {}}}


def end(sessions: int = 1, messages: int = 1) -> Line:
    return {"end": {"sessions": sessions, "messages": messages}}


def write(path: Path, *lines: Line | bytes) -> str:
    encoded = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return str(path)


async def refusal(url: str, path: Path | str, *, merge: bool = False) -> str:
    """What an import is refused with, before anything is stored."""
    with pytest.raises(SourceUnreadable) as refused:
        await import_into(url, str(path), merge=merge)
    assert len(await export(url)) == 1
    return str(refused.value)


# What is cut off


@pytest.mark.parametrize("suffix", ["", ".gz"])
async def test_a_cut_file_is_refused_before_anything_is_stored(
    tmp_path: Path, sqlite_url: str, empty_sqlite_url: str, suffix: str
) -> None:
    await fill(sqlite_url)
    whole = (await export_to(sqlite_url, tmp_path / "whole.jsonl")).read_bytes()
    packed = gzip.compress(whole, mtime=0) if suffix else whole
    cut = tmp_path / f"cut.jsonl{suffix}"
    # Within the last line, at its beginning, in the middle and within the first session.
    for size in (len(packed) - 12, len(packed) // 2, len(packed) // 3):
        cut.write_bytes(packed[:size])
        assert "is cut off" in await refusal(empty_sqlite_url, cut)
    cut.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    assert "is cut off" in await refusal(empty_sqlite_url, cut)


async def test_of_a_cut_file_whole_sessions_are_merged_and_the_rest_later(
    tmp_path: Path, sqlite_url: str, postgres_url: str
) -> None:
    await fill(sqlite_url)
    path = await export_to(sqlite_url, tmp_path / "whole.jsonl")
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = await import_into(postgres_url, str(cut), merge=True)
    assert (report.lost, report.differing.names) == ({"cut": 1}, [])
    some, everything = await export(postgres_url), await export(sqlite_url)
    assert 10 < len(some) < len(everything)
    assert some[:-1] == everything[: len(some) - 1]

    with pytest.raises(TargetNotEmpty):
        await import_into(postgres_url, str(path))
    report = await import_into(postgres_url, str(path), merge=True)
    assert (report.lost, report.differing.names) == ({}, [])
    assert report.changed["kept"] == json.loads(some[-1])["end"]["sessions"]
    assert await export(postgres_url) == everything


# What is wrong

WRONG: dict[str, tuple[tuple[Line | bytes, ...], str]] = {
    "no header": ((session(), MESSAGE, end()), 'line 1: Expected {"format": "agent-runtime"'),
    "other format": (({**HEADER, "format": "x"},), "line 1: Expected 'agent-runtime', got 'x'"),
    "other version": (({**HEADER, "version": 2},), "line 1: Expected 1: an older or a newer program"),
    "second header": ((HEADER, HEADER), "line 2: "),
    "no JSON": ((HEADER, b"{nothing", end(0, 0)), "line 2: is not JSON"),
    "unknown line": ((HEADER, {"thing": {}}), "line 2: Object contains unknown field `thing`"),
    "no context": ((HEADER, {"session": session()["session"]}), "line 2: Expected one of session"),
    "two in one": ((HEADER, {**MESSAGE, **SWITCH}), "line 2: Expected one of session"),
    "message alone": ((HEADER, MESSAGE), "line 2: Expected a session before a message"),
    "wrong role": (
        (HEADER, session(), {"message": {**MESSAGE["message"], "role": "wizard"}}),
        "line 3: Invalid enum value 'wizard', expected one of system",
    ),
    "no time": ((HEADER, session(), {"message": {"seq": 1, "role": "user"}}), "line 3: Expected the time"),
    "seq twice": ((HEADER, session("s", 2), MESSAGE, MESSAGE), "line 4: Expected a number above 1, got 1"),
    "lost message": ((HEADER, session("s", 2), MESSAGE, end()), "line 4: Expected 2 messages in session 's'"),
    "seq too high": (
        (HEADER, session("s", 1, last_seq=0), MESSAGE, end()),
        "line 4: Expected no message above 0",
    ),
    "wrong count": ((HEADER, session(), MESSAGE, end(2, 1)), "line 4: Expected 1 sessions and 1 messages"),
    "more after": ((HEADER, end(0, 0), session()), "line 3: Expected nothing after the end"),
    "surrogate": (
        (HEADER, session(), json.dumps(MESSAGE).replace("hi", r"\ud83d").encode()),
        "line 3: is not JSON",
    ),
    "metadata": ((HEADER, session(metadata=[1])), "line 2: Expected `object`"),
    "bad key": ((HEADER, session("a\x01")), "line 2: Expected 1 to 255 characters"),
    "bad part": ((HEADER, session(), {"switch": {"id": 0}}), "line 3: "),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, sqlite_url: str, case: str) -> None:
    lines, wanted = WRONG[case]
    for merge in (False, True):
        message = await refusal(sqlite_url, write(tmp_path / "x.jsonl", *lines), merge=merge)
        assert wanted in message


async def test_a_line_that_is_too_long_is_refused(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.transfer.export_file.MAX_LINE", 1000)
    path = write(tmp_path / "x.jsonl", HEADER, session(title="x" * 1000))
    assert "line 2: is longer than 1,000 bytes" in await refusal(sqlite_url, path)


async def test_a_damaged_gzip_is_refused(tmp_path: Path, sqlite_url: str) -> None:
    path = tmp_path / "x.jsonl.gz"
    packed = bytearray(gzip.compress(json.dumps(HEADER).encode() * 100))
    packed[-6] ^= 1
    path.write_bytes(packed)
    assert "SOURCE: " in await refusal(sqlite_url, path)


# What is as it should be


async def test_the_lines_of_a_session_may_be_in_any_order(tmp_path: Path, database_url: str) -> None:
    second = {"message": {**MESSAGE["message"], "seq": 4}}
    lines = (HEADER, session("s", 2, last_seq=9), MESSAGE, SWITCH, second, APPROVAL, TURN, end(1, 2))
    report = await import_into(database_url, write(tmp_path / "x.jsonl", *lines))
    assert (report.differing.names, report.stored.switches, report.stored.approvals) == ([], 1, 1)
    kinds = [next(iter(json.loads(line))) for line in await export(database_url)]
    assert kinds == ["session", "switch", "approval", "turn", "message", "message", "end"]
    async with open_store(database_url) as store:
        assert [message["seq"] for message in (await store.list_messages("s")).messages] == [1, 4]
        appended = await store.append_messages("s", [{"role": "user", "content": "on"}])
        assert (appended.last_seq, appended.version) == (10, 4)


async def test_a_turn_that_ran_is_interrupted(tmp_path: Path, sqlite_url: str, postgres_url: str) -> None:
    async with open_store(sqlite_url) as store:
        await ask(store)
        path = tmp_path / "x.jsonl"
        path.write_bytes(b"".join([line async for line in store.export()]))
    assert b'"status":"running"' in path.read_bytes()
    assert (await import_into(postgres_url, str(path))).differing.names == []
    async with open_store(postgres_url) as store:
        [turn] = (await store.list_turns("s")).turns
        assert turn.status == "interrupted"
        assert turn.ended_at is not None
        async with store.follow_turn("s", turn.turn_id) as follower:
            assert await follower.events(60) is None
        await ask(store, "And now?")


async def test_sessions_become_those_of_an_owner_who_is_named(tmp_path: Path, sqlite_url: str) -> None:
    path = write(tmp_path / "x.jsonl", HEADER, session(), MESSAGE, end())
    await import_into(sqlite_url, path, owner="ann")
    assert [json.loads(line)["session"]["owner"] for line in (await export(sqlite_url))[:1]] == ["ann"]
    several = (HEADER, session("a", 0), session("b", 0, owner="bob"), end(2, 0))
    with pytest.raises(SourceUnreadable, match="several owners"):
        await import_into(sqlite_url, write(tmp_path / "y.jsonl", *several), owner="ann", merge=True)


async def test_python_imports_what_it_exported(tmp_path: Path, sqlite_url: str, postgres_url: str) -> None:
    await fill(sqlite_url)
    path = await export_to(sqlite_url, tmp_path / "x.jsonl")
    async with open_store(postgres_url) as store:
        report = await import_file(store, path)
        assert report.differing.names == []
        # The sessions are used beside it, as any others.
        page = await store.list_messages("long", last=1, owner="ann")
        assert (page.last_seq, page.version, page.messages[0]["content"]) == (1300, 1, "word 1299")
        appended = await store.append_messages("long", [{"role": "user", "content": "on"}], owner="ann")
        assert (appended.last_seq, appended.version) == (1301, 2)


async def test_a_second_import_stores_nothing(tmp_path: Path, database_url: str) -> None:
    path = write(tmp_path / "x.jsonl", HEADER, session(), SWITCH, MESSAGE, TURN, end())
    first = await import_into(database_url, path)
    again = await import_into(database_url, path)
    assert (first.created, again.created, again.differing.names) == (1, 0, [])


# The command


def run_export(url: str, *arguments: str) -> tuple[int, str, str]:
    ended = run_command("export", *arguments, env={"DB_URL": url})
    return ended.returncode, ended.stdout, ended.stderr


async def test_the_command_writes_what_the_store_exports(tmp_path: Path, database_url: str) -> None:
    await fill(database_url)
    plain, packed = tmp_path / "x.jsonl", tmp_path / "x.jsonl.gz"
    assert run_export(database_url, str(plain)) == (0, "", "")
    assert run_export(database_url, str(packed)) == (0, "", "")
    assert plain.read_bytes().splitlines(keepends=True)[1:] == await export(database_url)
    assert gzip.decompress(packed.read_bytes()).splitlines()[1:] == plain.read_bytes().splitlines()[1:]
    status, printed, _ = run_export(database_url, "--owner", "ann", "--session", "чат-7")
    assert status == 0
    wanted = await export(database_url, owner="ann", session_id="чат-7")
    assert printed.encode().splitlines(keepends=True)[1:] == wanted
    assert run_export(database_url, "--session", "none")[::2] == (
        1,
        "agent-runtime: session 'none' does not exist\n",
    )
    assert sorted(path.name for path in tmp_path.glob("*x.json*")) == ["x.jsonl", "x.jsonl.gz"]


def test_the_command_reads_beside_a_server(tmp_path: Path, database_url: str) -> None:
    with start_server({"DB_URL": database_url}, tmp_path) as server:
        made = urllib.request.Request(
            f"{server.url}/sessions",
            json.dumps({"session_id": "s", "messages": [{"role": "user", "content": "hi"}]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(made) as reply:
            assert reply.status == 201
        status, printed, errors = run_export(database_url)
        with urllib.request.urlopen(f"{server.url}/sessions/s/export") as reply:
            assert (status, errors) == (0, "")
            assert reply.read().decode().splitlines()[1:] == printed.splitlines()[1:]


def test_the_command_replaces_no_file_unless_it_is_told_to(tmp_path: Path, sqlite_url: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("mine")
    status, _, errors = run_export(sqlite_url, str(path))
    assert (status, path.read_text()) == (1, "mine")
    assert "--overwrite" in errors
    assert run_export(sqlite_url, "--overwrite", str(path))[0] == 0
    assert path.read_text().endswith('{"end":{"sessions":0,"messages":0}}\n')
    assert "No such file" in run_export(sqlite_url, str(tmp_path / "no" / "x.jsonl"))[2]


def test_zstd_without_its_library_is_a_clear_error(tmp_path: Path, sqlite_url: str) -> None:
    """Or works, where it is installed."""
    path = tmp_path / "x.jsonl.zst"
    status, _, errors = run_export(sqlite_url, str(path))
    if status:
        assert (status, path.exists()) == (2, False)
        assert "install agent-runtime[zstd]" in errors
    else:
        assert run_command("import", str(path), env={"DB_URL": sqlite_url}).returncode == 0
