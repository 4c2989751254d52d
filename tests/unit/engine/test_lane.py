"""A lane: its limits hold, everything finishes, and nobody is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest
import uvloop

from batchwright.domain.limits import DAY_S, MINUTE_S, Cost, LimitSeen
from batchwright.engine import limiter as limits_of
from batchwright.engine.engine import hold
from batchwright.engine.fair_queue import Flow
from batchwright.engine.lane import (
    PROBE_EVERY_S,
    SPARE_SLOTS,
    TROUBLES_BEFORE_TRIP,
    Job,
    Lane,
    LaneLimits,
    LiveJob,
)
from batchwright.engine.limiter import Declared
from batchwright.engine.live_room import REMEMBERED_S
from batchwright.engine.meter import SLOTS_PER_SPAN
from batchwright.engine.retry import Decision, decide
from batchwright.engine.runtime import Runtime
from batchwright.providers.base import Answer
from batchwright.system import SystemRuntime
from simulation import VirtualRuntime, simulate


class Work:
    """Jobs for a lane, and when each was sent."""

    def __init__(self, lane: Lane, runtime: Runtime) -> None:
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
        model: str = "",
        then: Callable[[LiveJob], object] = lambda job: None,
    ) -> LiveJob:
        async def run() -> None:
            assert self.lane.in_flight <= self.lane.limits.max_concurrency
            self.sent.append((self.runtime.monotonic(), name))
            await asyncio.sleep(latency_s)
            self.ended += 1
            then(job)

        job = LiveJob(run, lambda: Cost(tokens, 0, model))
        return job

    def names(self) -> list[str]:
        return [name for _, name in self.sent]

    def sent_at(self, wanted: str) -> float:
        return next(at for at, name in self.sent if name == wanted)


def new_work(**limits: float) -> Work:
    runtime = VirtualRuntime(Random(1))
    ceiling = int(limits.pop("max_concurrency"))
    lane_limits = LaneLimits(ceiling, Declared(**limits))
    return Work(Lane("upstream", limits=lane_limits, runtime=runtime), runtime)


def flow_of(lane: Lane, *jobs: LiveJob, tenant: str = "default") -> Flow[Job]:
    flow: Flow[Job] = Flow(tenant, lambda: None)
    lane.attach(flow)
    for job in jobs:
        lane.put(flow, job)
    return flow


def failed(lane: Lane, job: LiveJob, status: int, **headers: str) -> None:
    """The provider answered a call with an error."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    lane.note_failure(job, decision_of(Answer(status, names, b"")), (), f"HTTP {status}")


def decision_of(answer: Answer) -> Decision:
    return decide(answer, attempt=1, max_attempts=5, random=lambda: 0.5, now_s=0.0)


def answered(lane: Lane, job: LiveJob, tokens: int = 1) -> None:
    lane.note_answer(job, (), Cost(tokens, 0))


def is_held_back(lane: Lane) -> bool:
    """Whether anything forbids to send the next job now."""
    job, allowed = lane._queue.peek(), lane.allowed_in_flight
    if job is None or lane.in_flight >= allowed or lane._slots_taken >= allowed + SPARE_SLOTS:
        return True
    return limits_of.delay_s(lane._limiter, job.cost, lane._runtime.monotonic()) > 0


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
        flows = [flow_of(lane) for _ in range(random.randint(1, 3))]

        def job(number: int) -> LiveJob:
            reserved = random.randint(1, 50)
            used = random.randint(1, 60)

            def settled(job: LiveJob) -> None:
                if random.random() < 0.05:
                    failed(lane, job, 503, retry_after=f"{random.random() * 5 + 0.1}")
                else:
                    answered(lane, job, used)
                lane.release_slots(1)

            latency_s = random.random() * random.choice([0, 0.1, 3])
            return work.job(str(number), latency_s=latency_s, tokens=reserved, then=settled)

        for number in range(count):
            lane.put(random.choice(flows), job(number))
            if random.random() < 0.2:
                await asyncio.sleep(random.random())
        async with asyncio.timeout(10_000):
            while work.ended < count:
                await asyncio.sleep(1)
                assert is_held_back(lane) or lane._queue.peek() is None, (
                    "it could send and does not"
                )
        assert lane.in_flight == 0
        assert lane._slots_taken == 0
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
        flow_of(work.lane, *(work.job(str(i)) for i in range(9)))
        for second in range(3):
            await asyncio.sleep(0.5)
            assert work.lane.in_flight == 3
            assert len(work.sent) == 3 * (second + 1)
            await asyncio.sleep(0.5)

    simulate(history())


