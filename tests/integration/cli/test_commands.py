"""The commands that ask a server, against a real one."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchwright.cli.app import app
from batchwright.cli.edge import run
from batchwright.client import BatchProcessor
from batchwright_process import Served, command, environment
from fake_openai_batch import FakeBatch, FakeOpenAI, http_failure, success


@pytest.fixture
def ask(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process, in the server's folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(served.folder)
    for name in ("BATCHWRIGHT_API_KEY", "BATCHWRIGHT_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def ask(*arguments: str) -> tuple[int, str, str]:
        code = run(app, arguments)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return ask


def write_requests(path: Path, *bodies: dict[str, Any]) -> Path:
    """A file of batch requests to `builtin/echo`."""
    with path.open("w") as target:
        for number, body in enumerate(bodies):
            filled = {"model": "builtin/echo", **body}
            filled.setdefault("messages", [{"role": "user", "content": f"text {number}"}])
            request = {
                "custom_id": f"r{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": filled,
            }
            target.write(json.dumps(request) + "\n")
    return path


BAD = {"frequency_penalty": 99}  # passes validation, is refused by the model


def test_a_batch_is_submitted_waited_for_and_its_results_written(ask: Any, tmp_path: Path) -> None:
    code, batch_id, hint = ask("submit", str(write_requests(tmp_path / "in.jsonl", {}, {}, {})))
    assert (code, hint) == (0, f"batchwright wait {batch_id}")
    assert ask("wait")[0] == 0

    code, out, _ = ask("status", "--json")
    assert json.loads(out)["id"] == batch_id.strip()
    assert json.loads(out)["request_counts"] == {"total": 3, "completed": 3, "failed": 0}

    code, _, err = ask("results", "-o", str(tmp_path / "out.jsonl"))
    assert code == 0
    assert "3 lines in" in err
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {each["custom_id"] for each in results} == {"r0", "r1", "r2"}
    assert not (tmp_path / "out.errors.jsonl").exists()


def test_failed_requests_are_told_by_exit_code_and_file_and_can_be_retried(
    ask: Any, tmp_path: Path
) -> None:
    source = write_requests(tmp_path / "in.jsonl", {}, BAD)
    code, out, err = ask("submit", str(source), "--wait")
    batch_id = out.strip()
    assert code == 3
    assert f"{batch_id}  completed\n" in err
    assert "2 of 2 done, 1 failed" in err

    assert ask("results", batch_id, "-o", str(tmp_path / "out.jsonl"))[0] == 3
    assert "r1" in (tmp_path / "out.errors.jsonl").read_text()
    code, out, _ = ask("results", batch_id)
    assert [json.loads(line)["custom_id"] for line in out.splitlines()] == ["r0", "r1"]

    code, out, _ = ask("status", batch_id, "--why")
    assert "2 of 2 done, 1 failed" in out
    assert "HTTP 400: r1: Invalid 'frequency_penalty'" in out

    code, out, _ = ask("retry", batch_id)
    assert code == 0
    assert ask("wait", out.strip())[0] == 3


def test_results_of_a_batch_with_its_retry_have_each_request_once(ask: Any, tmp_path: Path) -> None:
    first = ask("submit", str(write_requests(tmp_path / "in.jsonl", {}, BAD)), "--wait")[1].strip()
    retry = ask("retry", first)[1].strip()
    ask("wait", retry)

    ask("results", f"{first},{retry}", "-o", str(tmp_path / "out.jsonl"))
    printed = ask("results", f"{first},{retry}")[1].splitlines()

    written = [(tmp_path / name).read_text() for name in ("out.jsonl", "out.errors.jsonl")]
    assert "".join(written).splitlines() == printed
    assert [json.loads(line)["custom_id"] for line in printed] == ["r0", "r1"]


def test_answers_of_a_retry_take_the_place_of_failures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def script(batch: FakeBatch) -> None:
        good, bad = batch.requests[:1], batch.requests[1:]
        batch.finish([success(each) for each in good], [http_failure(each) for each in bad])

    with FakeOpenAI(script) as server:
        processor = BatchProcessor(server.api_key, server.base_url)
        processor.run(["a", "b"], None, "m", poll_interval=0.001)
        processor.retry_failed("batch_1", 0.001)
        where = ("--base-url", server.base_url, "--api-key", server.api_key)
        run(app, ["results", "batch_1,batch_2", "-o", str(tmp_path / "out.jsonl"), *where])

    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == ["request-1", "request-2"]
    assert not (tmp_path / "out.errors.jsonl").exists()


def test_results_leave_files_alone_that_they_did_not_write(ask: Any, tmp_path: Path) -> None:
    ask("submit", str(write_requests(tmp_path / "in.jsonl", {})), "--wait")
    for name in ("out.errors.jsonl", "out.jsonl.part"):
        (tmp_path / name).write_text("mine")

    code, _, err = ask("results", "-o", str(tmp_path / "out.jsonl"))

    assert code == 0
    assert "out.errors.jsonl was there before: nothing failed here" in err
    assert [path.read_text() for path in tmp_path.glob("out.*") if path.name != "out.jsonl"] == [
        "mine"
    ] * 2


def test_an_input_that_is_refused_is_told_by_line(ask: Any, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "in.jsonl", {}, {"model": "no-such-model"})

    code, _, err = ask("submit", str(source), "--wait")

    assert code == 2
    assert "line 2: The model 'no-such-model' is not served" in err

    code, out, err = ask("results")
    assert (code, out) == (2, "")
    assert "failed validation: line 2: The model 'no-such-model' is not served" in err
    assert "hint: mend these lines and submit again" in err

    code, _, err = ask("results", "-o", str(tmp_path / "out.jsonl"))
    assert (code, "failed validation: line 2" in err) == (2, True)
    assert not (tmp_path / "out.jsonl").exists()

    code, _, err = ask("retry")
    assert "was refused, so none of its requests ran. Correct the lines" in err


def test_a_cancelled_batch_has_its_exit_code(ask: Any, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "in.jsonl", *[{}] * 2000)
    batch_id = ask("submit", str(source))[1].strip()

    code, out, err = ask("cancel", batch_id)
    ended = ask("wait", batch_id)[0]

    # It may have ended before the cancel came.
    assert (code, ended) == (0, 4) or "completed" in out + err


def test_a_batch_is_given_a_priority_paused_and_resumed(ask: Any, tmp_path: Path) -> None:
    source = write_requests(tmp_path / "in.jsonl", *[{}] * 10_000)
    batch_id = ask("submit", str(source), "--priority", "low")[1].strip()
    code, out, err = ask("pause")
    assert (code, out) == (0, f"{batch_id}  {state_of(out)}, paused, low\n"), err

    code, out, _ = ask("priority", batch_id, "high", "--json")
    assert (code, json.loads(out)["batchwright"]["priority"]) == (0, "high")
    assert ", paused, high\n" in ask("status", batch_id)[1]
    assert ", paused, high\t" in ask("list")[1]
    assert ask("status", "--why")[1].count("held back by    it is paused") == 1

    code, out, _ = ask("resume", batch_id)
    assert (code, out) == (0, f"{batch_id}  {state_of(out)}, high\n")
    assert ask("wait")[0] == 0
    code, _, err = ask("pause", batch_id)
    assert (code, "Cannot pause a batch with status 'completed'" in err) == (1, True)


def test_resume_takes_the_newest_batch_that_is_paused_and_none_else(
    ask: Any, tmp_path: Path
) -> None:
    source = write_requests(tmp_path / "in.jsonl", *[{}] * 10_000)
    paused = ask("submit", str(source))[1].strip()
    ask("pause", paused)
    ask("submit", str(write_requests(tmp_path / "small.jsonl", {})), "--wait")

    code, out, _ = ask("resume")
    assert (code, out.split()[0]) == (0, paused)
    code, out, err = ask("resume")
    assert (code, out) == (2, "")
    assert "error: no batch is paused" in err
    assert ask("wait", paused)[0] == 0


def state_of(shown: str) -> str:
    """The state in a line like `batch_1  in_progress, paused`."""
    return shown.split()[1].rstrip(",")


def test_what_was_answered_is_copied_where_that_is_asked_for(ask: Any, tmp_path: Path) -> None:
    same = [{"messages": [{"role": "user", "content": "the same"}]}] * 3
    source = write_requests(tmp_path / "in.jsonl", *same)

    first = ask("submit", str(source), "--dedupe", "--cache", "1h", "--wait", "--json")
    second = ask("submit", str(source), "--cache", "1h", "--wait", "--json")
    shown = ask("status")[1]
    code, _, err = ask("submit", str(source), "--cache", "366d")

    saved = [json.loads(ended[1])[0]["batchwright"]["savings"] for ended in (first, second)]
    assert [each["requests"] for each in saved] == [2, 3]
    assert "  saved           3 requests, " in shown
    assert (code, "--cache: expected a span from 1s to 365d" in err) == (2, True)


def test_a_priority_that_is_none_is_refused_before_anything_is_sent(
    ask: Any, tmp_path: Path
) -> None:
    source = write_requests(tmp_path / "in.jsonl", {})

    for arguments in (["priority", "batch_1", "top"], ["submit", str(source), "--priority", "top"]):
        code, _, err = ask(*arguments)
        assert (code, "'low', 'normal', 'high'" in err) == (2, True), err


def test_lists_show_the_newest_first_and_as_json(ask: Any, tmp_path: Path) -> None:
    batch_id = ask("submit", str(write_requests(tmp_path / "in.jsonl", {})), "--wait")[1].strip()

    assert ask("list", "--limit", "1")[1].startswith(f"{batch_id}\tcompleted\t1/1\t0\t")
    assert json.loads(ask("list", "--limit", "1", "--json")[1])[0]["id"] == batch_id
    assert "builtin/echo\tbuiltin" in ask("models")[1]


def test_files_are_uploaded_listed_downloaded_and_deleted(
    ask: Any, served: Served, tmp_path: Path
) -> None:
    source = write_requests(tmp_path / "some.jsonl", {})
    file_id = ask("files", "upload", str(source))[1].strip()

    assert file_id in ask("files", "list", "--purpose", "batch")[1]
    assert ask("files", "download", file_id)[0] == 0
    assert (served.folder / "some.jsonl").read_bytes() == source.read_bytes()
    code, _, err = ask("files", "download", file_id)
    assert (code, "is there already" in err) == (2, True)
    assert ask("files", "delete", file_id)[:2] == (0, f"{file_id}  deleted\n")
    assert ask("files", "download", file_id, "-o", str(tmp_path / "x"))[0] == 1


def test_a_key_is_made_used_and_revoked(ask: Any) -> None:
    code, token, err = ask("keys", "create", "ann", "--tenant", "team-a")
    assert code == 0
    key_id = err.split()[1].rstrip(",")
    assert key_id in ask("keys", "list")[1]

    assert ask("models", "--api-key", token.strip())[0] == 0
    assert ask("keys", "list", "--api-key", token.strip())[0] == 1
    assert ask("keys", "revoke", key_id)[0] == 0
    code, _, err = ask("models", "--api-key", token.strip())
    assert (code, "does not take the key of --api-key" in err) == (1, True)
    assert "hint: pass a key of that server with --api-key" in err
    assert token.strip() not in err
    assert "hint: batchwright keys list" in ask("keys", "revoke", "nothing")[2]


def test_what_the_server_refuses_names_the_argument(ask: Any, tmp_path: Path) -> None:
    code, _, err = ask("keys", "create", "ann", "--role", "king")

    assert code == 2
    assert "role: Invalid value: 'king'" in err
    assert "hint: batchwright keys create --help" in err


def test_nothing_is_uploaded_where_the_window_or_the_file_is_wrong(
    ask: Any, tmp_path: Path
) -> None:
    source = write_requests(tmp_path / "unsent.jsonl", {})
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")

    code, _, err = ask("submit", str(source), "--window", "5x")
    assert (code, "Invalid value: '5x'" in err) == (2, True)
    code, _, err = ask("submit", str(tmp_path / "rows.csv"))
    assert (code, "expected batch requests (JSONL)" in err) == (2, True)
    assert "unsent.jsonl" not in ask("files", "list")[1]


@pytest.mark.parametrize(
    ("output", "told"), [("nowhere/x.jsonl", "a folder that exists"), (".", "the name of a file")]
)
def test_results_need_a_place(ask: Any, output: str, told: str) -> None:
    code, _, err = ask("results", "-o", output)

    assert (code, f"--output: expected {told}, got" in err) == (2, True)


def test_an_empty_list_says_how_to_fill_it(ask: Any) -> None:
    token = ask("keys", "create", "new", "--tenant", "new")[1].strip()

    code, out, err = ask("list", "--api-key", token)
    assert (code, out) == (0, "")
    assert "no batch yet; make one with: batchwright submit FILE" in err
    assert "no file; upload one" in ask("files", "list", "--api-key", token)[2]
    assert ask("list", "--json", "--api-key", token)[1:] == ("[]\n", "")


def test_the_library_finds_the_server_and_its_key_as_the_commands_do(ask: Any) -> None:
    with BatchProcessor(progress=False) as processor:
        results = processor.run(["hello"], model="builtin/echo")

    assert [result["response"] for result in results] == ["hello"]


def test_nothing_by_an_id_is_told_in_one_line(ask: Any) -> None:
    code, out, err = ask("status", "batch_nothing")

    assert (code, out) == (1, "")
    assert err.splitlines()[0] == "error: No batch found with id 'batch_nothing'."


def test_a_server_that_is_not_there_is_told_with_a_hint(tmp_path: Path) -> None:
    # Port 9 is not listened to. A process of its own: it also has to end well.
    found = command(["models", "--base-url", "http://127.0.0.1:9/v1"], tmp_path)

    assert found.returncode == 1
    assert found.stderr.startswith("error: No server at http://127.0.0.1:9/v1")
    assert "hint: start one with: batchwright serve" in found.stderr


def test_config_shows_values_with_their_origin_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "batchwright.toml").write_text("[server]\nport = 9\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")

    assert run(app, ["config", "--json"]) == 0

    shown = capsys.readouterr()
    assert "canary" not in shown.out + shown.err
    settings = json.loads(shown.out)["settings"]
    assert settings["server.port"] == {"value": 9, "origin": str(tmp_path / "batchwright.toml")}
    assert settings["providers.openai.api_key"]["origin"] == "OPENAI_API_KEY"


def test_wrong_settings_are_told_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "batchwright.toml").write_text("[server]\nprot = 9\nhost = 1\n")
    monkeypatch.chdir(tmp_path)

    assert run(app, ["config"]) == 2

    err = capsys.readouterr().err
    assert "nearest: server.port" in err
    assert "server.host: expected a text, got 1" in err


def test_the_sandbox_answers_and_stops(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "batchwright", "sandbox", "--port", "0", "--latency", "1ms"],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "127.0.0.1" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_a_wrong_option_of_the_sandbox_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["sandbox", "--fail-rate", "2"]) == 2
    err = capsys.readouterr().err
    assert "--fail-rate: expected 0 to 1, got 2" in err
    assert "hint: batchwright sandbox --help" in err


def test_a_port_that_the_sandbox_cannot_have_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        assert run(app, ["sandbox", "--port", str(taken.getsockname()[1])]) == 2

    assert "error: --host, --port: " in capsys.readouterr().err
