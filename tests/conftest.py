from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> Iterator[None]:
    """What a test sets up of the logs is gone for the next one."""
    yield
    structlog.reset_defaults()
