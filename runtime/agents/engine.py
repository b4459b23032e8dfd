"""Starts turns and looks after them: they outlive the connections that asked for them, and those whose
process has died are ended here."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Unpack

from msgspec import UNSET

from runtime.agents.calls import CallRefused, check_edited
from runtime.agents.chat_completions import ChatCompletions
from runtime.agents.echo import EchoModel
from runtime.agents.model import Model
from runtime.agents.registry import Registry
from runtime.agents.requests import (
    DecisionMessage,
    SwitchAgentMessage,
    ToolResultMessage,
    TurnMessage,
    UserMessage,
)
from runtime.agents.turn import TurnRun
from runtime.config import PREFIX, Settings
from runtime.errors import AgentRuntimeError, ApprovalNotFound, InvalidInput, ShuttingDown
from runtime.metrics import Metrics
from runtime.store.commands import SessionKey
from runtime.store.inputs import json_text
from runtime.store.store import Store
from runtime.store.turn_commands import ToolResult, TurnWritten
from runtime.store.turns import tool_result, verdict
from runtime.store.writes import WriteOptions

logger = logging.getLogger("agent_runtime.turns")

# Seconds between two looks at the turns of processes that may have died.
SWEEP = 5.0


def call_id() -> str:
    """An id for a call of a tool."""
    return f"call_{uuid.uuid4().hex}"


class Engine:
    """Runs turns with the agents of a registry and one model. Its caller closes it."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        model: Model,
        metrics: Metrics,
        *,
        make_id: Callable[[], str] = call_id,
    ) -> None:
        self.registry = registry
        self._store = store
        self._model = model
        self._metrics = metrics
        self._make_id = make_id
        self._runs: dict[asyncio.Task[None], TurnRun] = {}
        self._closing = False
        metrics.known_agents = registry.agents
        metrics.turns_running.set_function(lambda: len(self._runs))
        self._sweeping = asyncio.create_task(self._sweep(), name="turns")

    async def start(
        self, session_id: str, message: TurnMessage, **options: Unpack[WriteOptions]
    ) -> TurnWritten:
        """Begin a turn; it goes on by itself. Raises what `Store.start_turn` raises, and InvalidInput."""
        if self._closing:
            raise ShuttingDown("the server is stopping and starts no more turns")
        # W10: a turn that is stored is run, also when whoever asked for it has gone away meanwhile.
        return await asyncio.shield(self._begin(session_id, message, options))

    async def _begin(self, session_id: str, message: TurnMessage, options: WriteOptions) -> TurnWritten:
        written = await self._start(session_id, message, options)
        if written.turn.status != "running":
            self._metrics.turn_ended(written.turn)
        elif not written.replayed:
            self._run(SessionKey(options.get("owner", ""), session_id), written)
        return written

    async def _start(self, session_id: str, message: TurnMessage, options: WriteOptions) -> TurnWritten:
        match message:
            case UserMessage(content):
                said = [{"role": "user", "content": content}]
                return await self._store.start_turn(session_id, messages=said, **options)
            case SwitchAgentMessage(agent, content):
                said = [] if content is None else [{"role": "user", "content": content}]
                self._check_agent(agent)
                return await self._store.start_turn(session_id, messages=said, agent=agent, **options)
            case ToolResultMessage():
                result = _result(message)
                return await self._store.start_turn(session_id, result=result, **options)
            case DecisionMessage():
                await self._check_decision(session_id, message, options.get("owner", ""))
                decided = verdict(
                    message.call_id, message.decision, message.modified_arguments, message.feedback
                )
                return await self._store.start_turn(session_id, verdict=decided, **options)

    def _check_agent(self, agent: str) -> None:
        if agent not in self.registry.agents:
            known = ", ".join(self.registry.agents)
            raise InvalidInput("$.message.agent_type", f"Expected one of {known}")

    async def _check_decision(self, session_id: str, message: DecisionMessage, owner: str) -> None:
        if (message.decision == "edit") != (message.modified_arguments is not None):
            raise InvalidInput("$.message.modified_arguments", "must be given with `edit`, and only then")
        if message.decision != "edit":
            return
        approval = await self._store.find_approval(session_id, message.call_id, owner=owner)
        if approval is None:
            raise ApprovalNotFound(session_id, message.call_id)
        context = await self._store.get_context(session_id, owner=owner)
        agent = context.current_agent
        # The agent that made the call may have handed over since: then its file patterns are not known.
        if agent in self.registry.agents and approval.tool_name in self.registry.allowed_tools(agent):
            self._check_edited(agent, approval.tool_name, message.modified_arguments)

    def _check_edited(self, agent: str, tool_name: str, arguments: object) -> None:
        try:
            check_edited(self.registry, agent, tool_name, arguments)
        except CallRefused as refusal:
            raise InvalidInput("$.message.modified_arguments", str(refusal)) from None

    def _run(self, key: SessionKey, written: TurnWritten) -> None:
        run = TurnRun(self._store, self.registry, self._model, self._metrics, key, written, self._make_id)
        task = asyncio.create_task(self._watch(run))
        self._runs[task] = run
        task.add_done_callback(self._runs.pop)
        if self._closing:
            run.interrupt()

    async def _watch(self, run: TurnRun) -> None:
        try:
            turn = await run.run()
        except Exception:
            logger.exception("a turn failed")
        else:
            if turn is not None:
                self._metrics.turn_ended(turn)

    async def _sweep(self) -> None:
        """End the turns of dead processes, forget old events, count what waits: now and regularly."""
        while True:
            try:
                if ended := await self._store.interrupt_lost_turns():
                    logger.warning("%d turns were interrupted: their processes have died", ended)
                await self._store.forget_old()
                self._metrics.pending_approvals.set(await self._store.count_waiting_approvals())
            except AgentRuntimeError as error:
                logger.warning("turns cannot be looked after for now: %s", error)
            await asyncio.sleep(SWEEP)

    async def close(self, timeout: float) -> None:
        """Interrupt what runs, let it store that for up to `timeout` seconds, and let go of the model."""
        self._closing = True
        self._sweeping.cancel()
        for run in self._runs.values():
            run.interrupt()
        if self._runs:
            await asyncio.wait(list(self._runs), timeout=timeout)
        for task in self._runs:
            task.cancel()
        await asyncio.gather(self._sweeping, *self._runs, return_exceptions=True)
        await self._model.close()


def _result(message: ToolResultMessage) -> ToolResult:
    if (message.result is UNSET) == (message.error is UNSET):
        raise InvalidInput("$.message", "must have either `result` or `error`")
    if message.error is UNSET:
        return tool_result(message.call_id, message.result, tool_name=message.tool_name)
    text = message.error if isinstance(message.error, str) else json_text(message.error, "$.message.error")
    return tool_result(message.call_id, f"Error: {text}", tool_name=message.tool_name, failed=True)


def make_model(settings: Settings) -> Model:
    """The model of the settings: a server's, or the built-in echo where none is named."""
    if not settings.llm_url:
        logger.warning("no language model is set (%sLLM_URL): the built-in echo model answers", PREFIX)
        return EchoModel()
    return ChatCompletions(
        settings.llm_url,
        settings.llm_api_key,
        settings.llm_model,
        connect_timeout=settings.llm_connect_timeout,
        timeout=settings.llm_timeout,
        retries=settings.llm_retries,
    )
