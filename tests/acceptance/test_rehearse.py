"""`serve --rehearse`: a program written for OpenAI's Batch API runs unchanged and for nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from sandbox_process import SandboxProcess
from server_process import ServerProcess

# In the steps of OpenAI's own guide (developers.openai.com/api/docs/guides/batch) and of the
# notebook `examples/batch_processing.ipynb` of its cookbook. Nothing in it knows of batchwright.
TUTORIAL = '''
import json
import time

from openai import OpenAI

client = OpenAI()

system_prompt = """You are given the description of a film. Answer with a JSON object:
{"categories": ["…"], "summary": "one sentence"}"""

films = [
    ("The Long Tide", "A lighthouse keeper finds a boat with nobody on board."),
    ("Paper Kings", "Two brothers forge banknotes and cannot agree on the watermark."),
    ("Orbit of Fools", "A cook is sent to a space station by mistake."),
]
pictures = ["https://example.com/chair.jpg", "https://example.com/lamp.jpg"]

tasks = []
for index, (title, description) in enumerate(films):
    tasks.append(
        {
            "custom_id": f"film-{index}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "gpt-5-mini",
                "response_format": {"type": "json_object"},
                "messages": [
                    {"role": "system", "content": system_prompt},
                    {"role": "user", "content": description},
                ],
            },
        }
    )
for index, url in enumerate(pictures):
    tasks.append(
        {
            "custom_id": f"picture-{index}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "gpt-5-mini",
                "max_completion_tokens": 300,
                "messages": [
                    {"role": "system", "content": "Caption the picture in a few words."},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "furniture"},
                            {"type": "image_url", "image_url": {"url": url}},
                        ],
                    },
                ],
            },
        }
    )

with open("batch_tasks.jsonl", "w") as file:
    for task in tasks:
        file.write(json.dumps(task) + "\\n")

batch_file = client.files.create(file=open("batch_tasks.jsonl", "rb"), purpose="batch")
batch_job = client.batches.create(
    input_file_id=batch_file.id,
    endpoint="/v1/chat/completions",
    completion_window="24h",
    metadata={"description": "films and furniture"},
)
while batch_job.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.1)
    batch_job = client.batches.retrieve(batch_job.id)
print(batch_job.status, batch_job.model, batch_job.request_counts.completed)

result = client.files.content(batch_job.output_file_id).content
with open("batch_results.jsonl", "wb") as file:
    file.write(result)

with open("batch_results.jsonl") as file:
    results = {r["custom_id"]: r["response"]["body"] for r in map(json.loads, file)}
for index, (title, description) in enumerate(films):
    answer = json.loads(results[f"film-{index}"]["choices"][0]["message"]["content"])
    print(title, "→", answer)
for index, url in enumerate(pictures):
    print(url, "→", results[f"picture-{index}"]["choices"][0]["message"]["content"])
'''


@pytest.fixture(scope="module")
def provider() -> Iterator[SandboxProcess]:
    """A provider that the server knows of, and must not ask."""
    with SandboxProcess() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    provider: SandboxProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    config = f'[providers.upstream]\nbase_url = "{provider.base_url}"\nmodels = ["gpt-*"]\n'
    folder = tmp_path_factory.mktemp("rehearse")
    with ServerProcess(folder / "data", "--rehearse", config=config) as running:
        yield running


def test_the_tutorial_program_runs_by_changing_base_url_and_key_alone(
    server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "tutorial.py").write_text(TUTORIAL, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "tutorial.py"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONIOENCODING": "utf-8",
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": server.key,
        },
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    status, *answers = done.stdout.splitlines()
    assert status == "completed gpt-5-mini 5"
    assert [line.split(" → ")[0] for line in answers] == [
        "The Long Tide",
        "Paper Kings",
        "Orbit of Fools",
        "https://example.com/chair.jpg",
        "https://example.com/lamp.jpg",
    ]
    assert all("sandbox" in line for line in answers)


def test_a_file_may_mix_models_and_every_answer_is_marked_as_rehearsed(
    server: ServerProcess,
) -> None:
    models = ["gpt-5-mini", "claude-of-next-year"]
    lines = [chat_line(f"r-{number}", models[number % 2]) for number in range(10)]

    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        batch, results = run_batch(client, "/v1/chat/completions", lines)

    assert batch.model is None
    answers = {result["custom_id"]: result["response"]["body"] for result in results}
    assert len(answers) == 10
    for number in range(10):
        answer = answers[f"r-{number}"]
        assert answer["model"] == models[number % 2]
        assert answer["system_fingerprint"] == "sandbox"
        assert answer["choices"][0]["message"]["content"].startswith("[sandbox ")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/responses", {"model": "gpt-5-mini", "input": "Say yes."}),
        ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Say yes."}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "Say yes."}),
        ("/v1/moderations", {"model": "omni-moderation-latest", "input": "Say yes."}),
    ],
)
def test_the_other_endpoints_are_rehearsed_too(
    endpoint: str, body: dict[str, Any], server: ServerProcess
) -> None:
    line = {"custom_id": "one", "method": "POST", "url": endpoint, "body": body}

    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        batch, [result] = run_batch(client, endpoint, [json.dumps(line)])

    assert batch.model == body["model"]
    assert result["response"]["body"]["system_fingerprint"] == "sandbox"


def test_a_live_call_is_rehearsed_and_no_provider_was_asked_for_anything(
    server: ServerProcess, provider: SandboxProcess
) -> None:
    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        answer = client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "Say yes."}]
        )
    provider.stop()

    assert answer.system_fingerprint == "sandbox"
    assert provider.ledger() == []


def chat_line(custom_id: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": f"Say {custom_id}."}]}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line)


def run_batch(client: OpenAI, endpoint: Any, lines: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    """The ended batch and its output lines."""
    content = "".join(line + "\n" for line in lines).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch
    assert batch.output_file_id is not None
    return batch, [
        json.loads(line) for line in client.files.content(batch.output_file_id).iter_lines()
    ]
