"""`batchwright verify`: are these results whole, one for each request?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchwright.cli.exits import Exit
from batchwright.cli.options import Json, require_requests
from batchwright.cli.terminal import note, say, say_json, shown_count

if TYPE_CHECKING:
    from batchwright.checker import Verification

PROBLEMS_SHOWN = 50


def verify(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="The batch requests (JSONL).")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The output file.")],
    errors: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ERRORS]",
            help="The error file; without it the one beside OUTPUT (out.errors.jsonl), if any.",
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> int:
    """Check results against their requests: one for each, each whole and of the right shape.

    Says what is wrong, and where. Exits with 0 where nothing is, else with 1.
    """
    from batchwright.checker import verify_files
    from batchwright.tables import error_path_of

    require_requests(source)
    beside = error_path_of(output)
    if errors is None and beside.exists():
        errors = beside
    found = verify_files(source, output, errors)
    if as_json:
        say_json({**asdict(found), "is_whole": found.is_whole})
    else:
        paths = {"input": source, "output": output, "errors": errors}
        _say(found, {name: str(path) for name, path in paths.items()})
    return Exit.OK if found.is_whole else Exit.FAILED


def _say(found: Verification, paths: dict[str, str]) -> None:
    for problem in found.problems[:PROBLEMS_SHOWN]:
        note(f"{paths[problem.where]}:{problem.line}: {problem.message} ({problem.code})")
    left = found.problem_count - min(PROBLEMS_SHOWN, len(found.problems))
    if left:
        note(f"… and {left:,} more")
    requests = shown_count(found.requests, "request")
    answers = shown_count(found.successes, "answer")
    errors = shown_count(found.failures, "error")
    say(f"{requests}: {answers}, {errors}")
    if found.is_whole:
        say("whole: lost 0, doubled 0")
        return
    by_code = ", ".join(f"{code} {count:,}" for code, count in sorted(found.counts.items()))
    lost, doubled = found.counts.get("missing", 0), found.counts.get("doubled", 0)
    say(f"not whole: lost {lost:,}, doubled {doubled:,}; {by_code}")
