"""Models, health, metrics, the root page, and the errors that no handler makes."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from structlog.testing import capture_logs

from batchwright.server.settings import ServerSettings

from .conftest import chat_lines, ended, running_server


async def test_models_are_listed_looked_up_and_not_deleted(server: Any) -> None:
    async with server.openai() as client:
        listed = {model.id: model.owned_by async for model in client.models.list()}
        slashed = await client.models.retrieve("org/model:v1")
        with pytest.raises(openai.NotFoundError) as missing:
            await client.models.retrieve("test-modle")
        with pytest.raises(openai.PermissionDeniedError):
            await client.models.delete("test-model")

    assert listed["builtin/sentiment"] == "builtin"
    assert listed["test-model"] == "played"
    assert slashed.id == "org/model:v1"
    assert missing.value.code == "model_not_found"
    assert "test-model" in str(missing.value)


async def test_unknown_paths_and_methods_get_the_error_body(server: Any) -> None:
    async with server.http() as http:
        path = await http.get("/v1/nothing")
        slash = await http.get("/v1/files/")
        method = await http.put("/v1/files")
        docs = await http.get("/docs")

    assert path.json()["error"]["message"] == "Invalid URL (GET /v1/nothing)"
    for answer, status in ((path, 404), (slash, 404), (method, 405), (docs, 404)):
        assert answer.status_code == status
        assert sorted(answer.json()["error"]) == ["code", "message", "param", "type"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
    assert method.headers["allow"] == "GET, POST"


async def test_what_watches_may_ask_for_the_head_alone(server: Any) -> None:
    async with server.http(None) as http:
        for path in ("/", "/healthz", "/readyz"):
            head, whole = await http.head(path), await http.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(whole.content))


async def test_azure_s_paths_lead_to_the_same(server: Any) -> None:
    hello: Any = [{"role": "user", "content": "I love it"}]
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=server.origin, api_version="2024-10-21", api_key=server.token()
    ) as azure:
        for model in ("builtin/sentiment", "test-model", "org/model:v1"):
            chat = await azure.chat.completions.create(model=model, messages=hello)
            assert chat.choices[0].message.content
        file = await azure.files.create(file=chat_lines(2), purpose="batch")
        batch = await azure.batches.create(
            input_file_id=file.id,
            endpoint="/chat/completions",  # type: ignore[arg-type] # as Azure names it
            completion_window="24h",
        )
        assert (await ended(azure, batch.id)).request_counts.completed == 2
        assert [model.id async for model in azure.models.list()]
    async with server.http() as http:
        body = {"model": "test-model", "messages": hello}
        for path, status in (
            ("/openai/v1/chat/completions", 200),
            ("/v1/deployments/some/name/chat/completions", 200),
            ("/openai/deployments/test-model/completions", 200),
            ("/openai/deployments/test-model/nothing", 404),
            ("/openai", 404),
            ("/openai//", 404),
        ):
            assert (await http.post(path, json=body)).status_code == status, path
    assert {call.url for call in server.upstream.calls} == {
        "http://played.invalid/v1/chat/completions",
        "http://played.invalid/v1/completions",
    }


async def test_an_error_of_ours_is_a_500_that_says_nothing_of_its_cause(
    server: Any, monkeypatch: Any
) -> None:
    def fail() -> Any:
        raise RuntimeError("secret /etc/path")

    monkeypatch.setattr(server.engine.router, "models", fail)
    with capture_logs() as logs:
        async with server.http() as http:
            answer = await http.get("/v1/models")

    assert answer.status_code == 500
    assert logs[-1]["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"


async def test_health_readiness_and_metrics_need_no_key(server: Any) -> None:
    async with server.http(None) as http:
        health = await http.get("/healthz")
        ready = await http.get("/readyz")
        await http.get("/nobody/made/this/path")
        server.engine.failed.set()
        broken = await http.get("/readyz")
        metrics = (await http.get("/metrics")).text

    assert health.json() == {"status": "ok"}
    assert ready.status_code == 200
    assert broken.status_code == 503
    assert "restart" in broken.json()["reason"]
    for line in (
        'batchwright_http_requests_total{method="GET",route="/healthz",status="200"} 1.0',
        'batchwright_lane_max_concurrency{lane="builtin"} 50.0',
        "batchwright_engine_failed 1.0",
        "batchwright_disk_free_bytes ",
    ):
        assert line in metrics
    assert "nobody" not in metrics


async def test_the_root_page_shows_the_base_url_and_runs_nothing(tmp_path: Any) -> None:
    settings = ServerSettings(rehearse=True, public_url="https://batch.example/<x>")
    async with running_server(tmp_path, settings) as server, server.http(None) as http:
        page = await http.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert "https://batch.example/&lt;x&gt;/v1" in page.text
    assert "rehearses" in page.text
    assert "<script" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
