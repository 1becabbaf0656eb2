"""How fast and how dear calls may be: places and rates that give way to 429, back-off between tries, the budget."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lite_huatuo.errors import APIError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BURST = 5.0  # seconds of unused rate that may be caught up at once
LEAST_SHARE = 1 / 64  # of the limits that are left after many 429s


@dataclass(frozen=True)
class Retries:
    """How often a call is tried, and how long to wait in between (seconds): full jitter under a doubling ceiling."""

    tries: int = 8
    first: float = 1.0
    longest: float = 60.0

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after so many failures; the draw touches no seeded generator."""
        return random.SystemRandom().uniform(0.0, min(self.longest, self.first * 2.0 ** (failures - 1)))


class Limits:
    """At most `concurrency` calls at one time, at most so many requests and tokens a minute.

    After a 429 all calls wait as long as the endpoint asks and go on at half the pace; every success gives a little of
    the pace back. `clock` and `sleep` are seconds, replaced in tests.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.concurrency, self.share, self.running = concurrency, 1.0, 0
        self._rates = [rate / 60 for rate in (requests_per_minute, tokens_per_minute) if rate is not None]
        self._costs = [rate is not None for rate in (requests_per_minute, tokens_per_minute)]
        self._free = [clock() - BURST for _ in self._rates]  # when the next unit of each rate is free
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = 0.0
        self._clock, self._sleep = clock, sleep

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Hold one of the places while a call of at most `tokens` tokens runs; entering waits for place and rate."""
        await self._take_place()
        try:
            await self._wait_for_rate(tokens)
            yield
        finally:
            self.running -= 1
            self._wake()

    def refused(self, retry_after: float | None) -> None:
        """Tell that the endpoint answered 429: all wait for `retry_after` seconds, then go at half the pace.

        The 429s of calls that were already under way when the pace was halved count once.
        """
        now = self._clock()
        if now >= self._paused_until:
            self.share = max(LEAST_SHARE, self.share / 2)
        self._paused_until = max(self._paused_until, now + (1.0 if retry_after is None else retry_after))

    def answered(self) -> None:
        """Tell that a call was answered: the full pace is back after some ten rounds of calls."""
        if self.share < 1.0:
            self.share = min(1.0, self.share + 0.1 / self.concurrency)
            self._wake()

    async def _take_place(self) -> None:
        """Wait, first come first served, until fewer calls run than may."""
        if self.running < self._places() and not self._waiting:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place was given just then: pass it on
                self.running -= 1
                self._wake()
            raise

    def _wake(self) -> None:
        """Give free places to those who wait."""
        while self._waiting and self.running < self._places():
            turn = self._waiting.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _places(self) -> int:
        return max(1, int(self.concurrency * self.share))

    async def _wait_for_rate(self, tokens: int) -> None:
        """Book one request and its tokens on the rates, and wait until it is due and no pause holds."""
        now, due = self._clock(), 0.0
        costs = [cost for cost, limited in zip((1, tokens), self._costs, strict=True) if limited]
        for index, (rate, cost) in enumerate(zip(self._rates, costs, strict=True)):
            start = max(self._free[index], now - BURST)
            self._free[index] = start + cost / (rate * self.share)
            due = max(due, start)
        while (wait := max(due, self._paused_until) - self._clock()) > 0:
            await self._sleep(wait)


class Budget:
    """Dollars spent and reserved, over all teachers of one store. A call reserves its worst case before it is sent."""

    def __init__(self, spent: float = 0.0) -> None:
        self.spent, self.reserved, self._calls = spent, 0.0, 0
        self._settled: asyncio.Event | None = None

    async def reserve(self, worst: float, limit: float | None) -> None:
        """Set `worst` dollars aside under `limit`. Waits while calls under way may still turn out cheaper; APIError
        where the money is gone."""
        while limit is not None and self.spent + self.reserved + worst > limit:
            if self._calls == 0:
                raise APIError(
                    f"the budget of ${limit:.2f} is spent (${self.spent:.4f} so far, the next call may cost "
                    f"${worst:.4f}); every reply is kept: run the same command with a larger budget to go on"
                )
            self._settled = self._settled or asyncio.Event()
            await self._settled.wait()
        self._set_aside(worst)

    def take_over(self, worst: float) -> None:
        """Reserve what an earlier run left counted as spent: a call it sent whose answer can still be fetched."""
        self.spent -= worst
        self._set_aside(worst)

    def settle(self, worst: float, spent: float) -> None:
        """Turn a reservation into what was spent."""
        self._calls -= 1
        self.reserved = self.reserved - worst if self._calls else 0.0  # no rounding is left over
        self.spent += spent
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    def _set_aside(self, worst: float) -> None:
        self.reserved += worst
        self._calls += 1
