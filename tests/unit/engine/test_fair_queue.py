"""The fair queue: shares, bounds, and who is never left out. There is no clock: only turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.fair_queue import FLOW_LOW, FairQueue, Flow

SIZES = st.integers(0, 5_000)
WEIGHTS = st.sampled_from([0.25, 1.0, 3.0, 4.0, 16.0, 64.0])


@dataclass(frozen=True, slots=True)
class Job:
    of: str
    tokens: int = 10
    number: int = 0


def flow_in(
    queue: FairQueue[Job], tenant: str = "t", weight: float = 1.0, jobs: tuple[Job, ...] = ()
) -> Flow[Job]:
    flow: Flow[Job] = Flow(tenant, lambda: None, weight)
    queue.attach(flow)
    for job in jobs:
        queue.put(flow, job)
    return flow


def jobs_of(name: str, count: int, tokens: int = 10) -> tuple[Job, ...]:
    return tuple(Job(name, tokens, number) for number in range(count))


def taken(queue: FairQueue[Job], turns: int) -> list[Job]:
    return [queue.take() for _ in range(turns)]


def names(queue: FairQueue[Job], turns: int) -> str:
    return "".join(job.of for job in taken(queue, turns))


# Order


def test_an_empty_queue_offers_nothing() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue)

    assert not queue
    assert queue.peek() is None
    with pytest.raises(IndexError):
        queue.take()


def test_the_jobs_of_one_flow_come_in_order_and_those_tried_again_first() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow = flow_in(queue, jobs=jobs_of("a", 3))
    first = queue.take()

    queue.put_front(flow, first)

    assert [job.number for job in taken(queue, 3)] == [0, 1, 2]
    assert not queue


def test_the_first_third_of_the_flow_that_is_next_can_be_put_behind_its_others() -> None:
    queue: FairQueue[Job] = FairQueue()
    queue.skip_third()
    flow_in(queue, jobs=jobs_of("a", 6))

    queue.skip_third()

    assert [job.number for job in taken(queue, 6)] == [2, 3, 4, 5, 0, 1]


def test_what_is_seen_is_what_is_taken() -> None:
    queue: FairQueue[Job] = FairQueue()
    for name, tenant in (("a", "x"), ("b", "x"), ("c", "y")):
        flow_in(queue, tenant, jobs=jobs_of(name, 20))

    for _ in range(60):
        seen = queue.peek()
        assert queue.take() is seen


def test_a_batch_of_a_hundred_behind_one_of_a_million_is_served_at_once_and_in_turn() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, jobs=jobs_of("L", 600))
    taken(queue, 300)

    flow_in(queue, jobs=jobs_of("s", 100))
    order = names(queue, 200)

    assert order.startswith(("Ls", "sL"))
    assert order.count("s") == 100
    assert "LL" not in order
    assert set(names(queue, 6)) == {"L"}


def test_a_flow_that_runs_low_asks_for_more() -> None:
    queue: FairQueue[Job] = FairQueue()
    asked: list[int] = []
    flow: Flow[Job] = Flow("t", lambda: asked.append(len(flow.ready)))
    queue.attach(flow)
    for job in jobs_of("a", FLOW_LOW + 2):
        queue.put(flow, job)

    taken(queue, FLOW_LOW + 2)

    assert asked == list(range(FLOW_LOW, -1, -1))


# Shares


@given(
    weights=st.tuples(WEIGHTS, WEIGHTS),
    sizes=st.tuples(*[st.lists(SIZES, min_size=1, max_size=20)] * 2),
    head_start=st.integers(0, 30),
)
def test_two_backlogged_flows_differ_by_at_most_a_job_of_each(
    weights: tuple[float, float], sizes: tuple[list[int], list[int]], head_start: int
) -> None:
    """SFQ's bound (theorem 1 of the paper), from any moment on while both have jobs."""
    queue: FairQueue[Job] = FairQueue()
    flows = [
        flow_in(queue, weight=weight, jobs=tuple(Job(name, size) for size in some * 10))
        for name, weight, some in zip("a", weights[:1], sizes[:1], strict=True)
    ]
    taken(queue, min(head_start, len(flows[0].ready) - 1))
    flows.append(
        flow_in(queue, weight=weights[1], jobs=tuple(Job("b", size) for size in sizes[1] * 10))
    )
    per_job = [max(1, *some) / weight for some, weight in zip(sizes, weights, strict=True)]

    ahead = [0.0]  # service of a less that of b, each over its weight
    while all(flow.ready for flow in flows):
        job = queue.take()
        at, sign = ("a", 1) if job.of == "a" else ("b", -1)
        ahead.append(ahead[-1] + sign * max(job.tokens, 1) / weights["ab".index(at)])

    assert max(ahead) - min(ahead) <= sum(per_job) * (1 + 1e-9) + 1e-6


def test_weights_are_shares() -> None:
    queue: FairQueue[Job] = FairQueue()
    for name, weight in (("l", 1.0), ("n", 4.0), ("h", 16.0)):
        flow_in(queue, weight=weight, jobs=jobs_of(name, 2_000))

    served = Counter(names(queue, 2_100))

    assert {name: round(count / 100) for name, count in served.items()} == {"l": 1, "n": 4, "h": 16}


