"""`kill -9` of the real server at random moments, with the provider's own ledger as witness.

Run alone for more:
`PYTHONPATH=tests/support python tests/acceptance/test_kill_server.py --kills 20 --requests 20000`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch

from batchwright.sandbox.answers import answer
from sandbox_process import SandboxProcess
from server_process import ServerProcess

CONCURRENCY = 100
SLOTS = CONCURRENCY + 256


@dataclass(frozen=True)
class Outcome:
    """What was seen of a batch whose server was killed."""

    answers: Counter[str]  # result lines by custom_id, over both files
    wrong: int  # answers that are not the ones to their requests
    repeats_per_kill: list[int]  # calls after each kill that had been made before
    unlisted: int  # repeated lines that the batch does not list
    calls: int
    status: str
    counts: tuple[int, int, int]


def run_and_kill(
    folder: Path, *, requests: int, kills: int, seed: int, distinct: int | None = None
) -> Outcome:
    """One batch against the sandbox, its server killed so often at random moments.

    With `distinct` so many of its bodies differ, and it is deduped.
    """
    randomness = random.Random(seed)
    ledger = folder / "ledger.jsonl"
    bodies = [_body(i % (distinct or requests)) for i in range(requests)]
    with SandboxProcess("--latency", "50-150ms", ledger_path=ledger) as sandbox:
        server = ServerProcess(folder / "data", config=_config(sandbox.base_url))
        with server:
            client = OpenAI(base_url=server.base_url, api_key=server.key)
            lines = b"".join(_line(i, body) for i, body in enumerate(bodies))
            file = client.files.create(file=("in.jsonl", lines), purpose="batch")
            batch_id = client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                extra_body={"batchwright": {"dedupe": distinct is not None}},
            ).id
            marks = []
            span_s = (distinct or requests) / CONCURRENCY * 0.1 / (kills + 1)
            for _ in range(kills):
                time.sleep(span_s * randomness.uniform(0.2, 1.5))
                server.kill()
                marks.append(_settled_ledger(ledger))
                server.start()
            client = OpenAI(base_url=server.base_url, api_key=server.key)
            batch = client.batches.retrieve(batch_id)
            while batch.status not in ("completed", "failed", "expired", "cancelled"):
                time.sleep(0.2)
                batch = client.batches.retrieve(batch_id)
            files = [batch.output_file_id, batch.error_file_id]
            results = b"".join(client.files.content(id).content for id in files if id)
            calls = [entry["sha256"] for entry in _entries(ledger)]
    listed = set(batch.to_dict()["batchwright"]["possibly_paid_twice"]["lines"])
    return _judge(bodies, results, calls, marks, listed, batch)


def _judge(
    bodies: list[bytes],
    results: bytes,
    calls: list[str],
    marks: list[int],
    listed: set[int],
    batch: Batch,
) -> Outcome:
    line_of: dict[str, int] = {}
    for i, body in enumerate(bodies):
        line_of.setdefault(hashlib.sha256(body).hexdigest(), i + 1)
    answers: Counter[str] = Counter()
    wrong = 0
    for raw in results.splitlines():
        result = json.loads(raw)
        answers[result["custom_id"]] += 1
        _, expected = answer("/v1/chat/completions", bodies[int(result["custom_id"][2:])])
        wrong += result["response"]["body"] != json.loads(expected)
    repeats = []
    unlisted: set[int] = set()
    for mark, following in zip(marks, [*marks[1:], len(calls)], strict=True):
        seen = set(calls[:mark])
        again = [line_of[call] for call in calls[mark:following] if call in seen]
        repeats.append(len(again))
        unlisted |= set(again) - listed
    counts = batch.request_counts
    assert counts is not None
    return Outcome(
        answers=answers,
        wrong=wrong,
        repeats_per_kill=repeats,
        unlisted=len(unlisted),
        calls=len(calls),
        status=batch.status,
        counts=(counts.total, counts.completed, counts.failed),
    )


def _config(base_url: str) -> str:
    return (
        f'[providers.upstream]\nkind = "openai"\nbase_url = "{base_url}"\n'
        f'models = ["gpt-4o-mini"]\nmax_concurrency = {CONCURRENCY}\n'
    )


def _body(i: int) -> bytes:
    message = {"role": "user", "content": f"request {i}"}
    return json.dumps({"model": "gpt-4o-mini", "messages": [message]}).encode()


def _line(i: int, body: bytes) -> bytes:
    return b'{"custom_id":"r-%d","method":"POST","url":"/v1/chat/completions","body":%b}\n' % (
        i,
        body,
    )


def _entries(ledger: Path) -> list[dict[str, Any]]:
    lines = ledger.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _settled_ledger(ledger: Path) -> int:
    """The number of calls before the kill, once the sandbox has written them down."""
    before = -1
    while (now := len(_entries(ledger))) != before:
        before = now
        time.sleep(0.06)
    return now


def test_a_server_killed_in_the_middle_loses_nothing_and_lists_what_it_repeats(
    tmp_path: Path,
) -> None:
    outcome = run_and_kill(tmp_path, requests=3_000, kills=3, seed=1)
    assert outcome.status == "completed"
    assert outcome.counts == (3_000, 3_000, 0)
    assert outcome.answers == Counter({f"r-{i}": 1 for i in range(3_000)})
    assert outcome.wrong == 0
    assert max(outcome.repeats_per_kill) <= SLOTS
    assert outcome.unlisted == 0


def test_a_server_killed_in_the_middle_of_a_deduped_batch_sends_each_body_once_but_for_these(
    tmp_path: Path,
) -> None:
    outcome = run_and_kill(tmp_path, requests=12_000, distinct=2_000, kills=3, seed=2)
    assert outcome.status == "completed"
    assert outcome.counts == (12_000, 12_000, 0)
    assert outcome.answers == Counter({f"r-{i}": 1 for i in range(12_000)})
    assert outcome.wrong == 0
    assert max(outcome.repeats_per_kill) <= SLOTS
    assert outcome.unlisted == 0
    assert outcome.calls == 2_000 + sum(outcome.repeats_per_kill)


def main() -> None:
    """Print what was seen of as many kills as asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_and_kill(
            Path(folder), requests=options.requests, kills=options.kills, seed=options.seed
        )
    lost = options.requests - len(outcome.answers)
    doubled = sum(count - 1 for count in outcome.answers.values())
    print(f"{outcome.status}: total, completed, failed = {outcome.counts}")
    print(f"lost {lost}, doubled {doubled}, wrong {outcome.wrong}")
    print(f"repeats per kill {outcome.repeats_per_kill}, at most {SLOTS} slots")
    print(f"repeated but not listed {outcome.unlisted}")


if __name__ == "__main__":
    main()
