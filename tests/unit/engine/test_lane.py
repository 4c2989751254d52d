"""A lane: its limits hold, everything finishes, and nobody is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from batchwright.engine.engine import hold
from batchwright.engine.lane import (
    PROBE_EVERY_S,
    SPARE_SLOTS,
    TROUBLES_BEFORE_TRIP,
    Feed,
    Lane,
    LaneLimits,
    LiveJob,
)
from simulation import VirtualRuntime, simulate


class Work:
    """Jobs for a lane, and when each was sent."""

    def __init__(self, lane: Lane, runtime: VirtualRuntime) -> None:
        self.lane = lane
        self.runtime = runtime
        self.sent: list[tuple[float, str]] = []
        self.ended = 0

    def job(
        self,
        name: str,
        *,
        latency_s: float = 1.0,
        tokens: int = 1,
        then: Callable[[], object] = lambda: None,
    ) -> LiveJob:
        async def run() -> None:
            assert self.lane.in_flight <= self.lane.limits.max_concurrency
            self.sent.append((self.runtime.monotonic(), name))
            await asyncio.sleep(latency_s)
            self.ended += 1
            then()

        return LiveJob(run, tokens)

    def names(self) -> list[str]:
        return [name for _, name in self.sent]


def new_work(**limits: float) -> Work:
    runtime = VirtualRuntime(Random(1))
    lane = Lane("upstream", limits=LaneLimits(**limits), runtime=runtime)  # type: ignore[arg-type]
    return Work(lane, runtime)


def feed_of(lane: Lane, *jobs: LiveJob) -> Feed:
    feed = Feed(lambda: None)
    lane.attach(feed)
    feed.ready.extend(jobs)
    lane.wake()
    return feed


@pytest.mark.parametrize("seed", range(60))
def test_with_any_limits_and_latencies_everything_is_sent_within_them(seed: int) -> None:
    async def history() -> None:
        random = Random(seed)
        rate = random.choice([None, 60.0, 600.0, 6000.0])
        tokens = random.choice([None, 6_000.0, 60_000.0])
        work = new_work(
            max_concurrency=random.choice([1, 2, 5, 50]),
            **({"requests_per_minute": rate} if rate else {}),
            **({"tokens_per_minute": tokens} if tokens else {}),
        )
        lane, count = work.lane, 150
        feeds = [feed_of(lane) for _ in range(random.randint(1, 3))]

        def job(number: int) -> LiveJob:
            reserved = random.randint(1, 50)
            used = random.randint(1, 60)

            def settled() -> None:
                lane.report_success(reserved, used)
                if random.random() < 0.05:
                    lane.pause(random.random() * 5)
                lane.release_slot()

            latency_s = random.random() * random.choice([0, 0.1, 3])
            return work.job(str(number), latency_s=latency_s, tokens=reserved, then=settled)

        for number in range(count):
            random.choice(feeds).ready.append(job(number))
            if random.random() < 0.5:
                lane.wake()
            if random.random() < 0.2:
                await asyncio.sleep(random.random())
        lane.wake()
        async with asyncio.timeout(10_000):
            while work.ended < count:
                await asyncio.sleep(1)
        assert lane.in_flight == 0
        assert lane._free_slots == lane.slots
        if rate is not None:
            times = [at for at, _ in work.sent]
            burst = max(1.0, rate / 60)
            for first in range(count):
                for last in range(first, count):
                    allowed = rate / 60 * (times[last] - times[first]) + burst
                    assert last - first + 1 <= allowed + 1e-6

    simulate(history())


def test_no_more_than_max_concurrency_are_in_flight_and_that_many_are() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=3)
        feed_of(work.lane, *(work.job(str(i)) for i in range(9)))
        for second in range(3):
            await asyncio.sleep(0.5)
            assert work.lane.in_flight == 3
            assert len(work.sent) == 3 * (second + 1)
            await asyncio.sleep(0.5)

    simulate(history())


def test_slots_bound_what_is_sent_before_anything_is_durable() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=10)
        feed_of(work.lane, *(work.job(str(i), latency_s=0.01) for i in range(600)))
        await asyncio.sleep(100)
        assert len(work.sent) == 10 + SPARE_SLOTS
        for _ in range(7):
            work.lane.release_slot()
        await asyncio.sleep(1)
        assert len(work.sent) == 17 + SPARE_SLOTS

    simulate(history())


def test_a_live_call_that_is_cancelled_before_its_turn_is_not_sent() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        jobs = [work.job(f"live {i}", tokens=5) for i in range(3)]
        for job in jobs:
            work.lane.submit_live(job)
        await asyncio.sleep(0.5)
        jobs[1].cancel()
        assert (jobs[1].is_cancelled, jobs[1].tokens) == (True, 0)
        await asyncio.sleep(5)
        assert work.names() == ["live 0", "live 2"]

    simulate(history())


def test_live_calls_go_before_batch_work_and_take_no_slot() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        feed_of(work.lane, *(work.job(f"batch {i}") for i in range(3)))
        await asyncio.sleep(0.5)
        work.lane.submit_live(work.job("live 0"))
        work.lane.submit_live(work.job("live 1"))
        await asyncio.sleep(10)
        assert work.names() == ["batch 0", "live 0", "live 1", "batch 1", "batch 2"]
        assert work.lane._free_slots == work.lane.slots - 3

    simulate(history())


def test_feeds_take_turns() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        for name in "abc":
            feed_of(work.lane, *(work.job(name, latency_s=0.1) for _ in range(10)))
        await asyncio.sleep(2.05)
        counts = [work.names().count(name) for name in "abc"]
        assert max(counts) - min(counts) <= 1

    simulate(history())


@pytest.mark.parametrize("concurrency", [1, 2, 5, 10])
@pytest.mark.parametrize("feeds", [2, 3, 4])
def test_feeds_take_turns_also_where_a_rate_limit_is_what_holds_them_back(
    concurrency: int, feeds: int
) -> None:
    async def history() -> None:
        work = new_work(max_concurrency=concurrency, requests_per_minute=60.0)
        names = "abcd"[:feeds]
        for name in names:
            feed_of(work.lane, *(work.job(name, latency_s=0.4) for _ in range(100)))
        await asyncio.sleep(60)
        counts = [work.names().count(name) for name in names]
        assert sum(counts) >= 59
        assert max(counts) - min(counts) <= 2

    simulate(history())


def test_a_pause_is_obeyed_and_a_shorter_one_does_not_shorten_it() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=5)
        work.lane.pause(60)
        work.lane.pause(5)
        feed_of(work.lane, work.job("a"))
        await asyncio.sleep(59)
        assert work.sent == []
        assert "asked to wait" in str(work.lane.holds_back())
        await asyncio.sleep(2)
        assert work.names() == ["a"]

    simulate(history())


def test_a_pause_outlives_a_success_that_ends_an_outage() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=5)
        work.lane.pause(600)
        work.lane.trip("down")
        work.lane.report_success()
        feed_of(work.lane, work.job("a"))
        await asyncio.sleep(590)
        assert work.sent == []

    simulate(history())


def test_tokens_that_come_back_end_the_wait_for_them() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=2, tokens_per_minute=6_000.0)
        lane = work.lane
        big = work.job("big", tokens=6_000, then=lambda: lane.report_success(6_000, 50))
        feed_of(lane, big, work.job("next", tokens=50))
        await asyncio.sleep(3)
        assert work.names() == ["big", "next"]

    simulate(history())


def test_troubles_in_a_row_trip_the_lane_and_one_request_at_a_time_probes() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=5)
        lane = work.lane
        for number in range(TROUBLES_BEFORE_TRIP):
            assert lane.report_trouble("down") == (number == TROUBLES_BEFORE_TRIP - 1)
        assert lane.holds_back() == "down"
        fails = [lambda: lane.report_trouble("down")] * 2
        jobs = [work.job(f"probe {i}", then=fail) for i, fail in enumerate(fails)]
        passing = work.job("passing", then=lane.report_success)
        feed_of(lane, *jobs, passing, *(work.job("rest") for _ in range(5)))
        await asyncio.sleep(1_000)
        assert [name for _, name in work.sent[:3]] == ["probe 0", "probe 1", "passing"]
        times = [at for at, _ in work.sent]
        assert times[0] == pytest.approx(PROBE_EVERY_S)
        assert times[1] - times[0] >= PROBE_EVERY_S
        assert times[2] - times[1] >= PROBE_EVERY_S
        assert times[3:] == pytest.approx([times[2] + 1] * 5)
        assert lane.holds_back() is None

    simulate(history())


def test_a_success_ends_the_row_of_troubles() -> None:
    async def history() -> None:
        lane = new_work(max_concurrency=5).lane
        for _ in range(3):
            for _ in range(TROUBLES_BEFORE_TRIP - 1):
                assert not lane.report_trouble("down")
            lane.report_success()
        assert lane.tripped is None

    simulate(history())


def test_while_held_only_live_calls_are_sent() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=5)
        hold(work.lane, True)
        feed_of(work.lane, *(work.job("batch") for _ in range(3)))
        work.lane.submit_live(work.job("live"))
        await asyncio.sleep(10)
        assert work.names() == ["live"]
        hold(work.lane, False)
        await asyncio.sleep(2)
        assert work.names() == ["live", "batch", "batch", "batch"]

    simulate(history())


def test_draining_waits_for_what_is_in_flight_and_sends_nothing_more() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=2)
        feed_of(work.lane, *(work.job("batch", latency_s=5) for _ in range(6)))
        await asyncio.sleep(1)
        assert await work.lane.drain(30)
        assert (work.ended, len(work.sent)) == (2, 2)
        assert work.runtime.monotonic() == pytest.approx(5)
        assert await work.lane.drain(30)

    simulate(history())


def test_draining_gives_up_after_its_grace() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=2)
        feed_of(work.lane, work.job("hangs", latency_s=1e6))
        await asyncio.sleep(1)
        assert not await work.lane.drain(30)
        assert work.runtime.monotonic() == pytest.approx(31)

    simulate(history())


def test_a_detached_feed_is_sent_nothing_of() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        feed = feed_of(work.lane, *(work.job("batch") for _ in range(5)))
        await asyncio.sleep(0.5)
        work.lane.detach(feed)
        work.lane.detach(feed)
        await asyncio.sleep(10)
        assert work.names() == ["batch"]

    simulate(history())


def test_a_feed_that_runs_low_asks_for_more() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        asked = asyncio.Event()
        feed = Feed(asked.set)
        work.lane.attach(feed)
        feed.ready.append(work.job("a"))
        work.lane.wake()
        await asked.wait()

    simulate(history())


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_concurrency": 1}, "1 calls in flight, the most allowed"),
        ({"max_concurrency": 9, "requests_per_minute": 60.0}, "60 requests per minute"),
        ({"max_concurrency": 9, "tokens_per_minute": 120.0}, "120 tokens per minute"),
    ],
)
def test_what_holds_a_lane_back_is_said_in_words(limits: dict[str, float], words: str) -> None:
    async def history() -> None:
        work = new_work(**limits)
        feed_of(work.lane, *(work.job("batch", tokens=2) for _ in range(3)))
        await asyncio.sleep(0.1)
        assert words in str(work.lane.holds_back())

    simulate(history())
