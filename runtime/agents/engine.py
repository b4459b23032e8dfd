"""Starts and supervises turns. A turn outlives the connection of its client; a lost one is interrupted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Unpack

from msgspec import UNSET

from runtime.agents.chat_completions import ChatCompletions
from runtime.agents.echo import EchoModel
from runtime.agents.model import Model, new_call_id
from runtime.agents.registry import Registry
from runtime.agents.stream_assembler import MAX_CHARACTERS
from runtime.agents.tool_validation import InvalidToolCall, check_arguments
from runtime.agents.turn import TurnRun
from runtime.agents.turn_messages import (
    DecisionMessage,
    SwitchAgentMessage,
    ToolResultMessage,
    TurnMessage,
    UserMessage,
)
from runtime.config import PREFIX, Settings
from runtime.errors import AgentRuntimeError, InvalidInput, ShuttingDown
from runtime.metrics import Metrics
from runtime.models import decode_json
from runtime.store.records import SessionKey
from runtime.store.store import Store
from runtime.store.submission import WriteOptions
from runtime.store.turn_store import ToolOutput, tool_result, verdict
from runtime.store.validation import JsonValue
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import ToolResult
from runtime.uncancellable import run_detached

logger = logging.getLogger("agent_runtime.turns")

# Seconds between two looks at the turns of processes that may have died.
SWEEP = 5.0
# The earlier service's language-model proxy: how its answer begins where it cannot reach the model, and how
# many seconds a whole answer of it may take.
PROXY_FAILURE = "[Error] LiteLLM proxy unavailable"
PROXY_TIMEOUT = 360.0


class Engine:
    """Runs turns with the agents of a registry and one model. Its caller closes it."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        model: Model,
        metrics: Metrics,
        *,
        make_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.registry = registry
        self._store = store
        self._turns = store.turns
        self._model = model
        self._metrics = metrics
        self._make_id = make_id
        self._runs: dict[asyncio.Task[None], TurnRun] = {}
        self._closing = False
        metrics.known_agents = registry.agents
        metrics.turns_running.set_function(lambda: len(self._runs))
        self._sweeping = asyncio.create_task(self._sweep(), name="turns")

    async def start(
        self, session_id: str | None, message: TurnMessage, **options: Unpack[WriteOptions]
    ) -> TurnWritten:
        """Start a turn, which then runs by itself. Without a session id a session is created for it.

        Raises what `TurnStore.start_turn` raises, and InvalidInput.
        """
        if self._closing:
            raise ShuttingDown("the server is stopping and starts no more turns")
        # W10: a turn that is stored is run, also when its client has disconnected meanwhile.
        return await run_detached(self._begin(session_id, message, options))

    async def _begin(
        self, session_id: str | None, message: TurnMessage, options: WriteOptions
    ) -> TurnWritten:
        written = await self._start(session_id, message, options)
        if written.replayed:
            return written
        if written.turn.status == "running":
            self._run(SessionKey(options.get("owner", ""), written.session_id), written)
        else:
            self._metrics.turn_ended(written.turn)
        return written

    async def _start(
        self, session_id: str | None, message: TurnMessage, options: WriteOptions
    ) -> TurnWritten:
        match message:
            case UserMessage(content):
                return await self._turns.start_turn(session_id, messages=content, **options)
            case SwitchAgentMessage(agent, content):
                said = content or ()
                if agent not in self.registry.agents:
                    known = ", ".join(self.registry.agents)
                    raise InvalidInput("$.message.agent_type", f"Expected one of {known}")
                return await self._turns.start_turn(session_id, messages=said, agent=agent, **options)
        if session_id is None:
            raise InvalidInput("$.session_id", "must be given: the call is one of a session")
        match message:
            case ToolResultMessage():
                result, decides = _result(message), self.registry.approval.result_decides
                return await self._turns.start_turn(
                    session_id, result=result, result_decides=decides, **options
                )
            case DecisionMessage():
                await self._check_decision(session_id, message, options.get("owner", ""))
                decided = verdict(
                    message.call_id, message.decision, message.modified_arguments, message.feedback
                )
                return await self._turns.start_turn(session_id, verdict=decided, **options)

    async def _check_decision(self, session_id: str, message: DecisionMessage, owner: str) -> None:
        arguments, path = message.modified_arguments, "$.message.modified_arguments"
        if (message.decision == "edit") != (arguments is not None):
            raise InvalidInput(path, "must be given with `edit`, and only then")
        if arguments is not None:
            await self.check_edit(session_id, message.call_id, arguments, path, owner)

    async def check_edit(
        self, session_id: str, call_id: str, arguments: JsonValue, path: str, owner: str
    ) -> None:
        """Whether an approver may put these arguments in place of a model's: those that the agent could not
        have sent itself are refused. Calls that no turn made are not looked at. Raises InvalidInput."""
        approval = await self._store.find_approval(session_id, call_id, owner=owner)
        if approval is None:
            return
        agent = await self._turns.find_caller(approval, owner=owner)
        if agent not in self.registry.agents:
            return
        # What a model may say in one answer bounds its arguments, and the time to check them.
        if len(arguments.text) > MAX_CHARACTERS:
            raise InvalidInput(path, f"must have at most {MAX_CHARACTERS} characters as JSON")
        try:
            # In a thread: a schema is checked value by value.
            await asyncio.to_thread(
                check_arguments, self.registry, agent, approval.tool_name, decode_json(arguments.text)
            )
        except InvalidToolCall as refusal:
            raise InvalidInput(path, str(refusal)) from None

    def _run(self, key: SessionKey, written: TurnWritten) -> None:
        run = TurnRun(self._store, self.registry, self._model, self._metrics, key, written, self._make_id)
        task = asyncio.create_task(self._watch(run))
        self._runs[task] = run
        task.add_done_callback(self._runs.pop)
        task.add_done_callback(lambda _: self._turns.abandon(key, written.turn.turn_id))
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
                if ended := await self._turns.interrupt_lost_turns():
                    logger.warning("turns interrupted because nobody ran them any more: %d", ended)
                await self._turns.forget_old()
                self._metrics.pending_approvals.set(await self._turns.count_waiting_approvals())
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
    # Some clients send both, and null for the one that they do not mean.
    error = UNSET if message.error is None else message.error
    result = UNSET if message.result is None and error is not UNSET else message.result
    if (result is UNSET) == (error is UNSET):
        raise InvalidInput("$.message", "must have either `result` or `error`")
    if error is UNSET:
        return tool_result(message.call_id, result, tool_name=message.tool_name)
    marked = ToolOutput(f'"Error: {error.text[1:]}')
    return tool_result(message.call_id, marked, tool_name=message.tool_name, failed=True)


def make_model(settings: Settings) -> Model:
    """The model of the settings: a server's, or the built-in echo where none is named."""
    if settings.llm_proxy_url:
        return _proxied_model(settings)
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
        auth_header=settings.llm_auth_header,
        stream=settings.llm_stream,
    )


def _proxied_model(settings: Settings) -> Model:
    """A model behind the earlier service's proxy, whose streams lose tool calls and the counts of tokens."""
    return ChatCompletions(
        settings.llm_proxy_url.rstrip("/") + "/v1",
        settings.llm_api_key or settings.internal_api_key,
        settings.llm_model,
        connect_timeout=settings.llm_connect_timeout,
        timeout=max(settings.llm_timeout, PROXY_TIMEOUT),
        retries=settings.llm_retries,
        auth_header="X-Internal-Auth",
        stream=False,
        text_only=True,
        failure_prefix=PROXY_FAILURE,
    )
