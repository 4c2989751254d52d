"""One server for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchwright_process import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as server:
        yield server