def test_slots_bound_what_is_sent_before_anything_is_durable() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=10)
        flow_of(work.lane, *(work.job(str(i), latency_s=0.01) for i in range(600)))
        await asyncio.sleep(100)
        assert len(work.sent) == 10 + SPARE_SLOTS
        for _ in range(7):
            work.lane.release_slots(1)
        await asyncio.sleep(1)
        assert len(work.sent) == 17 + SPARE_SLOTS

    simulate(history())


def test_a_live_call_that_is_dropped_before_its_turn_is_not_sent() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        jobs = [work.job(f"live {i}", tokens=5) for i in range(3)]
        for job in jobs:
            work.lane.submit_live(job)
        await asyncio.sleep(0.5)
        work.lane.drop_live(jobs[1])
        await asyncio.sleep(5)
        assert work.names() == ["live 0", "live 2"]

    simulate(history())


def test_what_waits_behind_a_live_call_goes_on_as_soon_as_its_client_has_left() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1, tokens_per_day=100)
        lane = work.lane
        flow_of(lane, work.job("first", tokens=60))
        slot_s = DAY_S / SLOTS_PER_SPAN
        slot_ends_s = slot_s - work.runtime.monotonic() % slot_s
        await asyncio.sleep(slot_ends_s + DAY_S - 20)
        live = work.job("live", tokens=100)  # more than is left of the day for 20 s
        lane.submit_live(live)
        flow_of(lane, work.job("second"))
        await asyncio.sleep(10)
        assert work.names() == ["first"]
        lane.drop_live(live)
        await asyncio.sleep(2)
        assert work.names() == ["first", "second"]

    simulate(history())


def test_live_calls_whose_clients_have_left_do_not_pile_up_behind_a_long_one() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        work.lane.submit_live(work.job("long", latency_s=600))
        await asyncio.sleep(1)
        for _ in range(10_000):
            left = work.job("left")
            work.lane.submit_live(left)
            work.lane.drop_live(left)
        assert not work.lane._live

    simulate(history())


def test_live_calls_go_before_batch_work_and_take_no_slot() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        flow_of(work.lane, *(work.job(f"batch {i}") for i in range(3)))
        await asyncio.sleep(0.5)
        work.lane.submit_live(work.job("live 0"))
        work.lane.submit_live(work.job("live 1"))
        await asyncio.sleep(10)
        assert work.names() == ["batch 0", "live 0", "live 1", "batch 1", "batch 2"]
        assert work.lane._slots_taken == 3

    simulate(history())


def test_a_live_call_finds_a_place_where_batch_work_could_take_all() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=4)
        flow_of(work.lane, *(work.job("batch") for _ in range(100)))
        await asyncio.sleep(0.5)
        waits = []
        for number in range(6):
            work.lane.submit_live(work.job(f"live {number}", latency_s=0.5))
            asked_at = work.runtime.monotonic()
            await asyncio.sleep(2.3)
            waits.append(work.sent_at(f"live {number}") - asked_at)
        assert waits[0] > 0  # nobody had called before
        assert waits[1:] == [0.0] * 5

    simulate(history())


def test_no_place_is_kept_for_live_calls_whose_clients_have_left() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=8)
        jobs = [work.job("batch", then=lambda _: work.lane.release_slots(1)) for _ in range(100)]
        flow_of(work.lane, *jobs)
        await asyncio.sleep(0.5)
        for _ in range(4):
            left = work.job("live")
            work.lane.submit_live(left)
            work.lane.drop_live(left)
        await asyncio.sleep(5)
        assert work.lane.in_flight == 7

    simulate(history())


