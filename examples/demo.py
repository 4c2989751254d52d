"""The demo of `make demo`: first the tutorial, then the promise. No key, no network.

Act 1 starts the server, uploads a file of product reviews, and gets the answers back.
Act 2 runs 5,000 requests through a simulated provider, kills the server with `kill -9` half-way,
starts it again, and proves that nothing is lost and nothing is doubled.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from batchwright.client import Client

EXAMPLES = Path(__file__).parent
FOLDER = Path(".demo")
REQUESTS = 5_000
COMMAND = [sys.executable, "-m", "batchwright"]


def main() -> None:
    """Run both acts in a fresh folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    started_at = time.monotonic()
    asyncio.run(tutorial())
    asyncio.run(promise())
    print(f"\nThat took {time.monotonic() - started_at:.0f} s. Everything lies in {FOLDER}/ .")
    print("Next: the README shows the same with your own file, key and model.")


# Act 1


async def tutorial() -> None:
    """What every OpenAI client does: upload, create, wait, download."""
    title("Act 1: a file of requests goes in, a file of answers comes out")
    rows = [json.loads(line) for line in (EXAMPLES / "reviews.jsonl").read_text().splitlines()]
    requests = FOLDER / "reviews.requests.jsonl"
    requests.write_text(
        "".join(chat_line(r["review_id"], "builtin/sentiment", r["review"]) for r in rows)
    )
    with Server(FOLDER / "server") as server:
        print(f"$ batchwright serve   → {server.base_url}")
        async with Client(server.key, server.base_url) as client:
            file = await client.upload_file(requests, purpose="batch")
            print(f"uploaded  {file['id']}  {len(rows)} reviews, {file['bytes']:,} bytes")
            batch = await create(client, file["id"])
            print(f"created   {batch['id']}")
            batch = await follow(client, batch["id"])
            output = FOLDER / "reviews.answers.jsonl"
            await client.download(batch["output_file_id"], output)
    show_answers(rows, output)
    usage, ours = batch["usage"], batch["batchwright"]
    print(f"\nCounts: {batch['request_counts']}")
    print(f"Tokens: {usage['input_tokens']:,} in, {usage['output_tokens']:,} out")
    print(f"Cost:   ${ours['cost_usd']:.2f} (builtin models are free)")
    print(f"Files:  {requests} → {output}")


def show_answers(rows: list[dict[str, Any]], output: Path) -> None:
    answers = {}
    for line in output.read_text().splitlines():
        result = json.loads(line)
        content = result["response"]["body"]["choices"][0]["message"]["content"]
        answers[result["custom_id"]] = content
    print("\nTen of the answers:")
    for row in rows[:: len(rows) // 10][:10]:
        text = " ".join(row["review"].split())
        print(f"  {answers[row['review_id']]:<9} {text[:70]}{'…' if len(text) > 70 else ''}")
    print("In all:", dict(Counter(answers.values()).most_common()))


# Act 2


async def promise() -> None:
    """A crash in between loses nothing."""
    title(f"Act 2: {REQUESTS:,} requests, and kill -9 in the middle")
    requests = FOLDER / "many.requests.jsonl"
    lines = (chat_line(f"request-{i:04}", "gpt-4o-mini", f"Say {i}.") for i in range(REQUESTS))
    requests.write_text("".join(lines))
    ledger = FOLDER / "provider.ledger.jsonl"
    with Sandbox(ledger) as sandbox:
        print(f"$ batchwright sandbox --latency 100ms   → {sandbox.base_url}")
        config = FOLDER / "batchwright.toml"
        config.write_text(
            f'[providers.upstream]\nkind = "openai"\nbase_url = "{sandbox.base_url}"\n'
            'models = ["gpt-4o-mini"]\nmax_concurrency = 100\n'
        )
        with Server(FOLDER / "promise", config) as server:
            async with Client(server.key, server.base_url) as client:
                file = await client.upload_file(requests, purpose="batch")
                batch = await create(client, file["id"])
                batch = await follow(client, batch["id"], until=REQUESTS // 2)
            server.kill()
            print("\n$ kill -9 of the server, half-way")
        with Server(FOLDER / "promise", config) as server:
            print("$ batchwright serve   (again: it goes on by itself)")
            async with Client(server.key, server.base_url) as client:
                batch = await follow(client, batch["id"])
                output = FOLDER / "many.answers.jsonl"
                await client.download(batch["output_file_id"], output)
    print(f"\n$ batchwright verify {requests} {output}")
    verified = subprocess.run([*COMMAND, "verify", requests, output], check=False)
    calls = Counter(json.loads(line)["sha256"] for line in ledger.read_text().splitlines())
    answered = [json.loads(line)["custom_id"] for line in output.read_text().splitlines()]
    paid_twice = batch["batchwright"]["possibly_paid_twice"]["requests"]
    repeated = sum(count - 1 for count in calls.values())
    print(f"possibly paid twice {paid_twice} (in flight at the kill; never more than the slots)")
    print(f"calls that the provider's own ledger shows repeated: {repeated}")
    if verified.returncode or len(set(answered)) != REQUESTS or repeated > paid_twice:
        sys.exit("The promise was broken. Please report this with the folder .demo/.")


# Parts


async def create(client: Client, file_id: str) -> dict[str, Any]:
    return await client.create_batch(
        file_id, endpoint="/v1/chat/completions", completion_window="24h"
    )


async def follow(client: Client, batch_id: str, until: int | None = None) -> dict[str, Any]:
    """Show the progress of a batch until it ends, or until so many requests are done."""
    while True:
        batch = await client.get_batch(batch_id)
        counts = batch["request_counts"]
        done, total = counts["completed"] + counts["failed"], counts["total"]
        bar = "█" * (30 * done // total if total else 0)
        end = "\r" if sys.stdout.isatty() else "\n"
        print(f"{batch['status']:<12} {bar:<30} {done:>5,}/{total:,}", end=end, flush=True)
        is_ended = batch["status"] in ("completed", "failed", "expired", "cancelled")
        if is_ended or (until is not None and done >= until):
            print(end="\n" if sys.stdout.isatty() else "")
            return batch
        await asyncio.sleep(0.25)


def chat_line(custom_id: str, model: str, text: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    request = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }
    return json.dumps(request, ensure_ascii=False) + "\n"


def title(text: str) -> None:
    print(f"\n{text}\n{'─' * len(text)}")


class Process:
    """A command in the background that says on a line of JSON or text when it is ready."""

    def __init__(self, *arguments: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the start fails
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def ready_line(self, mark: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if mark in line:
                return line
        self._errors.seek(0)
        sys.exit(f"It did not start:\n{self._errors.read().decode()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self._errors.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Server(Process):
    """`batchwright serve` on a free port."""

    def __init__(self, data_dir: Path, config: Path | None = None) -> None:
        arguments = ["serve", "--port", "0", "--data-dir", str(data_dir), "--json"]
        super().__init__(*arguments, *(["--config", str(config)] if config else []))
        ready = json.loads(self.ready_line("base_url"))
        self.base_url: str = ready["base_url"]
        self.key = (data_dir / "admin.key").read_text().strip()

    def __enter__(self) -> Server:
        return self


class Sandbox(Process):
    """`batchwright sandbox`: a simulated provider with 100 ms latency and a ledger."""

    def __init__(self, ledger: Path) -> None:
        super().__init__("sandbox", "--port", "0", "--latency", "100ms", "--ledger", str(ledger))
        self.base_url = self.ready_line("listening on").split()[-1]

    def __enter__(self) -> Sandbox:
        return self


if __name__ == "__main__":
    main()
