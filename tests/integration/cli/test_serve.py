"""`batchwright serve` from its start to its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import structlog

from batchwright.cli.app import app
from batchwright.cli.edge import run
from batchwright.domain.errors import StorageError
from batchwright.engine.engine import Engine
from batchwright_process import STOP_TIMEOUT_S, command, environment, serving


def call(url: str, key: str | None = None, body: object = None) -> Any:
    """The JSON answer to a GET, or to a POST where there is a body."""
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def test_it_is_ready_when_it_says_so_and_owns_its_data_directory(tmp_path: Path) -> None:
    announced = tmp_path / "batchwright-data" / "base_url"
    with serving(tmp_path) as server:
        assert call(server.base_url.removesuffix("/v1") + "/readyz")["status"] == "ready"
        assert announced.read_text() == server.base_url + "\n"

        second = command(["serve", "--port", "0"], tmp_path)
        assert second.returncode == 1
        assert f"is in use by process {server.process.pid} on" in second.stderr
        assert "hint: stop that process" in second.stderr

        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(STOP_TIMEOUT_S) == 0
    assert not announced.exists()

    with serving(tmp_path) as again:
        assert again.admin_key is None  # it was told the first time
        assert call(f"{again.base_url}/models", server.admin_key)["data"]
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(STOP_TIMEOUT_S) == 0


def test_a_given_admin_key_opens_the_server_and_is_not_told(tmp_path: Path) -> None:
    key = "operators-choice-" * 3
    meant = {"BATCHWRIGHT_ADMIN_KEY": key, "BATCHWRIGHT_SERVER__BEHIND_PROXY": "true"}
    with serving(tmp_path, "--host", "0.0.0.0", **meant) as server:
        assert server.admin_key is None
        assert server.base_url.startswith("http://127.0.0.1:")
        assert call(f"{server.base_url}/batchwright/keys", key)["data"]
        found = command(["models"], tmp_path, BATCHWRIGHT_ADMIN_KEY=key)

    assert found.returncode == 0
    assert key not in (tmp_path / "serve.log").read_text()


def test_a_rehearsal_needs_no_provider_key_and_shows_a_person_what_to_write(
    tmp_path: Path,
) -> None:
    (tmp_path / "batchwright.toml").write_text("[providers.openai]\n")
    arguments = ["serve", "--rehearse", "--port", "0", "--data-dir", "d"]
    with subprocess.Popen(
        [sys.executable, "-m", "batchwright", *arguments],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        shown: list[str] = []
        while not (shown and shown[-1].startswith("ready ")):
            shown.append(process.stdout.readline().rstrip("\n"))
        base_url = shown[-1].removeprefix("ready ")
        key = (tmp_path / "d-rehearsal" / "admin.key").read_text().strip()
        asked = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
        answer = call(f"{base_url}/chat/completions", key, asked)
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0

    assert answer["object"] == "chat.completion"
    text = "\n".join(shown)
    assert f"data directory  {tmp_path / 'd-rehearsal'}" in text
    assert f'client = OpenAI(base_url="{base_url}", api_key="{key}")' in text


# What is refused before anything is started


def refusal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> str:
    monkeypatch.chdir(folder)
    assert run(app, ["serve", *more]) == 2
    assert not (folder / "batchwright-data").exists()
    return capsys.readouterr().err


def test_a_port_in_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        err = refusal(tmp_path, monkeypatch, capsys, "--port", str(port))

    assert f"cannot listen on 127.0.0.1 port {port}" in err
    assert "hint: choose another with --port" in err


def test_an_address_that_others_reach_needs_encryption_or_a_word_that_it_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refusal(tmp_path, monkeypatch, capsys, "--host", "0.0.0.0", "--port", "0")

    assert "server.behind_proxy = true" in err


def test_a_provider_without_its_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "batchwright.toml").write_text("[providers.openai]\n")

    err = refusal(tmp_path, monkeypatch, capsys, "--port", "0")

    assert "providers.openai.api_key: expected the variable OPENAI_API_KEY to be set" in err


def test_a_provider_that_is_the_server_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "batchwright.toml").write_text("[providers.vllm]\n")

    err = refusal(tmp_path, monkeypatch, capsys, "--port", "8000")

    assert "providers.vllm.base_url: expected another address than that of this server" in err
    assert "it would send its requests to itself. Choose another port" in err


# An engine that failed


def test_a_failed_engine_ends_the_server_with_a_plain_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_start = Engine.start

    async def start_and_fail(engine: Engine) -> None:
        await real_start(engine)
        engine.failure = StorageError("cannot sync batches/b/1/output: Input/output error")
        engine.failed.set()

    monkeypatch.setattr(Engine, "start", start_and_fail)
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    try:
        code = run(app, ["serve", "--port", "0"])
    finally:
        os.umask(before)
        structlog.reset_defaults()

    assert code == 1
    shown = capsys.readouterr().err
    assert "error: cannot sync batches/b/1/output: Input/output error" in shown
    assert "Traceback" not in shown
