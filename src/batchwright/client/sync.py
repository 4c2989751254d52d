"""Run the asynchronous form from ordinary code, also inside a running notebook.

One background thread per process owns one event loop. A blocking call hands its coroutine
over and waits. So it works where the caller's own thread already runs a loop (Jupyter), and
connections are kept between calls.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

SIGNAL_CHECK_S = 0.25  # so late, at most, Ctrl-C is noticed

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_owner_pid: int | None = None


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to its end on the background loop and return what it returns.

    Ctrl-C cancels the coroutine, waits until it has cleaned up, and raises
    `KeyboardInterrupt`; a second Ctrl-C does not wait.
    Raises `RuntimeError` when called from the background loop itself.
    """
    loop = _background_loop()
    if threading.current_thread() is _thread:
        coroutine.close()
        raise RuntimeError("a blocking call was made from a coroutine; use the async form")
    outcome: Future[T] = Future()
    tasks: list[asyncio.Task[None]] = []

    def start() -> None:
        tasks.append(loop.create_task(_report(coroutine, outcome)))

    def stop() -> None:
        if tasks:
            tasks[0].cancel()
        else:  # interrupted before it was handed over
            coroutine.close()
            outcome.set_exception(asyncio.CancelledError())

    try:
        loop.call_soon_threadsafe(start)
        _wait_until_ended(outcome)
        return outcome.result()
    except BaseException:
        if not outcome.done():
            loop.call_soon_threadsafe(stop)
            _wait_until_ended(outcome)
        raise


def _wait_until_ended(outcome: Future[Any]) -> None:
    # In slices: a signal that arrives just before the thread falls asleep does not wake it.
    while not wait([outcome], timeout=SIGNAL_CHECK_S).done:
        pass


async def _report(coroutine: Coroutine[Any, Any, T], outcome: Future[T]) -> None:
    """Carry the result over to the waiting thread; cancellation arrives there as an error."""
    try:
        outcome.set_result(await coroutine)
    except asyncio.CancelledError as cancelled:
        outcome.set_exception(cancelled)
        raise
    except Exception as error:
        outcome.set_exception(error)


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread, _owner_pid
    with _lock:
        # A forked child inherits the variables but not the thread.
        if _loop is None or _owner_pid != os.getpid():
            _loop = _new_loop()
            _thread = threading.Thread(
                target=_loop.run_forever, name="batchwright-client", daemon=True
            )
            _owner_pid = os.getpid()
            _thread.start()
        return _loop


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # other Pythons than CPython
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
