from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

# No test asserts an elapsed time, and no example of one either.
hypothesis.settings.register_profile("batchwright", deadline=None)
hypothesis.settings.load_profile("batchwright")

# A shell starts what runs in its background with Ctrl-C ignored, and the processes of the tests
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> Iterator[None]:
    """What a test sets up of the logs is gone for the next one."""
    yield
    structlog.reset_defaults()
