"""`batchwright status`: where a batch stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchwright.cli.connection import connect, given_or_newest, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.options import ApiKey, BaseUrl, BatchId, ConfigFile, Json
from batchwright.cli.steering import is_paused, shown_state
from batchwright.cli.terminal import (
    say,
    say_json,
    shown_cached,
    shown_cost,
    shown_count,
    shown_savings,
    shown_span,
    shown_time,
)
from batchwright.domain.batch import TERMINAL
from batchwright.domain.result import NOT_RUN
from batchwright.domain.window import span_of

if TYPE_CHECKING:
    from batchwright.client.api import Client

Wire = dict[str, Any]

LABEL_WIDTH = 16
CAUSES_SHOWN_MAX = 10
LINES_SHOWN_MAX = 20
EXAMPLES_READ_MAX = 10_000  # lines of an error file that are searched for one of each code


def status(
    batch_id: BatchId = None,
    *,
    why: Annotated[
        bool,
        typer.Option(
            "--why", help="What holds it back, when it may end, and an example of each error."
        ),
    ] = False,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Show where a batch stands."""
    return run_async(_status(batch_id, why, config, base_url, api_key, as_json))


async def _status(
    batch_id: str | None,
    why: bool,
    config: Path | None,
    base_url: str | None,
    api_key: str | None,
    as_json: bool,
) -> int:
    async with connect(config, base_url, api_key) as processor:
        wanted = await given_or_newest(processor.client, batch_id)
        batches = (await processor.status(wanted)).batches
        if as_json:
            say_json(batches[0] if len(batches) == 1 else list(batches))
            return Exit.OK
        for batch in batches:
            for line in described(batch):
                say(line)
            if why:
                for line in reasons(batch, await _examples(processor.client, batch)):
                    say(line)
    return Exit.OK


def described(batch: Wire) -> Iterator[str]:
    """A Batch object in lines for a person."""
    yield f"{batch['id']}  {shown_state(batch)}"
    ours = batch.get("batchwright") or {}
    yield _labelled("requests", _counts(batch))
    yield from _optional("speed", _speed(ours))
    yield from _optional("tokens", _tokens(batch.get("usage") or {}))
    if "cost_usd" in ours:
        yield _labelled("cost", shown_cost(ours["cost_usd"]))
    yield from _optional("saved", _saved(ours.get("savings") or {}))
    yield from _optional("options", _options(ours))
    yield _labelled("created", shown_time(batch.get("created_at")))
    if batch["status"] in ("validating", "in_progress", "finalizing"):
        yield _labelled("expires", shown_time(batch.get("expires_at")))
    if is_paused(batch):
        since = shown_time(ours["paused_at"])
        yield _labelled("paused", f"{since}; batchwright resume {batch['id']} goes on")
    yield from _optional("errors", _codes(_codes_apart(batch)[1]))
    yield from _optional("paid twice?", _paid_twice(ours.get("possibly_paid_twice") or {}))
    yield from _optional("problem", ours.get("problem"))
    yield from _input_errors(batch)


def reasons(batch: Wire, examples: dict[str, str]) -> Iterator[str]:
    """Why a batch is not further, or not whole."""
    ours = batch.get("batchwright") or {}
    held_back_by = ours.get("held_back_by")
    if held_back_by or ours.get("problem"):
        yield _labelled("held back by", held_back_by or ours["problem"])
    elif batch["status"] == "in_progress":
        yield _labelled("held back by", "nothing but the speed of the answers")
    elif batch["status"] in TERMINAL:
        yield _labelled("held back by", "it has ended: nothing holds it back")
    limit = ours.get("limit") or {}
    yield from _optional("figures", _figures(limit))
    yield from _optional("expected end", _range(ours, batch.get("expires_at")))
    for code, message in examples.items():
        yield _labelled("example", f"{code}: {message}")


def _figures(limit: Wire) -> str | None:
    """What the words of the limit leave out."""
    parts = []
    if limit.get("in_flight"):
        parts.append(f"{shown_count(limit['in_flight'], 'call')} in flight at {limit['provider']}")
    if (limit.get("wait_s") or 0) >= 1:
        verb = "tried again" if limit["what"] in ("credential", "outage") else "sent again"
        parts.append(f"{verb} in {shown_span(limit['wait_s'])}")
    return ", ".join(parts) or None