def test_long_after_the_last_live_call_batch_work_takes_every_place() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=4)
        jobs = [work.job("batch", then=lambda _: work.lane.release_slots(1)) for _ in range(1_000)]
        flow_of(work.lane, *jobs)
        work.lane.submit_live(work.job("live"))
        await asyncio.sleep(20.5)
        beside = work.lane.in_flight
        await asyncio.sleep(2 * REMEMBERED_S)
        assert (beside, work.lane.in_flight) == (3, 4)

    simulate(history())


def test_batches_take_turns() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        for name in "abc":
            flow_of(work.lane, *(work.job(name, latency_s=0.1) for _ in range(10)))
        await asyncio.sleep(2.05)
        counts = [work.names().count(name) for name in "abc"]
        assert max(counts) - min(counts) <= 1

    simulate(history())


@pytest.mark.parametrize("concurrency", [1, 2, 5, 10])
@pytest.mark.parametrize("batches", [2, 3, 4])
def test_batches_take_turns_also_where_a_rate_limit_is_what_holds_them_back(
    concurrency: int, batches: int
) -> None:
    async def history() -> None:
        work = new_work(max_concurrency=concurrency, requests_per_minute=60.0)
        names = "abcd"[:batches]
        for name in names:
            flow_of(work.lane, *(work.job(name, latency_s=0.4) for _ in range(100)))
        await asyncio.sleep(60)
        counts = [work.names().count(name) for name in names]
        assert sum(counts) >= 59
        assert max(counts) - min(counts) <= 2

    simulate(history())


def test_a_wait_that_the_provider_asks_for_is_obeyed_and_a_shorter_one_does_not_shorten_it() -> (
    None
):
    async def history() -> None:
        work = new_work(max_concurrency=5)
        lane = work.lane
        first = [
            work.job("first", then=lambda job: failed(lane, job, 503, retry_after="60")),
            work.job("second", then=lambda job: failed(lane, job, 503, retry_after="5")),
        ]
        flow = flow_of(lane, *first)
        await asyncio.sleep(2)
        lane.put(flow, work.job("a"))
        await asyncio.sleep(57)
        assert work.names() == ["first", "second"]
        assert "asked to wait" in str(lane.holds_back())
        await asyncio.sleep(3)
        assert work.names() == ["first", "second", "a"]

    simulate(history())


def test_what_was_reserved_and_not_used_is_given_to_others() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=2, tokens_per_minute=6_000.0)
        big = work.job("big", tokens=6_000, then=lambda job: answered(work.lane, job, 50))
        flow_of(work.lane, big, work.job("next", tokens=50))
        await asyncio.sleep(5)
        assert work.names() == ["big", "next"]

    simulate(history())


def test_a_refusal_that_says_nothing_slows_the_lane_and_is_no_outage() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=50)
        lane = work.lane
        jobs = [
            work.job(str(i), then=lambda job: failed(lane, job, 429))
            for i in range(2 * TROUBLES_BEFORE_TRIP)
        ]
        flow = flow_of(lane, *jobs)
        await asyncio.sleep(1.5)
        for _ in range(100):
            lane.put(flow, work.job("after", then=lambda job: answered(lane, job)))
        await asyncio.sleep(1)
        assert lane.tripped is None
        assert work.names().count("after") < 100

    simulate(history())


def test_troubles_in_a_row_trip_the_lane_and_one_request_at_a_time_probes() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=TROUBLES_BEFORE_TRIP)
        lane = work.lane
        troubles = [
            work.job("trouble", then=lambda job: failed(lane, job, 502))
            for _ in range(TROUBLES_BEFORE_TRIP)
        ]
        flow = flow_of(lane, *troubles)
        await asyncio.sleep(1.5)
        assert lane.holds_back() == "upstream does not answer: HTTP 502"
        for name in ("probe 0", "probe 1"):
            lane.put(flow, work.job(name, then=lambda job: failed(lane, job, 502)))
        lane.put(flow, work.job("passing", then=lambda job: answered(lane, job)))
        for _ in range(5):
            lane.put(flow, work.job("rest"))
        await asyncio.sleep(1_000)
        sent = work.sent[TROUBLES_BEFORE_TRIP:]
        assert [name for _, name in sent[:3]] == ["probe 0", "probe 1", "passing"]
        times = [at for at, _ in sent]
        assert times[0] == pytest.approx(1 + PROBE_EVERY_S)
        assert times[1] - times[0] >= PROBE_EVERY_S
        assert times[2] - times[1] >= PROBE_EVERY_S
        assert times[3] == pytest.approx(times[2] + 1)
        assert lane.tripped is None

    simulate(history())


