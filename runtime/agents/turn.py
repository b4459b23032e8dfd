"""Runs one turn: asks the model of the session's agent until it has answered, its tools wait for the client,
or the turn is ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from msgspec import structs

from runtime.agents.context_window import read_decisions, read_history
from runtime.agents.model import Answer, Model, Question, ToolCall
from runtime.agents.prompt import Message, chat_messages
from runtime.agents.recorder import PATIENCE, Recorder
from runtime.agents.registry import Agent, Registry
from runtime.agents.step import Step, judge
from runtime.errors import (
    AgentRuntimeError,
    ModelError,
    RequestError,
    SessionNotFound,
    TooManyHandovers,
    TooManySteps,
    TurnFailed,
    TurnLost,
    TurnTimeout,
    UnknownAgent,
)
from runtime.metrics import Metrics
from runtime.models import Turn
from runtime.retry import retry_until_available
from runtime.store.messages import new_messages
from runtime.store.records import SessionKey
from runtime.store.store import Store
from runtime.store.turn_events import assistant_message
from runtime.store.validation import json_text
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import Ending

logger = logging.getLogger("agent_runtime.turns")

SHUT_DOWN = "the server was shut down; what was said is kept"
INTERNAL = "the turn failed inside the server; its log says more"

T = TypeVar("T")


class TurnRun:
    """A turn while it runs. `make_id` gives a call a new id where the model used one twice."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        model: Model,
        metrics: Metrics,
        key: SessionKey,
        turn: TurnWritten,
        make_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._registry = registry
        self._model = model
        self._metrics = metrics
        self._key = key
        self._turn = turn.turn
        self._session_db_id = turn.session_db_id
        self._make_id = make_id
        self._handovers = 0
        self._cut_short: Ending | None = None
        self._recorder = Recorder(store.turns, key, turn, self._stop, self._lose)
        self._answering = asyncio.create_task(self._answer(), name=f"turn {turn.turn.turn_id}")

    def interrupt(self) -> None:
        """End the turn: the server is shutting down."""
        self._cut(Ending("interrupted", json_text(SHUT_DOWN), "turn_interrupted"))

    def _stop(self) -> None:
        self._cut(Ending("stopped"))

    def _lose(self, error: Exception) -> None:
        if not self._answering.done():
            self._cut_short = self._ending_for(error)
            self._answering.cancel()

    def _cut(self, ending: Ending) -> None:
        if self._cut_short is None and not self._answering.done():
            self._cut_short = ending
            self._answering.cancel()

    async def run(self) -> Turn | None:
        """Run until the turn has ended, however that is; return it, or None where it ended elsewhere."""
        recording = asyncio.create_task(self._recorder.run())
        try:
            with self._store.turns.watch_turns(self._session_db_id, self._recorder.poll):
                await asyncio.wait([self._answering])
        finally:
            self._recorder.close()
            await recording
        return await self._end()

    async def _answer(self) -> TurnWritten:
        limits = self._registry.limits
        try:
            async with asyncio.timeout(limits.seconds):
                for _ in range(limits.steps):
                    step, written = await self._step()
                    if not step.goes_on:
                        return written
        except TimeoutError:
            raise TurnTimeout(f"the turn took longer than its limit of {limits.seconds:g} s") from None
        raise TooManySteps(f"the turn asked its model {limits.steps} times, and may not ask more often")

    async def _step(self) -> tuple[Step, TurnWritten]:
        agent_type = self._turn.agent
        if agent_type not in self._registry.agents:
            known = ", ".join(self._registry.agents)
            raise UnknownAgent(f"the agent {agent_type!r} is not configured; there are: {known}")
        answer = await self._ask(agent_type, self._registry.agents[agent_type])
        step = judge(self._registry, agent_type, self._turn.turn_id, await self._with_own_ids(answer))
        if step.switch_to is not None:
            self._handovers += 1
            if self._handovers > self._registry.limits.handovers:
                raise TooManyHandovers(
                    f"the turn was handed over {self._handovers - 1} times, and may not be more often"
                )
        written = await self._recorder.record(**step.fields(self._registry, self._key))
        self._turn = written.turn
        return step, written

    async def _ask(self, agent_type: str, agent: Agent) -> Answer:
        question = Question(
            messages=await self._retry(lambda: self._read_messages(agent)),
            tools=self._registry.definitions(agent_type),
            model=agent.model,
            parameters=agent.parameters,
        )
        try:
            with self._metrics.model_streams.track_inprogress():
                answer = await self._model.ask(question, self._timed_say())
        except ModelError as error:
            self._metrics.model_errors.labels(error.code).inc()
            raise
        self._metrics.model_tokens.labels("input").inc(answer.input_tokens)
        self._metrics.model_tokens.labels("output").inc(answer.output_tokens)
        return answer

    async def _retry(self, read: Callable[[], Awaitable[T]]) -> T:
        return await retry_until_available(read, PATIENCE, f"turn {self._turn.turn_id}")

    async def _read_messages(self, agent: Agent) -> list[Message]:
        session_id, owner = self._key.session_id, self._key.owner
        limits = self._registry.limits
        log = await read_history(self._store, session_id, owner, limits.history_tokens, limits.history_bytes)
        decisions = await read_decisions(self._store, session_id, owner, log, limits.history_bytes)
        return chat_messages(agent.instructions, log, decisions)

    def _timed_say(self) -> Callable[[str], None]:
        loop = asyncio.get_running_loop()
        asked_at: float | None = loop.time()

        def append_text(text: str) -> None:
            nonlocal asked_at
            if asked_at is not None:
                self._metrics.first_token_seconds.observe(loop.time() - asked_at)
                asked_at = None
            self._recorder.append_text(text)

        return append_text

    async def _with_own_ids(self, answer: Answer) -> Answer:
        """The answer with a new id for each call whose id an earlier approval has."""
        session_id, owner = self._key.session_id, self._key.owner
        calls: list[ToolCall] = []
        for call in answer.calls:
            find = partial(self._store.find_approval, session_id, call.id, owner=owner)
            taken = await self._retry(find)
            calls.append(call if taken is None else structs.replace(call, id=self._make_id()))
        return structs.replace(answer, calls=tuple(calls))

    async def _end(self) -> Turn | None:
        """The turn as it ended. An end that the turn did not reach by itself is stored here."""
        ending = self._cut_short
        if not self._answering.cancelled():
            error = self._answering.exception()
            if error is None:
                return self._answering.result().turn
            ending = self._ending_for(error)
        if ending is None:
            return None
        try:
            return (await self._recorder.record(**self._last_words(ending))).turn
        except TurnLost:
            # It came to its own end while it was being cut short; or another instance has ended it.
            return self._recorder.ended
        except AgentRuntimeError as error:
            logger.error("the end of turn %s could not be stored: %s", self._turn.turn_id, error)
            return None

    def _ending_for(self, error: BaseException) -> Ending | None:
        if isinstance(error, TurnLost | SessionNotFound):
            logger.warning("turn %s cannot be carried on: %s", self._turn.turn_id, error)
            return None
        if isinstance(error, TurnFailed | RequestError):
            # The error text of the model's server goes to the readers of the events, not to the log: it may
            # repeat the conversation.
            logger.warning("turn %s failed: %s", self._turn.turn_id, error.code)
            return Ending("failed", json_text(str(error)), error.code)
        logger.error("turn %s failed", self._turn.turn_id, exc_info=error)
        return Ending("failed", json_text(INTERNAL), AgentRuntimeError.code)

    def _last_words(self, ending: Ending) -> dict[str, object]:
        """The ending, with the text before it."""
        said = self._recorder.said
        if not said:
            return {"ending": ending}
        metadata = {"turn_id": self._turn.turn_id, "agent": self._turn.agent, ending.status: True}
        message = {"role": "assistant", "content": said, "metadata": metadata}
        events = (assistant_message(json_text(said)),)
        return {"messages": new_messages([message]), "events": events, "ending": ending}
