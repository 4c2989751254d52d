from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from batchwright.client.sync import run_sync


async def double(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


def test_a_coroutine_runs_to_its_end() -> None:
    assert run_sync(double(4)) == 8


async def test_it_works_inside_a_running_loop() -> None:
    assert run_sync(double(4)) == 8


def test_all_calls_share_one_loop() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert run_sync(loop()) is run_sync(loop())


def test_errors_arrive_as_they_are() -> None:
    async def fail() -> None:
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        run_sync(fail())


def test_a_call_from_the_background_loop_is_refused_instead_of_waiting_for_itself() -> None:
    async def nested() -> int:
        return run_sync(double(1))

    with pytest.raises(RuntimeError, match="async form"):
        run_sync(nested())


def test_ctrl_c_cancels_and_waits_for_the_cleaning_up() -> None:
    cleaned_up = threading.Event()

    async def wait_for_ever() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.set()

    with pytest.raises(KeyboardInterrupt):
        run_sync(wait_for_ever())

    assert cleaned_up.is_set()
