"""A thread of LangGraph that is appended to by its saver alone: one checkpoint for each message.

A user of LangGraph calls `graph.ainvoke` or `graph.aupdate_state` with a `MessagesState`. That reads the last
checkpoint and stores another with the whole list of messages: an append costs more with each message that
the thread has, and about 150 a second were done on Postgres and 200 on SQLite. That is not what is compared.
Here the saver puts checkpoints whose `messages` hold the new message only; those before it stand in the
checkpoints before, which `alist` gives. It is the least that stores a message, and costs the same however
long the thread is.
"""

from __future__ import annotations

from datetime import UTC, datetime

from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.base.id import uuid6

from tests.bench.worker import MESSAGE


class Thread:
    """One thread and its last checkpoint, which is the parent of the next."""

    def __init__(self, saver: BaseCheckpointSaver[str], name: str) -> None:
        self._saver = saver
        self._place = {"thread_id": name, "checkpoint_ns": ""}
        self._last = self._place
        self._version: str | None = None
        self._step = -1

    async def append(self) -> None:
        """Put the next checkpoint. Others may be put meanwhile: each is the parent of one only."""
        parent, checkpoint = self._last, self._make_checkpoint()
        self._last = {**self._place, "checkpoint_id": checkpoint["id"]}
        metadata = CheckpointMetadata(source="update", step=self._step, parents={})
        versions = checkpoint["channel_versions"]
        await self._saver.aput({"configurable": parent}, checkpoint, metadata, versions)

    def _make_checkpoint(self) -> Checkpoint:
        self._step += 1
        self._version = self._saver.get_next_version(self._version, None)
        return Checkpoint(
            v=4,
            id=str(uuid6(clock_seq=self._step)),
            ts=datetime.now(UTC).isoformat(),
            channel_values={"messages": [MESSAGE]},
            channel_versions={"messages": self._version},
            versions_seen={},
            updated_channels=["messages"],
        )
