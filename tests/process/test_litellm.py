"""The client asks a server of somebody else's making: the LiteLLM proxy, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime.agents.chat_completions import ChatCompletions
from runtime.agents.model import Answer, Question, ToolCall
from runtime.errors import ModelRefused, ModelUnavailable
from tests.support.model_server import calls, model_server, status
from tests.support.server_process import ServerProcess

VERSION = "1.106.2"
CONFIG = Path(__file__).with_name("litellm.yaml")
KEY = "sk-the-right-key"
INSTALLING = 900.0

# It is to reach nothing but loopback: whatever would phone home meets a proxy that is not there.
ALONE = (
    *("env", "-u", "PYTHONPATH", "LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_TELEMETRY=False"),
    *("http_proxy=http://127.0.0.1:9", "https_proxy=http://127.0.0.1:9", "no_proxy=127.0.0.1"),
)
RUN = ("-c", "from litellm import run_server; run_server()", "--host", "127.0.0.1", "--port", "0")


@pytest.fixture(scope="session")
def litellm_python(pytestconfig: pytest.Config) -> Path:
    """An interpreter that has the proxy: the one that is named, or one made once a checkout."""
    if named := os.environ.get("AGENT_RUNTIME_TEST_LITELLM"):
        return Path(named)
    assert pytestconfig.cache, (
        "name an interpreter in AGENT_RUNTIME_TEST_LITELLM, or let pytest have its cache"
    )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = pytestconfig.cache.mkdir("litellm") / f"{VERSION}-python{version}"
    if not made.exists():
        make_environment(made)
    return made / "bin" / "python"


def make_environment(made: Path) -> None:
    """Make it beside its place and move it there: half an environment never stands in it."""
    unfinished = Path(tempfile.mkdtemp(dir=made.parent))
    try:
        venv.create(unfinished, with_pip=True)
        # Most of what is installed is never imported, and compiling it would take longer than all else.
        pip = (unfinished / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile")
        subprocess.run((*pip, f"litellm[proxy]=={VERSION}"), check=True, timeout=INSTALLING)
        unfinished.rename(made)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@pytest.fixture(scope="session")
def proxy_url(litellm_python: Path) -> Iterator[str]:
    """The URL of the running proxy."""
    command = (*ALONE, str(litellm_python), *RUN, "--config", str(CONFIG))
    with ServerProcess({}, command=command) as proxy:
        yield proxy.wait_for(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")[1]
        proxy.stop()


@asynccontextmanager
async def client(url: str, key: str = KEY) -> AsyncIterator[ChatCompletions]:
    """A client of the proxy that tries once."""
    model = ChatCompletions(url, key, "mocked", connect_timeout=10, timeout=60, retries=0)
    try:
        yield model
    finally:
        await model.close()


async def ask(url: str, model: str = "", key: str = KEY, **parameters: str) -> tuple[Answer, list[str]]:
    """The answer, and the pieces that it came in."""
    said: list[str] = []
    question = Question([{"role": "user", "content": "hello"}], [], model, parameters)
    async with client(url, key) as asked:
        return await asked.ask(question, said.append), said


async def test_its_mocked_answer_is_streamed(proxy_url: str) -> None:
    answer, said = await ask(proxy_url)
    assert answer.text == "".join(said) == "The answer is mocked, grün and 😀."
    assert len(said) > 5
    assert answer.finish_reason == "stop"
    assert min(answer.input_tokens, answer.output_tokens) > 0


async def test_calls_that_it_passes_on_come_whole(proxy_url: str) -> None:
    wanted = (ToolCall("a", "read_file", '{"path": "grün.md"}'), ToolCall("b", "list_files", '{"path": "."}'))
    async with model_server([calls(*wanted, before=["I look."])]) as behind:
        answer, _ = await ask(proxy_url, "passed-on", api_base=behind.url)
    assert answer == Answer("I look.", wanted, "tool_calls", 12, 5)


async def test_a_wrong_key_is_refused(proxy_url: str) -> None:
    with pytest.raises(ModelRefused, match=r"answered 40[013]") as caught:
        await ask(proxy_url, key="sk-the-wrong-key")
    assert "sk-the-wrong-key" not in str(caught.value)


async def test_an_unknown_model_is_refused_with_its_words(proxy_url: str) -> None:
    with pytest.raises(ModelRefused, match=r"400 Bad Request: .*Invalid model name passed in model=unknown"):
        await ask(proxy_url, "unknown")


async def test_its_rate_limit_is_told_with_its_words(proxy_url: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"429 Too Many Requests: .*this is a mock rate limit error"):
        await ask(proxy_url, "limited")


async def test_a_refusal_that_it_passes_on_is_told(proxy_url: str) -> None:
    async with model_server(lambda _: status(503, "all hands are busy")) as behind:
        with pytest.raises(ModelUnavailable, match=r"answered 503 .*all hands are busy"):
            await ask(proxy_url, "passed-on", api_base=behind.url)
