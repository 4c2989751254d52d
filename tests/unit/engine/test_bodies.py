"""The hashes of the bodies of an input."""

from __future__ import annotations

from batchwright.domain.lines import Line
from batchwright.engine.bodies import BUCKETS, Bodies

URL = "/v1/chat/completions"


def line(number: int, body: str) -> Line:
    content = f'{{"custom_id":"r-{number}","url":"{URL}","body":{body}}}'
    return Line(number, 0, content.encode())


def test_equals_share_a_bucket_in_the_order_of_the_input() -> None:
    bodies = Bodies(URL)
    bodies.note(iter([line(number, f'{{"n":{number % 7}}}') for number in range(1, 100)]))
    bodies.note(iter([line(200, '{"n":3}')]))

    found = [list(bodies.bucket(number)) for number in range(BUCKETS)]

    assert bodies.lines == 200
    assert sum(map(len, found)) == 100
    assert all(hashed[0] == number for number in range(BUCKETS) for hashed, _ in found[number])
    of_three = next(hashed for bucket in found for hashed, number in bucket if number == 200)
    same = [number for hashed, number in found[of_three[0]] if hashed == of_three]
    assert same == [*range(3, 100, 7), 200]


def test_what_is_forgotten_is_gone() -> None:
    bodies = Bodies(URL)
    bodies.note(iter([line(1, "{}")]))

    for number in range(BUCKETS):
        bodies.forget(number)

    assert not any(list(bodies.bucket(number)) for number in range(BUCKETS))
