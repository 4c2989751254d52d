"""Token estimates: from the bytes of a request and the answers seen so far."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.limits import Cost
from batchwright.engine.estimate import Estimator, estimate, for_batch, learn
from batchwright.engine.lane import LaneLimits
from batchwright.engine.limiter import Declared
from simulation import World, chat_lines, chat_lines_saying, embedding_lines, simulate


def test_the_first_estimate_takes_four_bytes_for_a_token() -> None:
    assert estimate(Estimator(), 4_000).input_tokens == 1_000


def test_after_some_answers_the_estimate_is_their_mean() -> None:
    estimator = Estimator()
    for _ in range(10):
        learn(estimator, 1_000, Cost(400, 20))
    assert estimate(estimator, 2_000) == Cost(800, 20)


def test_the_cap_of_the_request_itself_is_kept() -> None:
    assert estimate(Estimator(), 100, 7).output_tokens == 7


def test_embeddings_have_no_output() -> None:
    estimator = Estimator()
    for _ in range(200):
        learn(estimator, 400, Cost(100, 0))
    assert estimate(estimator, 400).output_tokens == 0


def test_a_new_batch_begins_with_the_means_of_its_model() -> None:
    of_model = Estimator()
    first = for_batch(of_model)
    for _ in range(10):
        learn(first, 1_000, Cost(400, 20))
    assert estimate(for_batch(of_model), 2_000) == Cost(800, 20)


def test_what_a_batch_sees_itself_soon_outweighs_what_others_saw() -> None:
    of_model = Estimator()
    for _ in range(1_000):
        learn(of_model, 1_000, Cost(400, 20))
    batch = for_batch(of_model)
    for _ in range(50):
        learn(batch, 1_000, Cost(400, 1_020))
    assert estimate(batch, 1_000).output_tokens > 900


def test_a_batch_that_comes_later_gets_its_share_of_the_lane_from_its_first_request_on() -> None:
    async def later() -> None:
        world = World(1, limits=LaneLimits(max_concurrency=2))
        engine = await world.boot()
        large = await world.create_batch(chat_lines(5_000))
        while (await world.get_batch(large.id)).counts.completed < 1_500:  # it has learned
            await asyncio.sleep(1)

        before = (await world.get_batch(large.id)).counts.completed
        small = await world.create_batch(chat_lines(200))
        await engine.wait(small.id)
        beside = (await world.get_batch(large.id)).counts.completed - before

        assert beside < 1.2 * 200

    simulate(later())


def large_lines(count: int) -> bytes:
    """Requests of 100 kB, as with an image: few tokens, and many by a first look."""
    return chat_lines_saying([f"{i} " + 100_000 * "x" for i in range(count)])


def test_what_waits_is_estimated_anew_when_the_first_answers_are_there() -> None:
    async def images() -> None:
        limits = LaneLimits(declared=Declared(tokens_per_minute=200_000))
        world = World(1, limits=limits)
        engine = await world.boot()
        began_at = asyncio.get_running_loop().time()
        batch = await world.create_batch(large_lines(200))
        await engine.wait(batch.id)
        assert asyncio.get_running_loop().time() - began_at < 30

    simulate(images())


def test_live_calls_and_packs_that_wait_are_estimated_anew_too() -> None:
    async def waiting() -> None:
        limits = LaneLimits(declared=Declared(tokens_per_minute=200_000))
        world = World(1, limits=limits)
        engine = await world.boot()
        route = engine.router.find("m")
        body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (100_000 * b"x")
        call = route.provider.prepare("/v1/chat/completions", body)
        began_at = asyncio.get_running_loop().time()
        await asyncio.gather(*[engine.gateway.call(route, call) for _ in range(50)])
        texts = [f"{i} " + 10_000 * "x" for i in range(500)]
        batch = await world.create_batch(embedding_lines(texts), endpoint="/v1/embeddings")
        await engine.wait(batch.id)
        assert asyncio.get_running_loop().time() - began_at < 40

    simulate(waiting())


@given(st.lists(st.tuples(st.integers(-10, 10**7), st.integers(-(10**9), 10**18), st.integers())))
def test_no_usage_makes_an_estimate_negative_or_endless(
    answers: list[tuple[int, int, int]],
) -> None:
    estimator = Estimator()
    for size_bytes, input_tokens, output_tokens in answers:
        learn(estimator, size_bytes, Cost(input_tokens, output_tokens))
    cost = estimate(estimator, 1_000)
    assert 0 <= cost.input_tokens <= 2_001
    assert 0 <= cost.output_tokens <= 10**7
