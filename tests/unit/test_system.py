"""What is asked of the machine that the program runs on."""

import os
import sys
import threading

import pytest

from batchwright.system import prefer_throughput


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