def test_an_answer_ends_the_row_of_troubles() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        lane = work.lane
        flow = flow_of(lane)
        for _ in range(3):
            for _ in range(TROUBLES_BEFORE_TRIP - 1):
                lane.put(flow, work.job("trouble", then=lambda job: failed(lane, job, 502)))
            lane.put(flow, work.job("good", then=lambda job: answered(lane, job)))
        await asyncio.sleep(1_000)
        assert (lane.tripped, work.ended) == (None, 3 * TROUBLES_BEFORE_TRIP)

    simulate(history())


def test_where_nothing_is_known_fifty_are_in_flight_and_more_once_that_goes_well() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=400)
        lane = work.lane

        def done(job: LiveJob) -> None:
            answered(lane, job)
            lane.release_slots(1)

        flow_of(lane, *(work.job(str(i), then=done) for i in range(5_000)))
        await asyncio.sleep(0.5)
        assert lane.in_flight == 50
        await asyncio.sleep(8)
        assert lane.in_flight == 400

    simulate(history())


def test_while_held_only_live_calls_are_sent() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=5)
        hold(work.lane, True)
        flow_of(work.lane, *(work.job("batch") for _ in range(3)))
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
        flow_of(work.lane, *(work.job("batch", latency_s=5) for _ in range(6)))
        await asyncio.sleep(1)
        assert await work.lane.drain(30)
        assert (work.ended, len(work.sent)) == (2, 2)
        assert work.runtime.monotonic() == pytest.approx(5)
        assert await work.lane.drain(30)

    simulate(history())


def test_draining_gives_up_after_its_grace() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=2)
        flow_of(work.lane, work.job("hangs", latency_s=1e6))
        await asyncio.sleep(1)
        assert not await work.lane.drain(30)
        assert work.runtime.monotonic() == pytest.approx(31)

    simulate(history())


def test_a_detached_batch_is_sent_nothing_of() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        flow = flow_of(work.lane, *(work.job("batch") for _ in range(5)))
        await asyncio.sleep(0.5)
        work.lane.detach(flow)
        work.lane.detach(flow)
        await asyncio.sleep(10)
        assert work.names() == ["batch"]

    simulate(history())


def test_a_batch_that_runs_low_asks_for_more() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        asked = asyncio.Event()
        flow: Flow[Job] = Flow("default", asked.set)
        work.lane.attach(flow)
        work.lane.put(flow, work.job("a"))
        await asked.wait()

    simulate(history())


def test_a_paused_batch_is_sent_nothing_of_until_it_goes_on() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        flow = flow_of(work.lane, *(work.job("paused") for _ in range(2)))
        await asyncio.sleep(0.5)
        work.lane.set_paused(flow, True)
        await asyncio.sleep(10)
        assert work.names() == ["paused"]  # the one that was in flight
        work.lane.set_paused(flow, False)
        await asyncio.sleep(10)
        assert work.names() == ["paused", "paused"]

    simulate(history())


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_concurrency": 1}, "1 calls in flight, the most that is configured"),
        ({"max_concurrency": 9, "requests_per_minute": 60.0}, "60 requests per minute"),
        ({"max_concurrency": 9, "tokens_per_minute": 120.0}, "120 tokens per minute"),
    ],
)
def test_what_holds_a_lane_back_is_said_in_words(limits: dict[str, float], words: str) -> None:
    async def history() -> None:
        work = new_work(**limits)
        flow_of(work.lane, *(work.job("batch", tokens=2) for _ in range(3)))
        await asyncio.sleep(0.1)
        assert words in str(work.lane.holds_back())

    simulate(history())


