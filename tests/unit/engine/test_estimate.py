"""Token estimates: from the bytes of a request and the answers seen so far."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.limits import Cost
from batchwright.engine.estimate import Estimator, estimate, learn


def test_the_first_estimate_takes_four_bytes_for_a_token() -> None:
    assert estimate(Estimator(), 4_000).input_tokens == 1_001


def test_after_some_answers_the_estimate_is_their_mean() -> None:
    estimator = Estimator()
    for _ in range(10):
        learn(estimator, 1_000, Cost(400, 20))
    assert estimate(estimator, 2_000) == Cost(801, 20)


def test_the_cap_of_the_request_itself_is_kept() -> None:
    assert estimate(Estimator(), 100, 7).output_tokens == 7


def test_embeddings_have_no_output() -> None:
    estimator = Estimator()
    for _ in range(200):
        learn(estimator, 400, Cost(100, 0))
    assert estimate(estimator, 400).output_tokens == 0


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
