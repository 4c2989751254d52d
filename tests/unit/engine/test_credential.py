"""What refusals tell of a credential, and what of the requests that met them."""

from __future__ import annotations

import pytest

from batchwright.engine.credential import (
    CHECKS,
    PATIENCE_S,
    ROW_MAX,
    Credential,
    Refusal,
    judge,
    note_accepted,
    note_refused,
)


def refused(state: Credential, *numbers: int, kind: Refusal = Refusal.FIRST) -> None:
    for number in numbers:
        note_refused(state, kind, number, now=0.0)


def accepting(*numbers: int) -> Credential:
    state = Credential()
    for number in numbers:
        note_accepted(state, number, 0.0)
    return state


def test_before_any_success_the_first_refusal_stops_it() -> None:
    state = Credential()
    refused(state, 1)
    assert state.is_stopped


@pytest.mark.parametrize(("accepted", "bearable"), [(1, 3), (80, 10), (1_000_000, ROW_MAX)])
def test_the_more_was_accepted_the_more_requests_in_a_row_it_takes_to_stop_it(
    accepted: int, bearable: int
) -> None:
    state = accepting(accepted)
    refused(state, *range(accepted + 1, accepted + 1 + bearable))
    assert not state.is_stopped
    refused(state, accepted + 1 + bearable)
    assert state.is_stopped


def test_after_a_rest_the_first_refusal_stops_it_however_much_was_accepted() -> None:
    state = accepting(1_000_000)
    note_refused(state, Refusal.FIRST, 1_000_001, PATIENCE_S + 1)
    assert state.is_stopped
    note_accepted(state, 1_000_002, PATIENCE_S + 2)
    assert not state.is_stopped
    note_refused(state, Refusal.FIRST, 1_000_003, PATIENCE_S + 3)
    assert not state.is_stopped


def test_requests_in_calls_of_many_count_each() -> None:
    state = accepting(1)
    state.packed = 799
    note_refused(state, Refusal.FIRST, 2, 0.0, requests=200)
    assert (state.bearable, state.doubtful) == (100, 200)


def test_the_same_few_requests_do_not_stop_it_however_often_they_are_refused() -> None:
    state = accepting(100)
    refused(state, 101, 102)
    refused(state, *range(103, 200), kind=Refusal.AGAIN)
    assert not state.is_stopped


def test_a_call_that_was_sent_before_does_not_end_the_stop_and_one_sent_after_does() -> None:
    state = accepting(10)
    refused(state, *range(20, 30))
    note_accepted(state, 19, 0.0)
    assert state.is_stopped
    note_accepted(state, 30, 0.0)
    assert (state.is_stopped, state.doubtful) == (False, 0)


def test_a_first_answer_ends_a_stop_that_few_refusals_before_it_had_caused() -> None:
    state = Credential()
    refused(state, 2)
    note_accepted(state, 1, 0.0)
    assert not state.is_stopped


def test_a_refusal_of_which_a_later_call_tells_that_the_credential_held_is_no_doubt() -> None:
    state = accepting(10)
    refused(state, 9)
    assert state.doubtful == 0


def test_a_refusal_is_held_against_its_request_once_a_later_call_was_accepted() -> None:
    state = accepting(10)
    assert judge(state, 0, 0, 0.0) is Refusal.FIRST
    refused(state, 11)
    assert judge(state, 11, 0, 0.0) is Refusal.AGAIN
    note_accepted(state, 12, 0.0)
    assert judge(state, 11, 0, 0.0) is Refusal.HELD_AGAINST


def test_known_requests_that_are_left_alone_go_on_to_be_held_at_fault() -> None:
    state = accepting(10)
    assert judge(state, 20, 1, 0.0) is Refusal.HELD_AGAINST
    refused(state, 21)
    assert judge(state, 20, 1, 0.0) is Refusal.AGAIN


def test_a_few_that_nothing_follows_are_held_at_fault_after_a_while() -> None:
    state = accepting(40)
    refused(state, 41, 42)
    assert judge(state, 41, 0, PATIENCE_S - 1) is Refusal.AGAIN
    assert judge(state, 41, 0, PATIENCE_S) is Refusal.HELD_AGAINST


def test_many_that_nothing_follows_are_never_held_at_fault() -> None:
    state = accepting(40)
    refused(state, *range(41, 50))
    assert judge(state, 41, 0, 1e9) is Refusal.AGAIN


def test_what_was_refused_while_the_credential_was_is_forgotten() -> None:
    state = accepting(10)
    refused(state, *range(11, 20))
    state.checked = CHECKS
    note_accepted(state, 20, 0.0)
    assert judge(state, 19, 2, 0.0) is Refusal.FIRST
