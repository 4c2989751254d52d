from __future__ import annotations

import json
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.answers import BadAnswer
from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotSent
from batchwright.domain.limits import Cost
from batchwright.domain.request import Request
from batchwright.engine.estimate import Estimator
from batchwright.engine.lane import Lane
from batchwright.engine.packer import LENGTHS_MAX, Pack, Packer, PackLimits, Step, halves, next_step
from batchwright.engine.packing import EMBEDDINGS_URL
from batchwright.engine.pending import Pending
from batchwright.engine.retry import decide
from batchwright.engine.routing import Route
from batchwright.providers.base import Answer, Provider


async def no_call(_job: Any) -> None:
    raise AssertionError("nothing is sent here")


def route_to(name: str) -> Route:
    # Of a lane nothing but its identity matters here, of a provider its name.
    provider, lane = cast("Provider", SimpleNamespace(name=name)), cast("Lane", name)
    return Route(provider, "m", lane, None)


ROUTE = route_to("upstream")


def pending_of(line: int, value: Any = "text", *, route: Route = ROUTE, **rest: Any) -> Pending:
    body = json.dumps({"model": "m", "input": value, **rest}).encode()
    request = Request(line, f"r{line}", EMBEDDINGS_URL, body, "m")
    return Pending(request, route, Estimator(), Cost(7, 1), no_call)


def packer_of(**limits: int) -> Packer:
    return Packer(PackLimits(**limits), no_call)


def packs_of(packer: Packer, *requests: Pending) -> list[Pack]:
    jobs = [packer.add(pending) for pending in requests]
    return [job for job in jobs if isinstance(job, Pack)]


def lines_of(pack: Pack) -> list[int]:
    return [pending.request.line for pending in pack.requests]


def answer_to(pack: Pack, item_bytes: int = 10) -> bytes:
    items = [{"index": i, "embedding": "x" * item_bytes} for i in range(pack.inputs)]
    usage = {"prompt_tokens": pack.inputs}
    return json.dumps({"data": items, "usage": usage}).encode()


def succeed(packer: Packer, pack: Pack, item_bytes: int = 10) -> None:
    packer.note_success(pack, len(answer_to(pack, item_bytes)))


# --- together


def test_requests_with_the_same_key_share_a_pack_until_it_is_full() -> None:
    packer = packer_of(inputs_max=2)
    packs = packs_of(packer, *(pending_of(line) for line in range(1, 6)))
    assert [lines_of(pack) for pack in packs] == [[1, 2], [3, 4], [5]]


def test_requests_of_other_keys_and_other_lanes_have_packs_of_their_own() -> None:
    packer = packer_of()
    packs = packs_of(
        packer,
        pending_of(1),
        pending_of(2, user="u"),
        pending_of(3, route=route_to("other")),
        pending_of(4, user="u"),
        pending_of(5),
    )
    assert [lines_of(pack) for pack in packs] == [[1, 5], [2, 4], [3]]


def test_a_pack_counts_inputs_bytes_and_tokens() -> None:
    (pack,) = packs_of(packer_of(), pending_of(1, "abc"), pending_of(2, ["d", "e"]))
    assert (pack.inputs, pack.size_bytes, pack.cost, pack.tokens) == (
        3,
        len('"abc""d", "e"'),
        Cost(14, 2),
        16,
    )


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("", {}),
        (["a", "b", "c"], {"inputs_max": 2}),
        ("x" * 100, {"bytes_max": 100}),
        (["a", "b"], {"answer_bytes_max": 100_000}),
    ],
)
def test_a_request_that_does_not_fit_any_pack_is_sent_as_it_is(
    value: Any, limits: dict[str, int]
) -> None:
    pending = pending_of(1, value)
    assert packer_of(**limits).add(pending) is pending


def test_nothing_joins_a_pack_that_is_about_to_be_sent() -> None:
    packer = packer_of()
    (first,) = packs_of(packer, pending_of(1))
    packer.close(first)
    packer.close(first)
    (second,) = packs_of(packer, pending_of(2))
    packer.close(first)
    packer.add(pending_of(3))
    assert (lines_of(first), lines_of(second)) == ([1], [2, 3])