def test_a_wait_of_a_fraction_of_a_millisecond_is_waited_for_on_the_real_loop() -> None:
    async def history() -> None:
        runtime = SystemRuntime()
        limits = LaneLimits(10, Declared(requests_per_minute=180_000.0))
        work = Work(Lane("upstream", limits=limits, runtime=runtime), runtime)
        ended = asyncio.Event()
        bugs: list[BaseException] = []
        work.lane.on_bug = bugs.append

        def done(job: LiveJob) -> None:
            answered(work.lane, job)
            work.lane.release_slots(1)
            if work.ended == 3_000:
                ended.set()

        flow_of(work.lane, *(work.job("quick", latency_s=2e-4, then=done) for _ in range(3_000)))
        async with asyncio.timeout(30):
            await ended.wait()
        assert bugs == []

    uvloop.run(history())


def test_a_batch_that_goes_takes_its_wait_along() -> None:
    async def history() -> None:
        runtime = VirtualRuntime(Random(1))
        limits = LaneLimits(5, Declared(tokens_per_day=1_000.0))
        work = Work(Lane("upstream", limits=limits, runtime=runtime), runtime)
        flow_of(work.lane, work.job("used", tokens=900))
        await asyncio.sleep(2)
        large = flow_of(work.lane, work.job("large", tokens=900))
        small = flow_of(work.lane)
        await asyncio.sleep(1)
        work.lane.put(small, work.job("small", tokens=10))
        work.lane.detach(large)
        await asyncio.sleep(2)
        assert work.names() == ["used", "small"]

    simulate(history())


def test_a_wait_that_comes_with_an_error_of_the_server_is_obeyed() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=1)
        lane = work.lane
        told = work.job("told", then=lambda job: failed(lane, job, 500, retry_after="30"))
        flow_of(lane, told, work.job("after"))
        await asyncio.sleep(29)
        assert work.names() == ["told"]
        await asyncio.sleep(3)
        assert work.names() == ["told", "after"]

    simulate(history())


def refused(lane: Lane, job: LiveJob) -> None:
    failed(lane, job, 429, retry_after="10")


def untold(lane: Lane, job: LiveJob) -> None:
    """The call is given up, as those of a batch that was cancelled."""


@pytest.mark.parametrize(("ends", "times"), [(refused, 20), (untold, 50)])
def test_calls_of_a_round_that_tell_nothing_do_not_freeze_the_concurrency(
    ends: Callable[[Lane, LiveJob], None], times: int
) -> None:
    async def history() -> None:
        work = new_work(max_concurrency=400)
        lane = work.lane
        count = 0

        def done(job: LiveJob) -> None:
            nonlocal count
            count += 1
            (ends if count <= times else answered)(lane, job)
            lane.release_slots(1)

        flow_of(lane, *(work.job(str(i), latency_s=2.0, then=done) for i in range(20_000)))
        await asyncio.sleep(200)
        assert lane.allowed_in_flight == 400

    simulate(history())


@pytest.mark.parametrize(
    ("status", "gives_back"), [(400, True), (401, True), (429, True), (503, True), (504, False)]
)
def test_a_call_that_failed_gives_its_tokens_back_unless_it_may_be_paid(
    status: int, gives_back: bool
) -> None:
    async def history() -> None:
        work = new_work(max_concurrency=5, tokens_per_minute=6_000.0)
        lane = work.lane
        large = work.job("large", tokens=3_000, then=lambda job: failed(lane, job, status))
        lane.submit_live(large)
        await asyncio.sleep(1.5)
        assert work.ended == 1
        owed_s = limits_of.delay_s(lane._limiter, Cost(1, 0), work.runtime.monotonic())
        assert (owed_s < 2) == gives_back

    simulate(history())