def test_a_new_weight_counts_from_the_next_job_on() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, jobs=jobs_of("a", 1_000))
    raised = flow_in(queue, jobs=jobs_of("b", 1_000))
    before = Counter(names(queue, 100))

    queue.set_weight(raised, 4.0)
    after = Counter(names(queue, 500))

    assert before == {"a": 50, "b": 50}
    assert abs(after["b"] - 400) <= 4


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_would_starve_a_flow_is_refused(weight: float) -> None:
    queue: FairQueue[Job] = FairQueue()
    flow = flow_in(queue)

    with pytest.raises(ValueError, match="above zero"):
        queue.set_weight(flow, weight)
    with pytest.raises(ValueError, match="above zero"):
        Flow("t", lambda: None, weight)


def test_tokens_are_what_is_shared() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, jobs=jobs_of("a", 1_000, tokens=30))
    flow_in(queue, jobs=jobs_of("b", 1_000, tokens=10))

    assert Counter(names(queue, 400)) == {"a": 100, "b": 300}


@given(batches=st.lists(st.integers(1, 8), min_size=2, max_size=5), weight=WEIGHTS)
def test_tenants_share_alike_however_many_batches_each_has(
    batches: list[int], weight: float
) -> None:
    queue: FairQueue[Job] = FairQueue()
    for at, count in enumerate(batches):
        for _ in range(count):  # the first tenant calls all of its own urgent
            flow_in(queue, f"t{at}", weight if at == 0 else 1.0, jobs_of(str(at), 50 * 5))

    served = Counter(names(queue, 50 * len(batches)))

    assert max(served.values()) - min(served.values()) <= 1


# Past those that may not go


def only(*those: str) -> Callable[[Job], bool]:
    return lambda job: job.of in those


def test_the_next_that_may_go_is_taken_and_nothing_where_none_may() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, "t", jobs=jobs_of("a", 10))
    flow_in(queue, "u", jobs=jobs_of("b", 10))
    assert queue.take_first(only()) is None
    assert queue.take_first(only("b")) == Job("b")
    assert queue.take_first(only("a", "b")) == Job("a")


def test_those_passed_over_keep_their_shares_among_themselves() -> None:
    queue: FairQueue[Job] = FairQueue()
    for tenant in ("t", "u"):
        flow_in(queue, tenant, 1.0, jobs_of("a", 400))
        flow_in(queue, tenant, 4.0, jobs_of("d", 400))
        flow_in(queue, tenant, 1.0, jobs_of("x", 2_000))
    got: Counter[str] = Counter()
    for turn in range(1_000):  # every tenth time, the slow ones may go
        job = queue.take_first(only("a", "d") if turn % 10 == 0 else only("x"))
        assert job is not None
        got[job.of] += 1
    assert abs(got["a"] - 20) <= 2
    assert got["x"] == 900


def test_one_that_could_not_go_for_long_has_no_credit_afterwards() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, jobs=jobs_of("a", 500))
    flow_in(queue, jobs=jobs_of("x", 1_000))
    flow_in(queue, "other", jobs=jobs_of("y", 1_000))
    for _ in range(600):
        assert queue.take_first(only("x", "y"))
    then = Counter(names(queue, 200))
    assert abs(then["a"] - 50) <= 2
    assert abs(then["y"] - 100) <= 2


# Work-conserving, no credit, no starvation


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """(what, which flow, how many tokens or turns)."""
    acts = st.sampled_from(
        ["put", "put", "put", "front", "take", "take", "past", "hold", "release", "new"]
    )
    return draw(st.lists(st.tuples(acts, st.integers(0, 5), st.integers(0, 300)), max_size=150))


def is_even(job: Job) -> bool:
    return int(job.of) % 2 == 0


@given(history=histories())
def test_whatever_happens_every_job_is_offered_once_and_none_of_a_held_flow(
    history: list[tuple[str, int, int]],
) -> None:
    queue: FairQueue[Job] = FairQueue()
    flows = [flow_in(queue, f"t{at % 2}", 1.0 + at) for at in range(6)]
    waiting: Counter[int] = Counter()
    for what, at, amount in history:
        flow = flows[at]
        if what == "put":
            queue.put(flow, Job(str(at), amount))
            waiting[at] += 1
        elif what == "front":
            queue.put_front(flow, Job(str(at), amount))
            waiting[at] += 1
        elif what in ("hold", "release"):
            queue.set_held(flow, what == "hold")
        elif what == "new":
            queue.detach(flow)
            waiting[at] = 0
            flows[at] = flow_in(queue, f"t{amount % 3}", 1.0 + amount)
        else:
            takeable = {number for number in range(6) if not flows[number].is_held}
            is_expected = any(waiting[number] for number in takeable)
            assert bool(queue) == (queue.peek() is not None) == is_expected
            if is_expected:
                job = queue.take() if what == "take" else queue.take_first(is_even)
                assert job is not None or not any(waiting[n] for n in takeable if n % 2 == 0)
                if job is not None:
                    assert int(job.of) in takeable
                    assert what == "take" or is_even(job)
                    waiting[int(job.of)] -= 1

    for flow in flows:
        queue.set_held(flow, False)
    assert Counter(int(job.of) for job in taken(queue, waiting.total())) == +waiting
    assert not queue


