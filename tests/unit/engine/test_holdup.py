"""What holds a batch back, and when it will have ended: asked of an engine at work."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from batchwright.domain.batch import Batch
from batchwright.domain.errors import NotSent
from batchwright.engine.fair_queue import Flow
from batchwright.engine.forecast import Forecast
from batchwright.engine.holdup import Holdup, find, outlook, share
from batchwright.engine.lane import LaneLimits
from batchwright.engine.limiter import Declared
from batchwright.providers.base import Answer, Call
from simulation import World, chat_lines, chat_lines_saying, simulate

CAPPED = LaneLimits(declared=Declared(requests_per_minute=600))


async def started(world: World, lines: int, after_s: float = 30.0) -> Batch:
    """A batch that has run for so long."""
    await world.boot()
    batch = await world.create_batch(chat_lines(lines))
    await asyncio.sleep(after_s)
    return batch


async def holdup_of(world: World, batch: Batch) -> Holdup | None:
    engine = world.engine
    assert engine is not None
    return find(
        await world.get_batch(batch.id),
        engine.supervisor(batch.id),
        unheard=engine.router.unheard,
        is_short_of_space=engine.is_short_of_space,
    )


async def outlook_of(world: World, batch: Batch) -> Forecast | None:
    engine = world.engine
    assert engine is not None
    supervisor = engine.supervisor(batch.id)
    assert supervisor is not None
    assert supervisor.current is not None
    holdup, now = await holdup_of(world, batch), world.runtime.monotonic()
    return outlook(await world.get_batch(batch.id), supervisor.current, holdup, now)


async def found(world: World, batch: Batch) -> Holdup:
    holdup = await holdup_of(world, batch)
    assert holdup is not None
    return holdup


def answers(world: World, status: int, **headers: str) -> None:
    """From now on the provider answers everything so."""

    async def send(call: Call) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        await asyncio.sleep(0.1)
        return Answer(status, names, b'{"error":{"message":"no"}}')

    world.network.send = send  # type: ignore[method-assign]


def test_a_limit_is_named_with_its_figures_and_the_end_is_foretold() -> None:
    async def limited() -> None:
        world = World(1, limits=CAPPED)
        batch = await started(world, 1000)
        holdup, forecast = await found(world, batch), await outlook_of(world, batch)

        assert (holdup.what, holdup.provider, holdup.unit) == ("cap", "upstream", "requests")
        assert (holdup.limit, holdup.span_s, holdup.share) == (600, 60, None)
        assert holdup.message == "upstream: the configured cap of 600 requests per minute"
        assert forecast is not None
        assert world.engine is not None
        asked_at = world.runtime.monotonic()
        await world.engine.wait(batch.id)
        took_s = world.runtime.monotonic() - asked_at
        assert forecast.early_s <= took_s <= forecast.late_s
        assert forecast.late_s < 1.5 * forecast.early_s
        assert await holdup_of(world, batch) is None

    simulate(limited())


async def foretold_and_taken(world: World, batch: Batch) -> tuple[Forecast, float]:
    """The forecast for a batch now, and how long it then took."""
    forecast, asked_at = await outlook_of(world, batch), world.runtime.monotonic()
    assert forecast is not None
    assert world.engine is not None
    await world.engine.wait(batch.id)
    return forecast, world.runtime.monotonic() - asked_at


def test_answers_that_were_copied_from_earlier_batches_tell_nothing_of_the_pace() -> None:
    async def copied() -> None:
        world = World(1, limits=CAPPED)
        engine = await world.boot()
        options = {"cache": {"max_age_s": 86_400}}
        known = await world.create_batch(chat_lines(3000), options=options)
        await engine.wait(known.id)
        batch = await world.create_batch(chat_lines(3600), options=options)
        await asyncio.sleep(20)
        forecast, took_s = await foretold_and_taken(world, batch)
        assert forecast.early_s <= took_s <= forecast.late_s

    simulate(copied())


def test_followers_end_with_their_leaders_and_are_no_work_to_come() -> None:
    async def deduped() -> None:
        world = World(1, limits=CAPPED)
        await world.boot()
        texts = [f"text {number}" for number in range(600)]
        data = chat_lines_saying([*texts, *texts[:300], *texts[:300]])
        batch = await world.create_batch(data, options={"dedupe": True})
        await asyncio.sleep(25)
        forecast, took_s = await foretold_and_taken(world, batch)
        assert forecast.early_s <= took_s <= forecast.late_s

    simulate(deduped())


def test_a_batch_that_would_be_late_is_raised_also_after_many_copies() -> None:
    async def late() -> None:
        world = World(1, limits=CAPPED)
        engine = await world.boot()
        options = {"cache": {"max_age_s": 86_400}}
        known = await world.create_batch(chat_lines(1000), options=options)
        await engine.wait(known.id)
        batch = await world.create_batch(chat_lines(2600), "1m", options=options)
        await world.create_batch(chat_lines(5000))  # what it is late for
        await asyncio.sleep(30)
        supervisor = engine.supervisor(batch.id)
        assert supervisor is not None
        assert supervisor._urgency is not None
        assert supervisor._urgency.weight > batch.priority.weight

    simulate(late())


def test_the_calls_in_flight_are_named_where_they_bind() -> None:
    async def crowded() -> None:
        world = World(2, limits=LaneLimits(max_concurrency=3))
        holdup = await found(world, await started(world, 1000, after_s=2.0))

        assert (holdup.what, holdup.unit, holdup.limit) == ("concurrency", "calls", 3)
        assert holdup.in_flight == 3

    simulate(crowded())


def test_batches_that_want_the_same_lane_are_named_with_the_share() -> None:
    async def shared() -> None:
        world = World(3, limits=CAPPED)
        first = await started(world, 1500, after_s=0.0)
        others = [await world.create_batch(chat_lines(1500)) for _ in range(2)]
        await asyncio.sleep(60)
        holdup = await found(world, first)

        assert (holdup.what, holdup.within, holdup.shared_with) == ("fairness", "cap", 2)
        assert holdup.share == pytest.approx(1 / 3)
        assert holdup.message.startswith("shares upstream with 2 other batches, 33 % of it; the ")
        forecast = await outlook_of(world, first)
        assert forecast is not None
        assert world.engine is not None
        for other in others:
            await world.engine.cancel_batch(other.tenant, other.id)
        asked_at = world.runtime.monotonic()
        await world.engine.wait(first.id)
        assert forecast.early_s <= world.runtime.monotonic() - asked_at < forecast.late_s

    simulate(shared())


def test_tenants_share_alike_and_their_batches_by_weight() -> None:
    def flow(tenant: str, weight: float) -> Flow[Any]:
        return Flow(tenant, lambda: None, weight)

    own = flow("a", 4)

    assert share(own, []) == 1
    assert share(own, [flow("a", 4), flow("a", 8)]) == 0.25
    assert share(own, [flow("b", 64), flow("b", 64)]) == 0.5
    assert share(own, [flow("a", 12), flow("b", 1), flow("c", 1)]) == pytest.approx(1 / 12)


def test_a_pause_is_named_first_and_foretells_nothing() -> None:
    async def paused() -> None:
        world = World(4, limits=CAPPED)
        batch = await started(world, 1000)
        assert world.engine is not None
        await world.engine.pause_batch(batch.tenant, batch.id)

        assert (await found(world, batch)).what == "paused"
        assert await outlook_of(world, batch) is None

    simulate(paused())


def test_a_stopped_credential_is_named_with_the_time_of_the_next_try() -> None:
    async def refused() -> None:
        world = World(5)
        batch = await started(world, 1000, after_s=2.0)
        answers(world, 401)
        await asyncio.sleep(5)
        holdup = await found(world, batch)

        assert (holdup.what, holdup.message) == ("credential", "upstream: key refused (HTTP 401)")
        assert 20 < (holdup.wait_s or 0) <= 30
        assert await outlook_of(world, batch) is None

    simulate(refused())


def test_an_outage_is_named_and_is_over_with_the_first_answer() -> None:
    async def down() -> None:
        world = World(6)
        batch = await started(world, 1000, after_s=2.0)
        usual = world.network.send

        async def send(call: Call) -> Answer:
            raise NotSent("connection refused")

        world.network.send = send  # type: ignore[method-assign]
        await asyncio.sleep(60)
        assert (await found(world, batch)).what == "outage"
        assert await outlook_of(world, batch) is None
        world.network.send = usual  # type: ignore[method-assign]
        assert world.engine is not None
        await world.engine.wait(batch.id)
        assert world.engine.router.lanes[0].tripped_by is None

    simulate(down())


def test_a_wait_that_the_provider_asks_for_is_in_the_forecast() -> None:
    async def told() -> None:
        world = World(7)
        batch = await started(world, 5000, after_s=10.0)
        answers(world, 429, retry_after="200")
        await asyncio.sleep(5)
        holdup, forecast = await found(world, batch), await outlook_of(world, batch)

        assert holdup.what == "wait"
        assert 190 < (holdup.wait_s or 0) <= 200
        assert forecast is not None
        assert forecast.early_s > (holdup.wait_s or 0)

    simulate(told())


def test_an_allowance_that_is_used_up_binds_as_long_as_it_lasts() -> None:
    async def used_up() -> None:
        world = World(8, limits=LaneLimits(declared=Declared(requests_per_day=100)))
        batch = await started(world, 250, after_s=600.0)
        holdup, forecast = await found(world, batch), await outlook_of(world, batch)

        assert (holdup.what, holdup.limit, holdup.span_s) == ("cap", 100, 86_400)
        assert (holdup.wait_s or 0) > 600
        assert forecast is not None
        # A hundred were sent at the start, a hundred follow a day later, the rest after two days.
        assert forecast.early_s <= 2 * 86_400 - 600 <= forecast.late_s

    simulate(used_up())


def test_a_full_disk_is_named() -> None:
    async def full() -> None:
        world = World(9, limits=CAPPED)
        batch = await started(world, 1000)
        world.blobs.capacity_bytes = world.used_bytes()
        await asyncio.sleep(60)

        assert (await found(world, batch)).what == "disk"

    simulate(full())


def test_a_batch_whose_provider_has_not_told_its_models_says_so() -> None:
    async def unheard() -> None:
        world = World(10)
        engine = await world.boot()
        (account,) = engine.router._accounts.values()
        engine.router._accounts["upstream"] = replace(account, models=())
        engine.router.learn("upstream", ())
        engine.router.unheard.append("upstream")

        async def list_models() -> list[str]:
            raise NotSent("refused")

        account.provider.list_models = list_models  # type: ignore[method-assign]
        batch = await world.create_batch(chat_lines(5))
        await asyncio.sleep(5)
        holdup = await found(world, batch)

        assert (holdup.what, holdup.provider) == ("models", "upstream")
        assert holdup.message == "waiting for upstream to say which models it serves"
        assert await outlook_of(world, batch) is None

    simulate(unheard())


@pytest.mark.parametrize(
    ("options", "earlier", "step"),
    [
        ({"dedupe": True}, 0, "looking for requests that are the same: {} of 40 requests read"),
        ({"order": "prefix"}, 0, "putting prompts that begin alike together: {} of 40"),
        ({"cache": {"max_age_s": 86_400}}, 60, "looking for answers of earlier batches: {} of 100"),
    ],
)
def test_what_is_read_before_the_first_request_is_named_with_how_far_it_is(
    options: dict[str, Any], earlier: int, step: str
) -> None:
    async def preparing() -> None:
        world = World(11)
        engine = await world.boot()
        if earlier:
            known = await world.create_batch(chat_lines(earlier), options=options)
            await engine.wait(known.id)
        seen, sent = list[Holdup | None](), len(world.network.ledger)
        offload = engine.blobs.offload

        async def watched(function: Any) -> Any:
            found = await offload(function)
            if len(world.network.ledger) == sent and engine.supervisor(batch.id) is not None:
                seen.append(await holdup_of(world, batch))
            return found

        engine.blobs.offload = watched  # type: ignore[method-assign]
        batch = await world.create_batch(chat_lines(40), options=options)
        await engine.wait(batch.id)

        named = [holdup for holdup in seen if holdup is not None]
        assert {holdup.what for holdup in named} == {"preparing"}
        assert named[0].message.startswith(step.format(0))
        assert named[-1].message.startswith(step.format(40 + earlier))
        assert not named[0].stands_still

    simulate(preparing())
