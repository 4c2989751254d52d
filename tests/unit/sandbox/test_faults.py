from __future__ import annotations

from collections import Counter

from batchwright.sandbox.behaviours import BEHAVIOURS, find
from batchwright.sandbox.faults import FAULTS, Tries, fault


def digests(count: int) -> list[bytes]:
    return [i.to_bytes(32, "big") for i in range(count)]


def test_the_given_share_fails_in_every_way() -> None:
    met = [fault(digest, 1, 0.2) for digest in digests(5000)]

    counts = Counter(name for name in met if name)

    assert 900 <= counts.total() <= 1100
    assert set(counts) == set(FAULTS)


def test_a_try_fails_the_same_way_each_time_and_another_try_by_itself() -> None:
    first = [fault(digest, 1, 0.5) for digest in digests(200)]

    assert first == [fault(digest, 1, 0.5) for digest in digests(200)]
    assert first != [fault(digest, 2, 0.5) for digest in digests(200)]


def test_every_fault_is_a_behaviour() -> None:
    assert all(find(name) is not None for name in FAULTS)


def test_tries_are_counted_until_one_is_answered() -> None:
    tries = Tries()
    tries.failed(b"a", tries.next(b"a"))

    assert (tries.next(b"a"), tries.next(b"b")) == (2, 1)
    tries.answered(b"a")
    assert tries.next(b"a") == 1


def test_every_behaviour_is_found_by_its_name_and_says_what_it_does() -> None:
    for name, behaviour in BEHAVIOURS.items():
        assert find(name.replace("-N", "-7")) is not None
        assert behaviour.summary


def test_once_and_flaky_limit_the_bad_tries() -> None:
    once, flaky, always = find("once-reset"), find("flaky-3"), find("status-503")

    assert once is not None
    assert flaky is not None
    assert always is not None
    assert (once.bad_tries, flaky.bad_tries, always.bad_tries) == (1, 3, None)


def test_an_unknown_name_is_no_behaviour() -> None:
    assert find("dance") is None
    assert find("dance-3") is None
