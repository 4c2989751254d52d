"""Keys: looked up by id, compared whole, remembered under their full digest for a short time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from starlette.datastructures import Headers

from batchwright.domain.key import CONFIGURED_ID, Key, digest_of, lookup_id, make_token
from batchwright.server.auth import ADDRESSES_MAX, REMEMBERED_S, Authenticator, Buckets
from batchwright.server.errors import TooManyRequests, Unauthorized

PEPPER = b"p"
TOKEN = make_token(bytes(range(40)))
CHOSEN = "an operator's own long password!"


class Keys:
    """The part of a store that knows keys; counts look-ups."""

    def __init__(self, *keys: Key) -> None:
        self.keys = {key.id: key for key in keys}
        self.looked_up = 0

    async def find_key(self, key_id: str) -> Key | None:
        self.looked_up += 1
        return self.keys.get(key_id)


def key_of(token: str) -> Key:
    return Key(lookup_id(token), "t", "user", "", digest_of(PEPPER, token), 0.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def authenticator(store: Keys, clock: Clock, failures_per_minute: int = 10) -> Authenticator:
    kept: Any = store
    return Authenticator(
        store=kept, pepper=PEPPER, monotonic=clock, failures_per_minute=failures_per_minute
    )


def bearer(token: str) -> Headers:
    return Headers({"authorization": f"Bearer {token}"})


async def test_a_key_is_remembered_for_seconds_and_forgotten_on_demand() -> None:
    store, clock = Keys(key_of(TOKEN)), Clock()
    auth = authenticator(store, clock)

    for _ in range(3):
        assert (await auth.authenticate(bearer(TOKEN), "a")).tenant == "t"
    assert store.looked_up == 1
    clock.now = REMEMBERED_S
    await auth.authenticate(bearer(TOKEN), "a")
    assert store.looked_up == 2

    store.keys[lookup_id(TOKEN)] = replace(key_of(TOKEN), revoked_at=1.0)
    auth.forget()
    with pytest.raises(Unauthorized):
        await auth.authenticate(bearer(TOKEN), "a")


async def test_a_key_that_was_looked_up_before_it_was_revoked_is_not_remembered() -> None:
    class SlowKeys(Keys):
        async def find_key(self, key_id: str) -> Key | None:
            found = await super().find_key(key_id)
            reading.set()
            await answering.wait()
            return found

    reading, answering = asyncio.Event(), asyncio.Event()
    store = SlowKeys(key_of(TOKEN))
    auth = authenticator(store, Clock())
    early = asyncio.create_task(auth.authenticate(bearer(TOKEN), "a"))
    await reading.wait()

    store.keys[lookup_id(TOKEN)] = replace(key_of(TOKEN), revoked_at=1.0)
    auth.forget()
    answering.set()
    await early

    with pytest.raises(Unauthorized):
        await auth.authenticate(bearer(TOKEN), "a")


async def test_a_key_that_the_operator_chose_holds() -> None:
    auth = authenticator(Keys(key_of(CHOSEN)), Clock())

    caller = await auth.authenticate(Headers({"api-key": CHOSEN}), "a")

    assert caller.key_id == CONFIGURED_ID


async def test_short_and_endless_texts_are_never_looked_up() -> None:
    store = Keys()
    auth = authenticator(store, Clock())

    for token in ("", "short", "x" * 513):
        with pytest.raises(Unauthorized):
            await auth.authenticate(bearer(token), "a")

    assert store.looked_up == 0


async def test_an_address_that_fails_too_often_waits_and_others_do_not() -> None:
    clock = Clock()
    auth = authenticator(Keys(), clock, failures_per_minute=2)

    for _ in range(2):
        with pytest.raises(Unauthorized):
            await auth.authenticate(bearer("x"), "a")
    with pytest.raises(TooManyRequests) as refused:
        await auth.authenticate(bearer("x"), "a")
    assert refused.value.retry_after_s == pytest.approx(30)
    with pytest.raises(Unauthorized):
        await auth.authenticate(bearer("x"), "b")
    clock.now = 30.0
    with pytest.raises(Unauthorized):
        await auth.authenticate(bearer("x"), "a")


async def test_a_limited_address_tests_no_more_keys_but_a_good_one_goes_on_working() -> None:
    other = make_token(bytes(range(1, 41)))
    store, clock = Keys(key_of(TOKEN), key_of(other)), Clock()
    auth = authenticator(store, clock, failures_per_minute=1)
    await auth.authenticate(bearer(TOKEN), "a")
    with pytest.raises(Unauthorized):
        await auth.authenticate(bearer(TOKEN[:-1] + "-"), "a")
    looked_up = store.looked_up

    with pytest.raises(TooManyRequests):
        await auth.authenticate(bearer(other), "a")  # though it would hold
    assert store.looked_up == looked_up
    assert (await auth.authenticate(bearer(other), "b")).tenant == "t"
    clock.now = REMEMBERED_S
    assert (await auth.authenticate(bearer(TOKEN), "a")).tenant == "t"
    auth.forget()
    assert (await auth.authenticate(bearer(TOKEN), "a")).tenant == "t"

    store.keys.clear()
    auth.forget()
    for _ in range(2):
        with pytest.raises(TooManyRequests):
            await auth.authenticate(bearer(TOKEN), "a")
    assert store.looked_up == looked_up + 4  # once for "b", thrice for the good key


def test_the_number_of_names_with_a_bucket_is_bounded() -> None:
    buckets = Buckets(1.0, 1.0, Clock())
    buckets.take("first")

    for at in range(ADDRESSES_MAX):
        buckets.take(str(at))

    assert buckets.take("first") == 0


async def test_behind_a_proxy_one_client_locks_no_other_out() -> None:
    kept: Any = Keys(key_of(TOKEN))
    auth = Authenticator(
        store=kept,
        pepper=PEPPER,
        monotonic=Clock(),
        failures_per_minute=1,
        address_is_client=False,
    )
    with pytest.raises(Unauthorized):
        await auth.authenticate(bearer("x"), "proxy")
    with pytest.raises(TooManyRequests):
        await auth.authenticate(bearer("x"), "proxy")

    assert (await auth.authenticate(bearer(TOKEN), "proxy")).tenant == "t"
