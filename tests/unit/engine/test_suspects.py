"""Suspects: groups are halved until a request is sent alone, and the innocent are let go."""

from __future__ import annotations

from math import log2

from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright.engine.suspects import Crowd, Gate, Suspicion, judge

_SMALL, _LARGE = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
_SUSPICIONS = st.builds(Suspicion, _SMALL, _LARGE, _SMALL, _LARGE)


class Process:
    """Requests that go through the gate, or freely while nothing tells against them.

    `lines` are all in flight as soon as they may be; nothing settles but by `settle`.
    """

    def __init__(self, lines: int, *, among: int = 0) -> None:
        self.suspicions = {line: Suspicion() for line in range(lines)}
        self.among = among  # other requests of the process, another set after each crash
        self.lost: list[int] = []
        self.crashes = 0
        self._start()

    def _start(self) -> None:
        self.free = {n: None for n, one in self.suspicions.items() if not one.is_held}
        self.gate = Gate()
        for line, one in self.suspicions.items():
            if one.is_held:
                self.gate.add(("b", line), one, lambda: None)
        self.gate.is_open = True
        self.gate.let_pass()

    @property
    def gated(self) -> list[int]:
        return [line for _, line in self.gate.out]

    @property
    def in_flight(self) -> list[int]:
        return [*self.free, *self.gated]

    def settle(self, line: int) -> None:
        del self.suspicions[line]
        self.free.pop(line, None)
        self.gate.leave(("b", line))

    def crash(self) -> None:
        crowd = Crowd(len(self.gated), len(self.free) + self.among)
        self.crashes += 1
        gated = dict.fromkeys(self.gated)
        for line in self.in_flight:
            self.suspicions[line] = judge(
                self.suspicions[line], crowd, was_gated=line in gated, epoch=self.crashes
            )
        for line in [n for n, one in self.suspicions.items() if one.is_cause]:
            del self.suspicions[line]
            self.lost.append(line)
        self._start()


def run_with_culprit(process: Process, culprit: int) -> None:
    """Whatever is in flight settles, unless the culprit is among it: then the process dies."""
    while process.suspicions:
        if culprit in process.in_flight:
            process.crash()
        else:
            process.settle(process.in_flight[0])


@settings(max_examples=30)
@given(st.integers(1, 300), st.data())
def test_a_request_that_kills_the_process_is_found_by_halving(n: int, data: st.DataObject) -> None:
    process = Process(n)
    run_with_culprit(process, data.draw(st.integers(0, n - 1)))
    assert len(process.lost) == 1
    assert process.crashes <= log2(n) + 4


@settings(max_examples=30)
@given(st.integers(1, 100), st.data())
def test_it_is_found_too_while_others_go_on_beside_it(n: int, data: st.DataObject) -> None:
    process = Process(n, among=40)
    culprit = data.draw(st.integers(0, n - 1))
    run_with_culprit(process, culprit)
    assert process.lost == [culprit]
    assert process.crashes <= log2(n) + 8


@settings(max_examples=30)
@given(st.sets(st.integers(0, 63), min_size=1, max_size=5))
def test_each_of_several_is_found_and_nobody_else(culprits: set[int]) -> None:
    process = Process(64)
    while process.suspicions:
        if culprits & {*process.in_flight}:
            process.crash()
        else:
            process.settle(process.in_flight[0])
    assert sorted(process.lost) == sorted(culprits)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2), min_size=15, max_size=15))
def test_fifteen_deaths_that_none_of_sixty_caused_cost_none(settled: list[int]) -> None:
    """Between two deaths hardly any request settles."""
    process = Process(60)
    for number in settled:
        for line in process.in_flight[:number]:
            process.settle(line)
        process.crash()
    assert process.lost == []


@given(st.lists(st.integers(1, 200), max_size=60), st.data())
def test_no_suspect_is_ever_out_with_more_than_half_its_crowd(
    crowds: list[int], data: st.DataObject
) -> None:
    gate, sent = Gate(), []
    gate.is_open = True
    for line, crowd in enumerate(crowds):
        gate.add(("b", line), Suspicion(2, crowd, 0, 1), lambda line=line: sent.append(line))
        gate.let_pass()
        out = [crowds[line] for _, line in gate.out]
        assert len(out) <= min(max(1, crowd // 2) for crowd in out)
    while gate.out:
        gate.leave(data.draw(st.sampled_from(sorted(gate.out))))
        out = [crowds[line] for _, line in gate.out]
        assert not out or len(out) <= min(max(1, crowd // 2) for crowd in out)
    assert sorted(sent) == list(range(len(crowds)))


def test_the_least_suspicious_goes_first() -> None:
    gate, sent = Gate(), []
    order = [Suspicion(3, 1, 2, 1), Suspicion(4, 1, 0, 1), Suspicion(3, 8, 0, 1)]
    for line, one in enumerate([Suspicion(2, 1, 1, 1), *order]):
        gate.add(("b", line), one, lambda line=line: sent.append(line))
    gate.let_pass()
    assert sent == []  # closed
    gate.is_open = True
    gate.let_pass()
    for _ in range(4):
        gate.leave(next(iter(gate.out)))
    assert sent == [3, 2, 0, 1]


def test_a_batch_that_withdraws_lets_the_others_pass() -> None:
    gate, sent = Gate(), []
    alone = Suspicion(2, 1, 0, 1)
    for batch in ("a", "b", "a"):
        gate.add((batch, 1), alone, lambda batch=batch: sent.append(batch))
    gate.is_open = True
    gate.let_pass()
    gate.withdraw("a")
    assert sent == ["a", "b"]
    gate.leave(("a", 1))  # late, and of no weight
    assert list(gate.out) == [("b", 1)]


def test_only_a_death_of_one_that_was_sent_alone_tells_against_it() -> None:
    def guilt(crowd: Crowd, *, was_gated: bool) -> int:
        return judge(Suspicion(), crowd, was_gated=was_gated, epoch=1).guilt

    assert guilt(Crowd(0, 1), was_gated=False) == 0
    assert guilt(Crowd(1, 40), was_gated=False) == 0
    assert guilt(Crowd(2, 0), was_gated=True) == 0
    assert guilt(Crowd(1, 40), was_gated=True) == 1
    assert guilt(Crowd(1, 0), was_gated=True) == 2


@given(_SUSPICIONS)
def test_a_suspicion_survives_being_packed(one: Suspicion) -> None:
    assert Suspicion.unpacked(one.packed()) == one
