"""What the tasks of a load do, over and over: write, read, follow."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from tests.faults.asking import PAUSE, Answer, Asker, Target
from tests.faults.journal import Following, Heard, Journal, Read, Write
from tests.faults.streams import read_messages

PADDING = ("", " plain", " “quoted” \n", " 🌇 at dusk", " \u0000 nothing", ' {"a": [1e400]}')
LARGEST_BATCH, LARGEST_PAGE = 6, 20
# How many of the writes hand over, are batches, have a key; and how many of these are repeated when done.
SWITCHING, BATCHES, KEYED, REPEATED = 0.1, 0.3, 0.5, 0.3
# A follower leaves by itself after so many messages, and comes back.
LONGEST_STAY = 200


@dataclass
class Course:
    """What the tasks of a load share. `last_seqs` are the highest numbers known of each session.

    `finished` is set when nobody writes any more, and `last_seqs` are what followers are still to hear.
    """

    name: str
    targets: Sequence[Target]
    sessions: Sequence[str]
    asker: Asker
    journal: Journal
    buffered: bool
    switches: bool
    last_seqs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    finished: bool = False

    def raise_last_seq(self, session: str, seq: int) -> None:
        self.last_seqs[session] = max(self.last_seqs[session], seq)


async def write(course: Course, chance: Random, number: int) -> None:
    """One write: under a key it is repeated until it is answered, else it is never sent twice."""
    write = course.journal.begin(_draw_write(course, chance, number))
    path, body = _request(write)
    headers = {"Prefer": "respond-async"} if course.buffered else {}
    if write.key:
        headers["Idempotency-Key"] = write.key
    while True:
        target = chance.choice(course.targets)
        # A repeat in flight may be stored, also if its client is cancelled before the answer.
        fate, write.fate, write.ended = write.fate, "unknown", math.inf
        answer = await course.asker.ask(target, "POST", path, body, headers)
        write.fate = fate
        note_answer(course, write, answer)
        if not write.key or answer.is_final:
            break
    if write.key and write.fate == "acknowledged" and chance.random() < REPEATED:
        await _repeat(course, chance.choice(course.targets), write, headers, answer)


def _draw_write(course: Course, chance: Random, number: int) -> Write:
    name = f"{course.name}-{number}-{len(course.journal.writes)}"
    session, key = chance.choice(course.sessions), name if chance.random() < KEYED else ""
    if course.switches and chance.random() < SWITCHING:
        return Write(session, agent=f"agent {name}", key=key)
    size = chance.randint(2, LARGEST_BATCH) if chance.random() < BATCHES else 1
    contents = tuple(f"{name}.{place}{chance.choice(PADDING)}" for place in range(size))
    return Write(session, contents, key=key)


def _request(write: Write) -> tuple[str, Any]:
    path = f"/sessions/{write.session}"
    if write.agent:
        return f"{path}/agent", {"agent": write.agent}
    messages = [{"role": "user", "content": content} for content in write.contents]
    return f"{path}/messages", messages[0] if len(messages) == 1 else {"messages": messages}


def note_answer(course: Course, write: Write, answer: Answer) -> None:
    """Note in the journal what an answer says of a write."""
    write.attempts += 1
    write.life = answer.life
    if answer.fate == "refused" and write.fate == "unknown" and write.attempts > 1:
        return  # this attempt is not stored, but an earlier one may be
    write.fate = answer.fate
    write.ended = math.inf if answer.fate == "unknown" else time.monotonic()
    course.journal.stored += answer.fate in ("acknowledged", "accepted")
    if answer.fate == "acknowledged":
        write.version = answer.body["version"]
        write.seqs = tuple(receipt["seq"] for receipt in answer.body.get("messages", ()))
        write.from_agent = answer.body.get("from_agent", "")
        course.raise_last_seq(write.session, max(write.seqs, default=0))


async def _repeat(
    course: Course, target: Target, write: Write, headers: dict[str, str], first: Answer
) -> None:
    """Ask again for what is done (W12)."""
    path, body = _request(write)
    again = await course.asker.ask(target, "POST", path, body, headers)
    if again.fate == "acknowledged" and (again.body, again.replayed) != (first.body, True):
        course.journal.oddities.append(f"another reply: {write.name}: {first.body}, then {again.body}")


async def read(course: Course, chance: Random, _: int) -> None:
    """One read: a session, its last messages, or a page from anywhere on."""
    session = chance.choice(course.sessions)
    after, limit = chance.randint(0, course.last_seqs[session]), chance.randint(1, LARGEST_PAGE)
    query = chance.choice(("", f"/messages?last={limit}", f"/messages?after={after}&limit={limit}"))
    began = time.monotonic()
    answer = await course.asker.ask(chance.choice(course.targets), "GET", f"/sessions/{session}{query}")
    if answer.status == 200:
        course.journal.reads.append(_as_read(session, began, answer, after))


def _as_read(session: str, began: float, answer: Answer, after: int) -> Read:
    body = answer.body
    head = (session, began, time.monotonic(), body["version"], body["last_seq"])
    if "messages" not in body:
        return Read(*head, agent=body["current_agent"], life=answer.life)
    messages = tuple((message["seq"], message["content"]) for message in body["messages"])
    if "next_before" in body:
        after, end = (messages[0][0] - 1 if body["next_before"] else 0), body["last_seq"]
    else:
        end = body["next_after"] or max(after, body["last_seq"])
    return Read(*head, after, end, messages, life=answer.life)


async def follow(course: Course, chance: Random, number: int) -> None:
    """Follow one session until the load ends and all that was acknowledged is heard."""
    following = Following(course.sessions[number % len(course.sessions)])
    course.journal.followings.append(following)
    while not _has_heard_all(course, following):
        target = chance.choice(course.targets)
        listening = asyncio.create_task(_listen(course, target, following, chance.randint(1, LONGEST_STAY)))
        while not listening.done():
            await asyncio.wait([listening], timeout=PAUSE)
            if _has_heard_all(course, following):
                listening.cancel()
        if not listening.cancelled():
            listening.result()


def _has_heard_all(course: Course, following: Following) -> bool:
    return course.finished and following.last_seq >= course.last_seqs[following.session]


async def _listen(course: Course, target: Target, following: Following, stay: int) -> None:
    """One stream, from where the last one ended."""
    path = f"{await target.wait()}/sessions/{following.session}/events"
    headers = {**course.asker.headers, "Last-Event-ID": str(following.last_seq)}
    following.streams += 1
    try:
        async with course.asker.http.get(path, headers=headers) as reply:
            if reply.status == 200:
                await _hear(reply, following, stay)
            else:
                course.journal.refusals[f"{reply.status} stream"] += 1
    except aiohttp.ClientError:
        pass
    await asyncio.sleep(PAUSE)


async def _hear(reply: aiohttp.ClientResponse, following: Following, stay: int) -> None:
    async for seq, message in read_messages(reply):
        following.heard.append(Heard(time.monotonic(), seq, message["content"]))
        stay -= 1
        if not stay:
            return