def _range(ours: Wire, expires_at: int | None) -> str | None:
    """Between which times it probably ends, and whether that is in time."""
    between = ours.get("expected_finish_between")
    if not between:
        return None
    early, late = between
    text = f"between {shown_time(early)} and {shown_time(late)}"
    if expires_at is None or late <= expires_at:
        return text
    return f"{text}; it {'will' if early > expires_at else 'may'} expire before"


async def _examples(client: Client, batch: Wire) -> dict[str, str]:
    """The first message of each code in the error file."""
    found: dict[str, str] = {}
    if not batch.get("error_file_id"):
        return found
    read = 0
    async for line in client.iter_lines(batch["error_file_id"]):
        read += 1
        code, message = _error_of(json.loads(line))
        found.setdefault(code, message)
        if read == EXAMPLES_READ_MAX:
            break
    return found


def _error_of(result: Wire) -> tuple[str, str]:
    """Code and message of a line of an error file."""
    where = f"{result.get('custom_id')}: "
    error = result.get("error")
    if error:
        return str(error.get("code")), where + str(error.get("message"))
    response = result.get("response") or {}
    body = response.get("body")
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else body
    return f"HTTP {response.get('status_code')}", where + str(message)


def _counts(batch: Wire) -> str:
    counts = batch.get("request_counts") or {}
    total, completed, failed = (int(counts.get(k) or 0) for k in ("total", "completed", "failed"))
    if not total:
        return "not counted yet" if batch["status"] == "validating" else "none"
    not_run, _ = _codes_apart(batch)
    if not_run:
        count = sum(not_run.values())
        return (
            f"{completed:,} answered, {count:,} not run ({', '.join(not_run)}), "
            f"{max(failed - count, 0):,} failed"
        )
    return f"{completed + failed:,} of {total:,} done, {failed:,} failed"


def _speed(ours: Wire) -> str | None:
    rate = ours.get("requests_per_s")
    if not rate:
        return None
    finish = ours.get("expected_finish_at")
    until = f", expected to end at {shown_time(finish)}" if finish else ""
    return f"{rate:,.1f} requests/s{until}"


def _tokens(usage: Wire) -> str | None:
    if not usage.get("total_tokens"):
        return None
    cached = (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0
    note = shown_cached(cached, usage["input_tokens"])
    return f"{usage['input_tokens']:,} in{note}, {usage['output_tokens']:,} out"


def _saved(savings: Wire) -> str | None:
    if not savings.get("requests"):
        return None
    return shown_savings(savings["requests"], savings["usage"]["total_tokens"], savings["cost_usd"])


def _codes_apart(batch: Wire) -> tuple[dict[str, int], dict[str, int]]:
    """How many were not run, and how many failed, by code."""
    codes = (batch.get("batchwright") or {}).get("failed_by_code") or {}
    names = [code.wire for code in NOT_RUN]
    return (
        {code: count for code, count in codes.items() if code in names},
        {code: count for code, count in codes.items() if code not in names},
    )


def _options(ours: Wire) -> str:
    """What was asked for beside the requests; nothing for what is as always."""
    dedupe = ["dedupe"] if ours.get("dedupe") else []
    order = ours.get("order") or "input"
    ordered = [] if order == "input" else [f"order {order}"]
    max_age_s = (ours.get("cache") or {}).get("max_age_s")
    cache = [f"cache {span_of(max_age_s)}"] if max_age_s else []
    return ", ".join([*dedupe, *ordered, *cache])


def _codes(codes: dict[str, int]) -> str:
    ranked = sorted(codes.items(), key=lambda item: -item[1])
    return ", ".join(f"{code} × {count:,}" for code, count in ranked)


def _paid_twice(possibly: Wire) -> str | None:
    if not possibly.get("requests"):
        return None
    lines = possibly.get("lines") or []
    shown = ", ".join(str(line) for line in lines[:LINES_SHOWN_MAX])
    more = ", …" if len(lines) > LINES_SHOWN_MAX else ""
    return f"possibly {possibly['requests']:,} (lines {shown}{more})"


def _input_errors(batch: Wire) -> Iterator[str]:
    from batchwright.client.errors import causes
    from batchwright.client.job_status import line_errors

    for cause in causes(line_errors(batch), shown_max=CAUSES_SHOWN_MAX):
        yield _labelled("refused", cause)


def _optional(label: str, text: str | None) -> Iterator[str]:
    if text:
        yield _labelled(label, text)


def _labelled(label: str, text: object) -> str:
    return f"  {label:<{LABEL_WIDTH}}{text}"
