"""Limits on a clock of their own: places, rates, 429, back-off and the budget."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_huatuo.data.limits import BURST, Budget, Limits, Retries
from lite_huatuo.errors import APIError


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def starts(calls: int, tokens: int, **rates: Any) -> list[float]:
    """Return when each of so many calls, one after another, is let through."""
    clock = Clock()
    limits = Limits(1, clock=clock, sleep=clock.sleep, **rates)

    async def run() -> list[float]:
        result = []
        for _ in range(calls):
            async with limits.slot(tokens):
                result.append(clock.now - 1000.0)
        return result

    return asyncio.run(run())


@pytest.mark.parametrize("rates", [{"requests_per_minute": 60}, {"tokens_per_minute": 6000}])
def test_no_more_than_the_rate_but_for_one_burst(rates: dict[str, int]) -> None:
    times = starts(200, 100, **rates)  # both rates let one call a second through
    assert times[-1] >= 200 - BURST - 1
    for start in times:
        within = [time for time in times if start <= time < start + 60]
        assert len(within) <= 60 + BURST + 1


def test_the_tighter_rate_holds() -> None:
    assert starts(100, 100, requests_per_minute=6000, tokens_per_minute=6000)[-1] >= 100 - BURST - 1
    assert starts(100, 1, requests_per_minute=60, tokens_per_minute=6_000_000)[-1] >= 100 - BURST - 1
    assert starts(100, 10**6)[-1] == 0.0  # no rate, no wait


def test_places_are_given_in_order_and_given_back() -> None:
    async def run() -> None:
        limits, order, most = Limits(3), [], 0

        async def one(number: int) -> None:
            nonlocal most
            async with limits.slot(1):
                order.append(number)
                most = max(most, limits.running)
                await asyncio.sleep(0)
                if number % 5 == 0:
                    raise ValueError

        await asyncio.gather(*(one(number) for number in range(50)), return_exceptions=True)
        assert (order, most, limits.running) == (list(range(50)), 3, 0)

    asyncio.run(run())


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), max_size=10), st.integers(1, 4))
def test_cancelling_loses_no_place(cancelled: list[int], places: int) -> None:
    async def run() -> None:
        limits = Limits(places)

        async def one() -> None:
            async with limits.slot(1):
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(one()) for _ in range(30)]
        for number in cancelled:
            await asyncio.sleep(0)
            tasks[number % 30].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert limits.running == 0

    asyncio.run(run())


def test_after_a_429_all_wait_and_go_on_at_half_the_pace_which_comes_back_slowly() -> None:
    clock = Clock()
    limits = Limits(8, requests_per_minute=60, clock=clock, sleep=clock.sleep)

    async def enter() -> float:
        async with limits.slot(1):
            return clock.now - 1000.0

    async def run() -> None:
        assert await enter() == 0.0
        for _ in range(8):  # those under way together count once
            limits.refused(20.0)
        assert limits.share == 0.5
        assert await enter() == 20.0
        limits.refused(None)
        assert limits.share == 0.25
        for _ in range(30):
            clock.now += 10.0
            limits.refused(1.0)
        assert limits.share == 1 / 64
        answers = 0
        while limits.share < 1.0:
            limits.answered()
            answers += 1
        assert 8 * 9 < answers < 8 * 11

    asyncio.run(run())


def test_half_the_pace_means_half_the_places_and_at_least_one() -> None:
    async def run() -> int:
        limits, most = Limits(8, clock=lambda: clock.now, sleep=clock.sleep), 0
        limits.refused(0.0)

        async def one() -> None:
            nonlocal most
            async with limits.slot(1):
                most = max(most, limits.running)
                await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(30)))
        return most

    clock = Clock()
    assert asyncio.run(run()) == 4


def test_back_off_doubles_up_to_its_ceiling_and_touches_no_seeded_generator() -> None:
    retries = Retries(first=1.0, longest=10.0)
    random.seed(1)
    expected = random.Random(1).random()
    for failures, ceiling in [(1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (1000, 10.0)]:
        waits = [retries.wait(failures) for _ in range(200)]
        assert 0.0 <= min(waits) < ceiling / 2 < max(waits) <= ceiling
    assert random.random() == expected


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0.001, 2.0), st.floats(0.0, 1.0)), max_size=40), st.floats(0.0, 10.0))
def test_the_budget_is_never_passed_whatever_calls_turn_out_to_cost(
    calls: list[tuple[float, float]], limit: float
) -> None:
    async def run() -> None:
        budget = Budget()

        async def one(worst: float, share: float) -> None:
            await budget.reserve(worst, limit)
            await asyncio.sleep(0)
            budget.settle(worst, worst * share)
            assert budget.spent <= limit + 1e-9

        done = await asyncio.wait_for(asyncio.gather(*(one(*call) for call in calls), return_exceptions=True), 10)
        assert {type(result) for result in done} <= {type(None), APIError}
        for (worst, _), result in zip(calls, done, strict=True):
            if isinstance(result, APIError):
                assert budget.spent + worst > limit - 1e-9  # nothing was refused that still fitted
        assert budget.reserved == pytest.approx(0.0, abs=1e-9)

    asyncio.run(run())


def test_what_an_earlier_run_left_counts() -> None:
    async def run() -> None:
        budget = Budget(spent=5.0)
        await budget.reserve(100.0, None)
        budget.settle(100.0, 0.0)
        with pytest.raises(APIError, match=r"the budget of \$5\.00 is spent .* larger budget to go on"):
            await budget.reserve(0.01, 5.0)
        budget.take_over(2.0)
        assert (budget.spent, budget.reserved) == (3.0, 2.0)

    asyncio.run(run())
