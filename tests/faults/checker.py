"""Compares a journal with what is stored. Each finding is a line that begins with the name of its rule.

    lost            acknowledged, and not stored (or accepted, and lost though it need not be: see `accepted`)
    doubled         stored twice
    torn            stored in part, or apart
    moved           stored elsewhere, or otherwise, than was acknowledged
    refused         stored, though the server said that it was not
    unasked         stored, and nobody wrote it
    gap             sequence numbers that are not 1, 2, 3 …
    head            a head that does not fit what stands below it
    out of order    stored in another order than that of time
    stale           a read behind what was acknowledged, or read, before it began
    false read      a read that shows something else than what stands there
    follower        a message heard twice, never, in disorder, or other than it is stored; a `late` one
    hung, odd, another reply    what the load itself noted: see `asking` and `roles`

Nothing may be taken away from the sessions of the load, and nobody else may write to them. Of other sessions
only the numbers and the heads are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tests.faults.accepted import check_accepted
from tests.faults.evidence import Event, Evidence, contradictions
from tests.faults.journal import Following, Journal, Write
from tests.faults.reads import check_reads
from tests.faults.stored import Stored, StoredSession


def check(
    journal: Journal, stored: Stored, *, window: float | None = None, heard_within: float | None = None
) -> list[str]:
    """The findings. With `window` seconds, a killed server may have lost what it had accepted since then.

    With `heard_within` seconds, followers must have heard each message so soon after its acknowledgement.
    """
    evidence = Evidence(journal, stored)
    return [
        *journal.oddities,
        *(finding for write in journal.writes for finding in _check_write(evidence, write)),
        *check_accepted(evidence, window),
        *(finding for name in stored for finding in _check_session(evidence, name)),
        *_check_order(evidence),
        *check_reads(evidence),
        *(finding for each in journal.followings for finding in _check_following(evidence, each)),
        *_check_delays(journal, heard_within),
    ]


def count(findings: list[str], rule: str) -> int:
    """How many findings there are of a rule."""
    return sum(finding.startswith(f"{rule}: ") for finding in findings)


def _check_write(evidence: Evidence, write: Write) -> Iterator[str]:
    places = evidence.places(write)
    firsts = [found[0] for found in places if found]
    if any(len(found) > 1 for found in places):
        yield f"doubled: {write.name} stands at {places}"
    if firsts and firsts != [*range(firsts[0], firsts[0] + len(places))]:
        yield f"torn: {write.name} stands at {places}"
    if write.fate == "refused" and firsts:
        yield f"refused: {write.name} stands at {places}"
    if write.fate == "acknowledged":
        if not firsts:
            yield f"lost: {write.name}, as {write.seqs or write.from_agent!r}"
        elif _is_moved(evidence, write, firsts):
            yield f"moved: {write.name}, as {write.seqs or write.from_agent!r}, stands at {places}"


def _is_moved(evidence: Evidence, write: Write, places: list[int]) -> bool:
    if write.agent:
        return evidence.session(write.session).switches[places[0] - 1][0] != write.from_agent
    return tuple(places) != write.seqs


def _check_session(evidence: Evidence, name: str) -> Iterator[str]:
    session = evidence.stored[name]
    seqs = [seq for seq, _ in session.messages]
    if seqs != [*range(1, len(seqs) + 1)]:
        yield f"gap: {name} has {len(seqs)} messages up to number {max(seqs)}"
    if (session.last_seq, session.message_count) != (max(seqs, default=0), len(seqs)):
        yield f"head: {name} says {session.message_count} messages up to number {session.last_seq}"
    yield from _check_switches(name, session)
    writes = [write for write in evidence.journal.writes if write.session == name]
    if not writes:
        return
    asked = {part for write in writes for part in write.contents or (write.agent,)}
    found = [content for _, content in session.messages] + [agent for _, agent in session.switches]
    yield from (f"unasked: {part!r} in {name}" for part in found if part not in asked)
    # The first version is that of the session itself.
    changes = 1 + sum(evidence.is_stored(write) for write in writes)
    if session.version != changes:
        yield f"head: {name} is at version {session.version} after {changes} changes"


def _check_switches(name: str, session: StoredSession) -> Iterator[str]:
    agents = [agent for _, agent in session.switches]
    if [before for before, _ in session.switches[1:]] != agents[:-1] or session.agent not in (
        agents or [session.agent]
    )[-1:]:
        yield f"head: {name} is held by {session.agent!r} after the handovers {session.switches[-3:]}"


def _check_order(evidence: Evidence) -> Iterator[str]:
    for writes in evidence.writes_by_session().values():
        yield from contradictions(_by_version(write) for write in writes if write.version)
        yield from contradictions(
            _by_number(evidence, write) for write in writes if write.contents and evidence.is_stored(write)
        )


def _by_version(write: Write) -> Event:
    return Event(write.version, write.began, write.ended, "out of order", write.name)


def _by_number(evidence: Evidence, write: Write) -> Event:
    # What was accepted is numbered when it is stored: see `accepted`.
    ended = write.ended if write.fate == "acknowledged" else math.inf
    place = max(found[0] for found in evidence.places(write) if found)
    return Event(place, write.began, ended, "out of order", write.name)


def _check_following(evidence: Evidence, following: Following) -> Iterator[str]:
    session = evidence.session(following.session)
    contents = dict(session.messages)
    expected = following.after + 1
    for heard in following.heard:
        if heard.seq != expected:
            yield f"follower: heard number {heard.seq} of {following.session} where {expected} was next"
        if contents.get(heard.seq) != heard.content:
            yield f"follower: heard {heard.content!r} as number {heard.seq} of {following.session}"
        expected = heard.seq + 1
    if expected <= session.last_seq:
        yield f"follower: never heard {expected} to {session.last_seq} of {following.session}"


def _check_delays(journal: Journal, bound: float | None) -> Iterator[str]:
    if bound is None:
        return
    ended = {(write.session, seq): write.ended for write in journal.writes for seq in write.seqs}
    for following in journal.followings:
        for heard in following.heard:
            late = heard.at - ended.get((following.session, heard.seq), heard.at)
            if late > bound:
                yield f"late: number {heard.seq} of {following.session} was heard {late:.3f} s after its time"
