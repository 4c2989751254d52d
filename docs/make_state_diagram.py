"""Draw the states of a batch in `docs/batch-life.md` from the table in the code.

Run it after a change of `TRANSITIONS`: `python docs/make_state_diagram.py`. A test compares the
page with the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchwright.domain.batch import TERMINAL, TRANSITIONS, Status

PAGE = Path(__file__).with_name("batch-life.md")
BEGIN = "<!-- begin states -->\n"
END = "<!-- end -->"


def main() -> None:
    """Write the diagram into the page."""
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def drawn(page: str) -> str:
    """The page with the diagram of the table between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + diagram() + END + after


def diagram() -> str:
    """The table as a Mermaid state diagram, which GitHub and most viewers of Markdown draw."""
    return "\n".join(["```mermaid", "stateDiagram-v2", *_arrows(), "```", ""])


def _arrows() -> Iterator[str]:
    yield f"    [*] --> {Status.VALIDATING}"
    for status, following in TRANSITIONS.items():
        for to in following:
            yield f"    {status} --> {to}"
    for status in TERMINAL:
        yield f"    {status} --> [*]"


if __name__ == "__main__":
    main()
