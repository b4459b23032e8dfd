"""`plan` against the model where turns are most of what is asked, in one session above all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from runtime.store.write import commands
from runtime.store.write.commands import Command
from tests.support.generated_turns import CALLING, advance_turn, interrupt_turn, start_turn, stop_turn
from tests.support.interleavings import (
    Step,
    create_approval,
    decide_approval,
    draw_step,
    lists_of,
    switch_agent,
)
from tests.support.memory_tables import Tables
from tests.support.random_values import CALL_IDS, EXISTING, MISSING, Chance
from tests.unit.test_plan import Run, expected_changes, forget_old, found, in_order, outcomes, state, told

pytestmark = pytest.mark.usefixtures("uncounted")

EXAMPLES = settings().max_examples

ASKED: tuple[Callable[[Chance], Command], ...] = (
    *(start_turn,) * 7,
    *(advance_turn,) * 7,
    *(decide_approval,) * 2,
    stop_turn,
    interrupt_turn,
    create_approval,
    lambda chance: commands.DeleteApproval(chance.key, chance.of(CALL_IDS)),
    lambda chance: commands.AppendMessages(chance.key, (*chance.messages(), chance.of(CALLING))),
    lambda chance: commands.ReplaceMessages(chance.key, chance.messages()),
    lambda chance: commands.TruncateMessages(chance.key, chance.number(9)),
    switch_agent,
    lambda _: commands.DeleteSession(MISSING, hard=True),
    forget_old,
)


def draw(chance: Chance) -> Step:
    chance.key = chance.of((*(EXISTING,) * 9, MISSING))
    step = draw_step(chance, chance.of(ASKED)(chance))
    # Keys and versions are for other tests: here they would only be in the way.
    return step._replace(key=None, expects="nothing", kept=chance.of((0, 1, 2, 2, 2, 3, 3, 3, 4)))


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    tables = Tables()
    yield tables
    tables.close()


@pytest.mark.slow
@given(lists_of(draw, min_size=8, max_size=30))
@settings(
    max_examples=7 * EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_w3_turns_of_a_batch_are_what_they_would_be_one_by_one(tables: Tables, steps: list[Step]) -> None:
    with tables.undone():
        run = Run(tables)
        for batch in run.batches(steps):
            planned = run.store(batch)
            assert outcomes(planned) == run.expected
            assert found(tables) == state(run.model)
            assert in_order(told(planned.changes)) == in_order(expected_changes(run).values())
