"""What is asked of the machine that the program runs on."""

import gc
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from batchwright.system import GC_THRESHOLD, prefer_throughput


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_the_collector_of_cycles_looks_less_often_and_no_more_at_what_is_there() -> None:
    prefer_throughput()

    assert gc.get_threshold()[0] == GC_THRESHOLD
    assert gc.get_freeze_count() > 0


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")
def test_a_thread_that_prefers_throughput_hands_it_on_to_those_it_starts() -> None:
    seen = []

    def look() -> None:
        seen.append(os.sched_getscheduler(0))

    def work() -> None:
        prefer_throughput()
        look()
        inner = threading.Thread(target=look)
        inner.start()
        inner.join()

    outer = threading.Thread(target=work)
    outer.start()
    outer.join()
    assert seen == [os.SCHED_BATCH, os.SCHED_BATCH]
