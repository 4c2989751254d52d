"""Waiting for a batch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchwright.cli.wait import wait_for


class Interrupted:
    """A processor whose waiting is interrupted."""

    async def wait(self, batch_id: str) -> Any:
        raise asyncio.CancelledError


async def test_an_interruption_tells_that_the_batch_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    processor: Any = Interrupted()

    with pytest.raises(asyncio.CancelledError):
        await wait_for(processor, "batch_1,batch_2")

    assert "to wait again: batchwright wait batch_1,batch_2" in capsys.readouterr().err
