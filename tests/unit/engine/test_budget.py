"""What one batch may hold in memory."""

from __future__ import annotations

import asyncio

from batchwright.engine.budget import Budget
from batchwright.providers.base import LARGE_ANSWER_BYTES

LARGE = 4 * LARGE_ANSWER_BYTES


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def asking(budget: Budget, size_bytes: int) -> asyncio.Task[None]:
    return asyncio.create_task(budget.reserve(size_bytes))


async def test_large_answers_wait_until_those_before_them_are_durable() -> None:
    budget = Budget(2 * LARGE)
    first, second, third = (asking(budget, LARGE) for _ in range(3))
    await turn()
    assert (first.done(), second.done(), third.done()) == (True, True, False)

    budget.give_back(LARGE)  # received …
    budget.keep(LARGE)  # … and held until it is durable
    await turn()
    assert not third.done()

    budget.drop([10], [LARGE])
    await turn()
    assert third.done()
    assert budget.held_bytes == 2 * LARGE - 10


async def test_one_large_answer_goes_on_whatever_else_is_held() -> None:
    budget = Budget(10)
    budget.held_bytes = 1_000
    first, second = asking(budget, LARGE), asking(budget, LARGE)
    await turn()
    assert (first.done(), second.done()) == (True, False)
    budget.give_back(LARGE)
    await turn()
    assert second.done()


async def test_who_waits_no_more_holds_nothing() -> None:
    budget = Budget(LARGE)
    first, second, third = (asking(budget, LARGE) for _ in range(3))
    await turn()
    second.cancel()
    budget.give_back(LARGE)
    await turn()
    third.cancel()
    await turn()
    assert first.done()
    assert third.done()
    budget.give_back(LARGE)
    assert budget.held_bytes == 0


async def test_an_open_budget_lets_everybody_pass() -> None:
    budget = Budget(LARGE)
    all_asking = [asking(budget, LARGE) for _ in range(5)]
    await turn()
    budget.open()
    await turn()
    assert all(task.done() for task in all_asking)
