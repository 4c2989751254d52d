"""The tally: counters over durable records, whoever feeds it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchwright.domain.batch import LISTED_LINES_MAX, Counts
from batchwright.domain.result import Code
from batchwright.engine.account import COPIED, ERROR, IN_CRASH, MAYBE_PAID, OUTPUT, UNPRICED, Record
from batchwright.engine.suspects import Suspicion
from batchwright.engine.tally import Tally


def record(line: int, flags: int = OUTPUT, code: int = 200, **fields: int) -> Record:
    blank = Record(line, 0, code, flags, 1, 1, 10, 4, 3, 2, 7, 7, 0.0, 0, 0, 0)
    return blank._replace(**fields)


def test_results_add_up_and_only_successes_have_usage() -> None:
    tally = Tally()
    for one in (record(1), record(2), record(9, ERROR, 429, tokens_in=0, attempts=5)):
        tally.apply(one)
    assert tally.counts(20) == Counts(20, 2, 1)
    assert (tally.usage.input_tokens, tally.usage.cached_tokens) == (20, 8)
    assert (tally.usage.output_tokens, tally.usage.reasoning_tokens) == (6, 4)
    closing = tally.closing()
    assert closing.codes == {"429": 1}
    assert closing.attempts == 7
    assert closing.cost_nano == 21


KINDS = (
    OUTPUT,
    OUTPUT | UNPRICED,
    OUTPUT | MAYBE_PAID,
    OUTPUT | COPIED,
    ERROR,
    MAYBE_PAID,
    MAYBE_PAID | IN_CRASH,
)


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(KINDS)), max_size=12))
@example([(1, OUTPUT), (2, OUTPUT | UNPRICED), (3, OUTPUT)])
@example([(1, MAYBE_PAID), (1, OUTPUT), (2, OUTPUT)])
def test_a_group_of_records_counts_for_what_each_of_them_does(made: list[tuple[int, int]]) -> None:
    ended, records = set[int](), []
    for line, flags in made:
        if line not in ended:
            records.append(record(line, flags, attempts=len(records) + 1, tokens_in=line))
        if flags & (OUTPUT | ERROR):
            ended.add(line)
    one_by_one, at_once = Tally(), Tally()

    for each in records:
        one_by_one.apply(each)
    at_once.apply_all(records[:2])
    at_once.apply_all(records[2:])

    assert at_once.closing() == one_by_one.closing()
    assert at_once.counts(9) == one_by_one.counts(9)
    assert at_once.suspicions == one_by_one.suspicions
    assert at_once.tries == one_by_one.tries
    assert [at_once.is_done(line) for line in range(12)] == [line in ended for line in range(12)]


def test_a_cost_is_unknown_as_soon_as_one_price_is() -> None:
    tally = Tally()
    tally.apply(record(1))
    assert tally.closing().cost_usd == 7e-9
    tally.apply(record(2, OUTPUT | UNPRICED, cost_nano=0))
    assert (tally.closing().unpriced, tally.closing().cost_usd) == (1, None)


def test_a_copy_counts_as_a_result_and_what_it_has_as_saved() -> None:
    tally = Tally()
    tally.apply(record(1))
    tally.apply(record(2, OUTPUT | COPIED, attempts=0))
    tally.apply(record(3, ERROR | COPIED, 400, attempts=0, tokens_in=0, cost_nano=0))
    closing = tally.closing()
    assert tally.counts(9) == Counts(9, 2, 1)
    assert (closing.usage.input_tokens, closing.cost_nano, closing.attempts) == (10, 7, 1)
    assert closing.codes == {"400": 1}
    assert (closing.savings.requests, closing.savings.usage.output_tokens) == (2, 6)
    assert closing.savings.cost_usd == 7e-9


def test_what_is_saved_is_unknown_where_a_price_is_and_what_is_paid_is_not() -> None:
    tally = Tally()
    tally.apply(record(1))
    tally.apply(record(2, OUTPUT | COPIED | UNPRICED, attempts=0, cost_nano=0))
    assert tally.closing().savings.cost_usd is None
    assert tally.closing().cost_usd == 7e-9


@pytest.mark.parametrize("first", [OUTPUT, ERROR])
@pytest.mark.parametrize("second", [OUTPUT, ERROR])
def test_a_second_result_of_a_line_raises(first: int, second: int) -> None:
    tally = Tally()
    tally.apply(record(3, first))
    with pytest.raises(AssertionError, match="line 3"):
        tally.apply(record(3, second))


def test_an_attempt_is_no_result_and_is_listed_once() -> None:
    tally = Tally()
    tally.apply(record(3, MAYBE_PAID, Code.REQUEST_FAILED))
    tally.apply(record(3, MAYBE_PAID, Code.REQUEST_FAILED))
    tally.apply(record(3, OUTPUT | MAYBE_PAID))
    assert tally.settled == 1
    assert tally.maybe_paid_twice == 1
    assert tally.maybe_paid_lines() == (3,)


def test_suspicions_are_forgotten_once_the_line_has_its_result() -> None:
    tally = Tally()
    suspicion = Suspicion(2, 40, 1, 6)
    offset, length, line_crc = suspicion.packed()
    crash = record(3, MAYBE_PAID | IN_CRASH, Code.LOST_IN_CRASH)
    tally.apply(crash._replace(offset=offset, length=length, line_crc=line_crc))
    assert tally.suspicions == {3: suspicion}
    tally.apply(record(3))
    assert tally.suspicions == {}
    assert tally.maybe_paid_lines() == (3,)


def test_each_call_counts_once_however_many_records_tell_of_it() -> None:
    tally = Tally()
    tally.apply(record(3, MAYBE_PAID, Code.REQUEST_FAILED, attempts=2))
    tally.apply(record(3, MAYBE_PAID | IN_CRASH, Code.LOST_IN_CRASH, attempts=3))
    assert (tally.attempts, tally.tries) == (3, {3: 3})
    tally.apply(record(3, attempts=4))
    tally.apply(record(4, attempts=1))
    assert (tally.attempts, tally.tries) == (5, {})


def test_a_line_that_is_not_sent_again_keeps_the_calls_of_before() -> None:
    tally = Tally()
    tally.apply(record(3, MAYBE_PAID, Code.REQUEST_FAILED, attempts=2))
    tally.apply(record(3, ERROR, Code.BATCH_CANCELLED, attempts=0))
    assert tally.attempts == 2


def test_the_list_of_lines_is_bounded_and_the_count_is_not() -> None:
    tally = Tally()
    for line in range(LISTED_LINES_MAX + 5, 0, -1):
        tally.apply(record(line, MAYBE_PAID))
    assert tally.maybe_paid_twice == LISTED_LINES_MAX + 5
    assert tally.maybe_paid_lines() == tuple(range(1, LISTED_LINES_MAX + 1))


@given(st.lists(st.integers(0, 100_000), unique=True))
def test_exactly_the_lines_with_a_result_are_done(lines: list[int]) -> None:
    tally = Tally()
    for line in lines:
        tally.apply(record(line))
    for line in lines:
        assert tally.is_done(line)
        assert tally.is_done(line + 1) == (line + 1 in lines)
    assert tally.settled == len(lines)