def test_batches_of_models_with_limits_of_their_own_each_go_at_theirs() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=500)
        limits = {"small": 6_000.0, "large": 60_000.0}

        def job(model: str) -> LiveJob:
            def told(job: LiveJob) -> None:
                seen = LimitSeen("tokens", MINUTE_S, limits[model], 100.0, None)
                work.lane.note_answer(job, (seen,), Cost(10, 0))
                work.lane.release_slots(1)

            return work.job(model, tokens=10, model=model, then=told)

        flows = {}
        for model in limits:
            flows[model] = flow_of(work.lane, *[job(model) for _ in range(20_000)])
        await asyncio.sleep(130)
        for model, flow in flows.items():  # and each is told of its own, if it waits at all
            binding = work.lane.binding(flow)
            assert binding is None or f" for {model}" in binding.message
        binding = work.lane.binding(flows["small"])
        assert binding is not None
        assert binding.limit == 6_000
        for model, limit in limits.items():
            calls = sum(name == model for at, name in work.sent if 10 <= at < 130)
            assert 0.9 * limit <= calls * 10 / 2 <= 1.01 * limit

    simulate(history())


def test_a_batch_whose_model_is_at_no_limit_begins_while_another_waits_for_its_own() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=500)

        def told(limit: float) -> Callable[[LiveJob], None]:
            seen = LimitSeen("tokens", MINUTE_S, limit, 1.0, None)
            return lambda job: work.lane.note_answer(job, (seen,), None)

        first = [
            work.job("small", tokens=6_000, model="small", then=told(6_000)),
            work.job("large", model="large", then=told(60_000)),
        ]
        flow_of(work.lane, *first)
        await asyncio.sleep(2)
        flow_of(work.lane, *[work.job("waits", tokens=6_000, model="small") for _ in range(5)])
        await asyncio.sleep(2)
        flow_of(work.lane, work.job("goes", tokens=10, model="large"))
        await asyncio.sleep(2)
        assert "goes" in work.names()
        assert work.names().count("waits") < 5

    simulate(history())


def test_a_live_call_at_the_limit_of_its_model_holds_up_nothing_of_other_models() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=500)
        lane = work.lane

        def told(limit: float) -> Callable[[LiveJob], None]:
            seen = LimitSeen("tokens", MINUTE_S, limit, 1.0, None)
            return lambda job: lane.note_answer(job, (seen,), None)

        first = [
            work.job("small", tokens=6_000, model="small", then=told(6_000)),
            work.job("large", model="large", then=told(60_000)),
        ]
        flow_of(lane, *first)
        await asyncio.sleep(2)
        lane.submit_live(work.job("uses up", tokens=2_000, model="small"))
        await asyncio.sleep(62)
        began_at = work.runtime.monotonic()
        for name in ("live, first", "live, second"):
            lane.submit_live(work.job(name, tokens=1_000, model="small"))
        flow_of(lane, work.job("batch, same", model="small"), tenant="a")
        flow_of(lane, work.job("batch, other", model="large"), tenant="b")
        lane.submit_live(work.job("live, other", model="large"))
        await asyncio.sleep(1)
        passed = work.names()[3:]
        assert sorted(passed) == ["batch, other", "live, first", "live, other"]
        await asyncio.sleep(60)
        assert work.names()[6:] == ["live, second", "batch, same"]
        assert work.sent_at("live, second") > began_at + 5

    simulate(history())


def test_a_large_live_call_at_a_cap_of_all_models_is_not_passed_by_small_ones() -> None:
    async def history() -> None:
        work = new_work(max_concurrency=500, tokens_per_minute=600_000.0)
        lane = work.lane

        def done(job: LiveJob) -> None:
            day = LimitSeen("requests", DAY_S, 1e6, 9e5, 3_000.0)
            lane.note_answer(job, (day,), job.cost)
            lane.release_slots(1)

        small = [work.job("small", tokens=50, model="b", then=done) for _ in range(20_000)]
        flow_of(lane, *small)
        await asyncio.sleep(10)
        assert lane._limiter.tells_models_apart
        began_at = work.runtime.monotonic()
        lane.submit_live(work.job("large", tokens=2_400, model="a", then=done))
        await asyncio.sleep(5)
        assert work.sent_at("large") < began_at + 1

    simulate(history())
