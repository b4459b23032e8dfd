"""The echo model says that it is one, and repeats what was said last."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.agents.echo import INTRODUCTION, EchoModel
from runtime.agents.model import Answer, Question

Json = Any


async def ask(*messages: Json) -> tuple[Answer, list[str], list[float]]:
    """The answer, its pieces, and the pauses before them."""
    said: list[str] = []
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    model = EchoModel(sleep=sleep)
    answer = await model.ask(Question(list(messages), [{"type": "function"}]), said.append)
    await model.close()
    return answer, said, pauses


async def test_it_says_what_it_is_and_which_setting_names_a_model() -> None:
    answer, _, _ = await ask({"role": "user", "content": "hello"})
    assert answer == Answer(f"{INTRODUCTION} You said: hello")
    assert "built-in echo model" in INTRODUCTION
    assert "AGENT_RUNTIME__LLM_URL" in INTRODUCTION


async def test_it_speaks_word_by_word_with_a_pause_before_each() -> None:
    answer, said, pauses = await ask({"role": "user", "content": " two\n\nlines  here "})
    assert "".join(said) == answer.text == f"{INTRODUCTION} You said:  two\n\nlines  here "
    assert said[-2:] == ["lines  ", "here "]
    assert pauses == [0.03] * len(said)


@pytest.mark.parametrize(
    ("content", "echo"),
    [
        (
            [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}],
            "You said: a b",
        ),
        ("x" * 3000, "You said: " + "x" * 2000),
        ("", "You said nothing yet."),
        (None, "You said nothing yet."),
        (["odd", 7, {"text": 7}], "You said nothing yet."),
    ],
)
async def test_any_content_can_be_repeated(content: Json, echo: str) -> None:
    answer, _, _ = await ask({"role": "user", "content": content})
    assert answer.text == f"{INTRODUCTION} {echo}"


async def test_the_last_user_message_counts() -> None:
    answer, _, _ = await ask(
        {"role": "user", "content": "first"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "answer"},
    )
    assert answer.text.endswith("You said: second")


async def test_without_any_message_it_says_so() -> None:
    assert (await ask())[0].text == f"{INTRODUCTION} You said nothing yet."


async def test_results_of_tools_at_the_end_are_repeated() -> None:
    answer, _, _ = await ask(
        {"role": "user", "content": "read"},
        {"role": "tool", "content": "old"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "first"},
        {"role": "tool", "content": [{"type": "text", "text": "second"}]},
    )
    assert answer.text == f"{INTRODUCTION} The tools answered: first; second"
    assert answer.calls == ()