def test_a_flow_that_had_nothing_ready_gains_no_credit() -> None:
    queue: FairQueue[Job] = FairQueue()
    idle = flow_in(queue, jobs=jobs_of("i", 1))
    flow_in(queue, jobs=jobs_of("a", 500))
    taken(queue, 201)

    for job in jobs_of("i", 100):
        queue.put(idle, job)

    assert abs(names(queue, 100).count("i") - 50) <= 1


def test_a_lone_flow_owes_nothing_for_what_nobody_else_wanted() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, jobs=jobs_of("a", 500))
    taken(queue, 400)

    flow_in(queue, jobs=jobs_of("b", 100))

    assert names(queue, 100).count("a") == 50


def test_debts_end_when_nobody_waits() -> None:
    queue: FairQueue[Job] = FairQueue()
    heavy = flow_in(queue, jobs=jobs_of("h", 2, tokens=100_000))
    light = flow_in(queue, jobs=jobs_of("l", 2))
    taken(queue, 4)

    for flow, name in ((light, "l"), (heavy, "h")):
        for job in jobs_of(name, 20):
            queue.put(flow, job)

    assert names(queue, 20).count("h") == 10


@given(sizes=st.lists(SIZES, min_size=1, max_size=8), weight=WEIGHTS)
def test_no_flow_waits_longer_than_the_shares_of_the_others(
    sizes: list[int], weight: float
) -> None:
    """From one job of a flow to its next, nobody else gets more than its share and a job."""
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, weight=1.0, jobs=jobs_of("x", 5, tokens=100))
    for at, size in enumerate(sizes):
        flow_in(queue, weight=weight, jobs=jobs_of(str(at), 4_000, size))

    between: Counter[str] = Counter()
    served = 0
    while served < 3:
        job = queue.take()
        if job.of == "x":
            served += 1
            between.clear()
            continue
        between[job.of] += max(job.tokens, 1)
        largest = max(sizes[int(job.of)], 1)
        assert between[job.of] <= weight * 100 + 2 * largest


@pytest.mark.parametrize("open_at_once", [1, 3, 40])
def test_an_endless_row_of_new_batches_of_one_request_holds_nobody_up(open_at_once: int) -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, jobs=jobs_of("a", 100))
    small: dict[int, Flow[Job]] = {}

    def add(number: int) -> None:
        small[number] = flow_in(queue, jobs=(Job("s", 10, number),))

    for number in range(open_at_once):
        add(number)
    served = 0
    for number in range(open_at_once, 40 * (open_at_once + 1)):
        job = queue.take()
        if job.of == "a":
            served += 1
            continue
        queue.detach(small.pop(job.number))
        add(number)

    assert served >= 15


def test_a_tenant_that_leaves_and_comes_back_still_owes() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow_in(queue, "steady", jobs=jobs_of("a", 100))
    order = ""
    for _ in range(50):
        flow = flow_in(queue, "fleeting", jobs=jobs_of("f", 1))
        order += names(queue, 2)
        queue.detach(flow)

    assert order.count("a") >= 45


# Attached, held, gone


def test_nothing_is_taken_from_a_held_flow_and_everything_once_it_goes_on() -> None:
    queue: FairQueue[Job] = FairQueue()
    held = flow_in(queue, jobs=jobs_of("h", 2))
    flow_in(queue, jobs=jobs_of("a", 3))
    queue.set_held(held, True)
    queue.set_held(held, True)
    queue.put(held, Job("h"))
    queue.put_front(held, Job("h"))

    assert names(queue, 3) == "aaa"
    assert not queue
    queue.set_held(held, False)
    queue.set_held(held, False)
    assert names(queue, 4) == "hhhh"


def test_a_flow_held_before_it_is_attached_stays_so() -> None:
    queue: FairQueue[Job] = FairQueue()
    flow: Flow[Job] = Flow("t", lambda: None)
    queue.set_held(flow, True)
    queue.attach(flow)
    queue.put(flow, Job("a"))

    assert not queue


def test_a_detached_flow_offers_nothing_and_may_be_detached_again() -> None:
    queue: FairQueue[Job] = FairQueue()
    gone = flow_in(queue, jobs=jobs_of("g", 5))
    flow_in(queue, jobs=jobs_of("a", 2))

    queue.detach(gone)
    queue.detach(gone)
    queue.put(gone, Job("g"))

    assert names(queue, 2) == "aa"
    assert not queue


def test_tenants_that_have_gone_are_forgotten() -> None:
    queue: FairQueue[Job] = FairQueue()
    for number in range(50):
        flow = flow_in(queue, f"t{number}", jobs=jobs_of("a", 1))
        assert [job.of for job in islice(taken(queue, 1), 1)] == ["a"]
        queue.detach(flow)

    assert len(queue._tenants) == 1
