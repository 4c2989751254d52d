"""What must be documented is: every setting, every command, every option, every exit code."""

from __future__ import annotations

import pytest

from batchwright.cli.exits import Exit
from reference_docs import DOCS, PAGES, updated


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_the_docs_are_those_of_the_code(page: str) -> None:
    assert (DOCS / page).read_text() == updated(page), (
        "run: PYTHONPATH=src python tests/support/reference_docs.py"
    )


def test_every_exit_code_is_documented() -> None:
    text = (DOCS / "command-line.md").read_text()

    for code in Exit:
        assert f"| {code.value} | " in text