def test_however_many_keys_there_are_few_packs_stay_open() -> None:
    packer = packer_of()
    packs = packs_of(packer, *(pending_of(line, user=str(line)) for line in range(500)))
    assert len(packs) == 500
    assert len(packer._open) <= 64


def test_a_single_request_goes_out_as_it_came_and_its_answer_is_kept_whole() -> None:
    pending = pending_of(1, "a")
    (pack,) = packs_of(packer_of(), pending)
    body = b'{"data":[{"index":7,"embedding":[1]}]}'
    assert pack.body() is pending.request.body
    assert [answer.body for answer in pack.answers(body)] == [body]


def test_packs_grow_as_the_answers_turn_out_small_and_shrink_at_once_when_they_are_large() -> None:
    packer = packer_of(answer_bytes_max=200_000)
    requests = iter(range(1, 10**6))

    def next_pack() -> Pack:
        (pack, *_) = packs_of(packer, *(pending_of(next(requests)) for _ in range(300)))
        packer._open.clear()
        return pack

    assert next_pack().inputs == 3
    for _ in range(100):
        succeed(packer, next_pack(), item_bytes=500)
    assert next_pack().inputs == 256
    succeed(packer, next_pack(), item_bytes=20_000)
    assert next_pack().inputs == 9


def test_what_short_vectors_have_shown_says_nothing_of_long_ones() -> None:
    packer = packer_of()
    lines = iter(range(1, 10**6))

    def next_pack(dimensions: int) -> Pack:
        asked = (pending_of(next(lines), dimensions=dimensions) for _ in range(300))
        pack = packs_of(packer, *asked)[0]
        packer._open.clear()
        return pack

    assert next_pack(3072).inputs == 15
    succeed(packer, next_pack(8), item_bytes=150)
    assert next_pack(3072).inputs == 15
    for dimensions in range(9, 200):  # many lengths are not kept for ever
        succeed(packer, next_pack(dimensions), item_bytes=150)
    assert len(packer._of(ROUTE.lane).answer_bytes) <= LENGTHS_MAX


@pytest.mark.parametrize(
    ("rest", "inputs"),
    [
        ({}, 16),
        ({"dimensions": 256}, 182),
        ({"dimensions": 3072}, 15),
        ({"dimensions": 3072, "encoding_format": "base64"}, 56),
        ({"dimensions": 8}, 256),
    ],
)
def test_the_first_packs_are_as_large_as_the_length_of_the_vectors_allows(
    rest: dict[str, Any], inputs: int
) -> None:
    packer = packer_of()
    pack, *_ = packs_of(packer, *(pending_of(line, **rest) for line in range(1, 300)))
    assert pack.inputs == inputs

    succeed(packer, pack, item_bytes=40_000)
    larger, *_ = packs_of(packer, *(pending_of(line, **rest) for line in range(300, 400)))
    assert larger.inputs <= 26


# --- apart


def test_halves_have_all_requests_once_in_their_order() -> None:
    (pack,) = packs_of(packer_of(), *(pending_of(line) for line in range(1, 6)))
    first, second = halves(pack)
    assert (lines_of(first), lines_of(second)) == ([1, 2], [3, 4, 5])
    assert (first.inputs, second.inputs) == (2, 3)
    assert first.tokens + second.tokens == pack.tokens
    assert first.size_bytes + second.size_bytes == pack.size_bytes


OUTCOMES: dict[str, Any] = {
    "400": Answer(400, {}, b"{}"),
    "413": Answer(413, {}, b""),
    "422": Answer(422, {}, b""),
    "404": Answer(404, {}, b""),
    "301": Answer(301, {}, b""),
    "429": Answer(429, {}, b""),
    "over the limit": Answer(429, {}, b'{"error":{"message":"Request too large for m"}}'),
    "503": Answer(503, {}, b""),
    "500": Answer(500, {}, b""),
    "not sent": NotSent("refused"),
    "ambiguous": Ambiguous("timeout"),
    "too large": AnswerTooLarge("too large"),
    "bad": BadAnswer("2 embeddings for 3 inputs"),
}


def step_after(name: str, requests: int, attempt: int) -> Step:
    outcome = OUTCOMES[name]
    decision = decide(outcome, attempt=attempt, max_attempts=5, random=lambda: 0.5, now_s=0)
    return next_step(requests, outcome, decision)


