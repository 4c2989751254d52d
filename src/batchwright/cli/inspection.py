"""What `check` and `run --dry-run` say about requests that are not sent."""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from batchwright.cli.exits import Exit
from batchwright.cli.terminal import note, say, say_json, shown_count
from batchwright.local.errors import describe
from batchwright.local.inspection import Inspection

PROBLEMS_SHOWN = 50


def say_inspection(
    found: Inspection, *, unit: str = "line", shows_first: bool = False, as_json: bool = False
) -> int:
    """Print it; returns the exit code: 2 where something is wrong with the requests."""
    if as_json:
        say_json(_to_json(found))
    else:
        _say_problems(found, unit)
        _say_counts(found)
        if shows_first and found.first is not None:
            say("first request:")
            say_request(found.first)
    return Exit.USAGE if found.report.errors else Exit.OK


def say_request(line: bytes) -> None:
    """A request, indented."""
    try:
        shown = msgspec.json.format(line, indent=2)
    except msgspec.DecodeError:
        shown = line
    for each in shown.decode("utf-8", "replace").split("\n"):
        say(each)


def _say_problems(found: Inspection, unit: str) -> None:
    errors = found.report.errors
    for error in errors[:PROBLEMS_SHOWN]:
        note(describe(error, unit))
    if len(errors) > PROBLEMS_SHOWN:
        note(f"… and {len(errors) - PROBLEMS_SHOWN:,} more")


def _say_counts(found: Inspection) -> None:
    say(f"endpoint  {found.url}")
    would_be_sent = found.report.total - found.duplicates
    sent = f", of which {would_be_sent:,} would be sent (dedupe)" if found.duplicates else ""
    say(f"requests  {found.report.total:,}{sent}")
    say(f"tokens    about {found.estimated_input_tokens:,} in")
    for model, use in found.models.items():
        by = f", served by {use.served_by}" if use.served_by else f". {use.hint}"
        say(f"model     {model}: {shown_count(use.requests, 'request')}{by}")


def _to_json(found: Inspection) -> dict[str, object]:
    report = found.report
    return {
        "endpoint": found.url,
        "requests": report.total,
        "would_be_sent": report.total - found.duplicates,
        "lines": report.lines,
        "estimated_input_tokens": found.estimated_input_tokens,
        "models": {model: asdict(use) for model, use in found.models.items()},
        "errors": [asdict(error) for error in report.errors],
        "first": None if found.first is None else found.first.decode("utf-8", "replace"),
    }
