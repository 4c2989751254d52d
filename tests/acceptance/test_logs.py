"""Prompts, answers and keys in the log of the real server: they are marked, and looked for."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from openai import OpenAI

from sandbox_process import SandboxProcess
from server_process import ServerProcess

PROMPT = "marked-prompt-5f1c"
PROVIDER_KEY = "sk-marked-provider-key-77aa"
WRONG_KEY = "bw_marked00_" + "w" * 49
REQUESTS = 150


def test_no_prompt_answer_or_key_reaches_the_log_or_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "provider.key").write_text(PROVIDER_KEY)
    with (
        SandboxProcess("--latency", "20-40ms", "--fail-rate", "0.2") as sandbox,
        ServerProcess(tmp_path / "data", config=config(sandbox.base_url)) as server,
    ):
        batch_id = create(server, chat_lines(REQUESTS))
        until_under_way(server, batch_id)
        server.kill()
        server.start()
        results = until_ended(server, batch_id)
        until_ended(server, create(server, b'{"' + PROMPT.encode() + b"\n"))
        ask_wrongly(server)
        metrics = get(server.base_url.removesuffix("/v1") + "/metrics", server.key)[1]
        server.stop()
        log = server.log

    answers = {answer_of(json.loads(line)) for line in results.splitlines()}
    assert len(answers) > REQUESTS // 3
    assert "pass-through call failed" in log  # what is logged at all is in this file
    for secret in {PROMPT, PROVIDER_KEY, WRONG_KEY, server.key, *answers}:
        assert secret not in log
        assert secret not in metrics


def config(base_url: str) -> str:
    return (
        f'[providers.upstream]\nbase_url = "{base_url}"\napi_key = "file:provider.key"\n'
        'models = ["gpt-4o-mini"]\nmax_concurrency = 10\n'
        '[providers.nowhere]\nbase_url = "http://127.0.0.1:9/v1"\n'
        'api_key = "file:provider.key"\nmodels = ["nowhere-model"]\n'
        "[limits]\nmax_attempts = 2\n"
    )


def chat_lines(count: int) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"{PROMPT}-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": chat("gpt-4o-mini", f"{PROMPT} {number}"),
            }
        ).encode()
        + b"\n"
        for number in range(count)
    )


def chat(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def create(server: ServerProcess, lines: bytes) -> str:
    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        file = client.files.create(file=(f"{PROMPT}.jsonl", lines), purpose="batch")
        return client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"note": PROMPT},
        ).id


def until_ended(server: ServerProcess, batch_id: str) -> bytes:
    """The output file of a batch, once it has ended."""
    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        while (batch := client.batches.retrieve(batch_id)).status not in ("completed", "failed"):
            time.sleep(0.05)
        file_id = batch.output_file_id
        return client.files.content(file_id).content if file_id else b""


def until_under_way(server: ServerProcess, batch_id: str) -> None:
    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        while (counts := client.batches.retrieve(batch_id).request_counts) is None or (
            counts.completed < REQUESTS // 3
        ):
            time.sleep(0.02)


def ask_wrongly(server: ServerProcess) -> None:
    """What goes wrong at the edge: keys, paths, bodies, and a provider that is not there."""
    chats = server.base_url + "/chat/completions"
    assert get(f"{server.base_url}/{PROMPT}?{PROMPT}", server.key)[0] == 404
    assert get(f"{server.base_url}/models", WRONG_KEY)[0] == 401
    assert get(chats, server.key, b'{"' + PROMPT.encode())[0] == 400
    body = json.dumps(chat("nowhere-model", PROMPT)).encode()
    assert get(chats, server.key, body)[0] == 502


def get(url: str, key: str, body: bytes | None = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answer_of(result: dict[str, Any]) -> str:
    content: str = result["response"]["body"]["choices"][0]["message"]["content"]
    return content