@pytest.mark.parametrize("name", ["400", "413", "422", "over the limit", "too large", "bad"])
def test_a_call_that_fails_for_what_is_in_it_is_split_at_once(name: str) -> None:
    assert step_after(name, 2, attempt=1) is Step.SPLIT


@pytest.mark.parametrize("name", ["404", "301"])
def test_what_holds_for_the_call_whatever_is_in_it_ends_each_of_its_requests(name: str) -> None:
    assert step_after(name, 2, attempt=1) is Step.GIVE_UP


@pytest.mark.parametrize("name", ["503", "500", "ambiguous"])
def test_what_may_pass_is_tried_again_whole_and_split_at_its_last_attempt(name: str) -> None:
    assert step_after(name, 2, attempt=1) is Step.AGAIN
    assert step_after(name, 2, attempt=5) is Step.SPLIT


def test_a_call_that_comes_too_early_is_tried_again_whole() -> None:
    assert step_after("429", 2, attempt=5) is Step.AGAIN


def test_a_call_that_cannot_be_sent_is_never_split() -> None:
    assert step_after("not sent", 2, attempt=1) is Step.AGAIN
    assert step_after("not sent", 2, attempt=5) is Step.GIVE_UP


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_single_request_is_never_split(name: str) -> None:
    for attempt in (1, 5):
        assert step_after(name, 1, attempt) is not Step.SPLIT


def run_all(packer: Packer, packs: list[Pack], is_refused: Any) -> tuple[list[int], list[int], int]:
    """Send packs until none is left: lines answered, lines refused, and calls made."""
    queue, answered, refused, calls = deque(packs), list[int](), list[int](), 0
    while queue:
        pack = queue.popleft()
        calls += 1
        if not is_refused(pack):
            succeed(packer, pack)
            answered += lines_of(pack)
        elif len(pack.requests) == 1:
            refused += lines_of(pack)
        else:
            queue.extend(halves(pack))
    return answered, refused, calls


@given(st.integers(1, 200), st.sets(st.integers(1, 200), max_size=5))
def test_only_the_culprits_fail(count: int, culprits: set[int]) -> None:
    packer = packer_of(answer_bytes_max=2**40)
    packs = packs_of(packer, *(pending_of(line) for line in range(1, count + 1)))
    present = {line for line in culprits if line <= count}

    answered, refused, calls = run_all(
        packer, packs, lambda pack: any(line in culprits for line in lines_of(pack))
    )

    assert sorted(answered + refused) == list(range(1, count + 1))
    assert sorted(refused) == sorted(present)
    assert calls <= 1 + 2 * 8 * len(present)


def test_a_culprit_does_not_make_packs_smaller() -> None:
    packer = packer_of(answer_bytes_max=2**40)
    packs = packs_of(packer, *(pending_of(line) for line in range(1, 257)))
    run_all(packer, packs, lambda pack: 77 in lines_of(pack))
    packs = packs_of(packer, *(pending_of(line) for line in range(1, 257)))
    assert [pack.inputs for pack in packs] == [256]


@pytest.mark.parametrize("limit", [1, 7, 10, 32, 100, 255])
def test_the_size_that_an_upstream_takes_is_learned_from_one_pack(limit: int) -> None:
    packer = packer_of(answer_bytes_max=2**40)
    packs = packs_of(packer, *(pending_of(line) for line in range(1, 257)))
    _, refused, _ = run_all(packer, packs, lambda pack: pack.inputs > limit)

    packs = packs_of(packer, *(pending_of(line) for line in range(1, 257)))

    assert not refused
    assert all(limit / 2 <= pack.inputs <= limit for pack in packs[:-1])


def test_a_size_that_was_taken_before_is_not_given_up_for_a_passing_failure() -> None:
    packer = packer_of(answer_bytes_max=2**40)
    (pack,) = packs_of(packer, *(pending_of(line) for line in range(1, 257)))
    succeed(packer, pack)
    for half in halves(pack):
        succeed(packer, half)
    packer.close(pack)
    (again,) = packs_of(packer, *(pending_of(line) for line in range(1, 257)))
    assert again.inputs == 256
