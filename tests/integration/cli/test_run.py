from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
import typer

from batchwright.cli import edge
from batchwright.cli.check import check
from batchwright.cli.run import run
from batchwright.cli.verify import verify
from batchwright.local.state import open_state, state_folder_of
from sandbox_process import SandboxProcess

app = typer.Typer()
for command in (run, check, verify):
    app.command()(command)

CHAT = "/v1/chat/completions"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Batchwright = Callable[..., Ended]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess() as process:
        yield process


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batchwright.toml").write_text("[limits]\nreserve_mb = 0\n")
    return tmp_path


@pytest.fixture
def batchwright(capsys: pytest.CaptureFixture[str]) -> Batchwright:
    def call(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        code = edge.run(app, [str(each) for each in arguments])
        return Ended(code, *capsys.readouterr())

    return call


def configure(folder: Path, sandbox: SandboxProcess, *, max_attempts: int = 5) -> None:
    """The sandbox is the only provider; it serves every model name that is used here."""
    (folder / "batchwright.toml").write_text(
        f"[limits]\nreserve_mb = 0\nmax_attempts = {max_attempts}\n"
        f'[providers.upstream]\nkind = "openai"\nbase_url = "{sandbox.base_url}"\n'
        'models = ["m", "sandbox/*"]\n'
    )


def request(custom_id: str, text: str, model: str = "m", url: str = CHAT) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write_requests(path: Path, requests: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in requests))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def calls_of(sandbox: SandboxProcess) -> int:
    """The calls up to now. The ledger is written in order: once a call of ours stands in it, all
    that came before stand in it too."""
    marker = json.dumps(request("marker", uuid4().hex)["body"]).encode()
    asked = Request(f"{sandbox.base_url}/chat/completions", marker)
    asked.add_header("content-type", "application/json")
    with urlopen(asked, timeout=10) as answer:
        answer.read()
    digest = sha256(marker).hexdigest()
    rows: list[dict[str, Any]] = []
    while not rows or rows[-1]["sha256"] != digest:
        rows = sandbox.ledger()
    marked.add(digest)
    return sum(row["sha256"] not in marked for row in rows)


marked: set[str] = set()


def reviews(folder: Path) -> Path:
    path = folder / "reviews.csv"
    path.write_text("zip,review\n02139,I love it\n00501,It is awful\n10001,\n")
    return path


SENTIMENT = ("--model", "builtin/sentiment", "--prompt", "{review}")


def test_rows_come_back_in_order_with_their_cells_as_they_were(
    batchwright: Batchwright, folder: Path
) -> None:
    ended = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")

    assert ended.code == 0
    lines = (folder / "out.csv").read_text().splitlines()
    assert lines[0] == "zip,review,answer,tokens,error"
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["02139", "I love it", "positive"],
        ["00501", "It is awful", "negative"],
        ["10001", "", "neutral"],
    ]
    assert "3 of 3 answered" in ended.out


def test_without_a_name_the_output_is_beside_the_input(
    batchwright: Batchwright, folder: Path
) -> None:
    ended = batchwright("run", reviews(folder), *SENTIMENT)

    assert ended.code == 0
    assert (folder / "reviews.answers.csv").exists()


def test_the_state_is_named_as_seen_from_the_working_folder(
    batchwright: Batchwright, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    near = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    assert "state   out.csv.batchwright/\n" in near.out
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "out.csv"
    far = batchwright("run", reviews(folder), *SENTIMENT, "-o", elsewhere)
    assert f"state   {elsewhere}.batchwright/\n" in far.out


def test_parquet_comes_out_with_vectors(batchwright: Batchwright, folder: Path) -> None:
    import polars

    asked = ("--model", "builtin/embedding", "--embed", "zip", "-p", "dimensions=8")
    ended = batchwright("run", reviews(folder), *asked, "-o", "out.parquet")

    assert ended.code == 0
    frame = polars.read_parquet(folder / "out.parquet")
    assert frame.columns == ["zip", "review", "embedding", "tokens", "error"]
    assert [len(vector) for vector in frame["embedding"]] == [8, 8, 8]


def test_a_finished_run_says_so_and_sends_nothing(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    source = write_requests(folder / "in.jsonl", [request("a", "finished 1")])
    asked = ("run", source, "-o", "out.jsonl")
    batchwright(*asked)
    calls, written = calls_of(sandbox), (folder / "out.jsonl").read_bytes()

    ended = batchwright(*asked)

    assert ended.code == 0
    assert "finished already" in ended.out
    assert calls_of(sandbox) == calls
    assert (folder / "out.jsonl").read_bytes() == written


def test_a_lost_output_is_written_again_from_the_state(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    source = write_requests(folder / "in.jsonl", [request("a", "lost 1"), request("b", "lost 2")])
    asked = ("run", source, "-o", "out.jsonl")
    batchwright(*asked)
    calls, written = calls_of(sandbox), (folder / "out.jsonl").read_bytes()
    (folder / "out.jsonl").unlink()

    ended = batchwright(*asked)

    assert ended.code == 0
    assert (folder / "out.jsonl").read_bytes() == written
    assert calls_of(sandbox) == calls


def test_another_prefix_writes_the_output_again(batchwright: Batchwright, folder: Path) -> None:
    asked = ("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    batchwright(*asked)

    ended = batchwright(*asked, "--prefix", "ai_")

    assert ended.code == 0
    assert (folder / "out.csv").read_text().startswith("zip,review,ai_answer,ai_tokens,ai_error\n")


def test_a_changed_run_is_refused_and_says_what_differs(
    batchwright: Batchwright, folder: Path
) -> None:
    batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    written = (folder / "out.csv").read_bytes()

    ended = batchwright(
        "run", "reviews.csv", "--model", "builtin/echo", "--prompt", "{review}", "-o", "out.csv"
    )

    assert ended.code == 2
    assert 'The model was "builtin/sentiment" and is "builtin/echo" now.' in ended.err
    assert "--restart" in ended.err
    assert (folder / "out.csv").read_bytes() == written


def test_restart_forgets_the_earlier_run(batchwright: Batchwright, folder: Path) -> None:
    batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")

    echo = ("--model", "builtin/echo", "--prompt", "{review}", "-o", "out.csv")
    ended = batchwright("run", "reviews.csv", *echo, "--restart")

    assert ended.code == 0
    assert "02139,I love it,I love it," in (folder / "out.csv").read_text()


def test_a_file_of_somebody_else_is_only_overwritten_by_force(
    batchwright: Batchwright, folder: Path
) -> None:
    (folder / "out.csv").write_text("mine")
    asked = ("run", reviews(folder), *SENTIMENT, "-o", "out.csv")

    refused = batchwright(*asked)
    kept = (folder / "out.csv").read_text()
    forced = batchwright(*asked, "--force")

    assert (refused.code, kept) == (2, "mine")
    assert "--force" in refused.err
    assert forced.code == 0
    assert "positive" in (folder / "out.csv").read_text()


def test_a_refused_run_leaves_nothing(batchwright: Batchwright, folder: Path) -> None:
    (folder / "out.csv").write_text("mine")

    refused = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")

    assert refused.code == 2
    assert not state_folder_of(folder / "out.csv").exists()


def test_an_output_that_was_edited_is_only_overwritten_by_force(
    batchwright: Batchwright, folder: Path
) -> None:
    asked = ("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    batchwright(*asked)
    edited = (folder / "out.csv").read_text() + "my own line\n"
    (folder / "out.csv").write_text(edited)

    same = batchwright(*asked)
    other = batchwright(*asked, "--prefix", "ai_")
    anew = batchwright(*asked, "--restart")
    kept = (folder / "out.csv").read_text()
    forced = batchwright(*asked, "--prefix", "ai_", "--force")

    assert (same.code, other.code, anew.code, kept) == (0, 2, 2, edited)
    assert "was changed after it was written" in other.err
    assert forced.code == 0
    assert "my own line" not in (folder / "out.csv").read_text()


def test_a_file_that_force_gave_up_stays_given_up_where_the_run_is_stopped(
    batchwright: Batchwright, folder: Path
) -> None:
    (folder / "out.csv").write_text("mine")
    asked = ("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    assert batchwright(*asked, "--model", "builtin/none", "--force").code == 2

    assert batchwright(*asked).code == 0


@pytest.mark.parametrize("model", ["nobody", "m"])
def test_a_restart_that_cannot_begin_keeps_the_answers_that_there_are(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess, model: str
) -> None:
    configure(folder, sandbox)
    good = request("a", "kept by a restart")
    source = write_requests(folder / "in.jsonl", [good])
    asked = ("run", source, "-o", "out.jsonl")
    batchwright(*asked)
    written, calls = (folder / "out.jsonl").read_bytes(), calls_of(sandbox)

    write_requests(source, [request("b", "x", model), {"custom_id": "c"}])
    refused = batchwright(*asked, "--restart")
    write_requests(source, [good])
    (folder / "out.jsonl").unlink()
    again = batchwright(*asked)

    assert (refused.code, again.code) == (2, 0)
    assert (folder / "out.jsonl").read_bytes() == written
    assert calls_of(sandbox) == calls
    assert [path.name for path in folder.glob("out.jsonl.batchwright/engine*")] == ["engine"]


def test_a_restart_drops_the_earlier_answers_when_it_has_begun(
    batchwright: Batchwright, folder: Path
) -> None:
    asked = ("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    batchwright(*asked)

    for _ in range(2):
        assert batchwright(*asked, "--restart").code == 0

    assert len(list(folder.glob("out.csv.batchwright/engine*"))) == 1
    assert "finished already" in batchwright(*asked).out


def test_a_state_that_cannot_be_read_is_only_forgotten_by_restart(
    batchwright: Batchwright, folder: Path
) -> None:
    asked = ("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    batchwright(*asked)
    (folder / "out.csv.batchwright" / "run.json").write_text("{")

    refused = batchwright(*asked)
    anew = batchwright(*asked, "--restart")

    assert (refused.code, anew.code) == (1, 0)
    assert "--restart" in refused.err
    assert "finished already" in batchwright(*asked).out


def test_what_a_restart_left_half_way_goes(batchwright: Batchwright, folder: Path) -> None:
    asked = ("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    batchwright(*asked)
    (folder / "out.csv.batchwright" / "engine-2").mkdir()
    (folder / "out.csv").unlink()

    assert batchwright(*asked).code == 0
    assert [path.name for path in folder.glob("out.csv.batchwright/engine*")] == ["engine"]


def test_failures_go_to_a_file_of_their_own_and_are_grouped_by_cause(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    requests = [request(f"bad-{i}", f"bad {i}", "sandbox/status-400") for i in range(3)]
    source = write_requests(folder / "in.jsonl", [request("good", "good"), *requests])

    ended = batchwright("run", source, "-o", "out.jsonl")
    verified = batchwright("verify", source, "out.jsonl")

    assert ended.code == 3
    assert "1 of 4 answered, 3 failed" in ended.out
    assert "3 × 400: " in ended.out
    assert "(line 2)" in ended.out
    failed = read_lines(folder / "out.errors.jsonl")
    assert [line["custom_id"] for line in failed] == ["bad-0", "bad-1", "bad-2"]
    assert verified.code == 0


def test_retry_failed_runs_the_failures_alone_and_keeps_the_other_answers(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox, max_attempts=1)
    source = write_requests(
        folder / "in.jsonl",
        [
            request("a", "retry a"),
            request("b", "retry b", "sandbox/flaky-1"),
            request("c", "retry c"),
            request("d", "retry d", "sandbox/status-400"),
            request("e", "retry e", "sandbox/flaky-1"),
        ],
    )
    asked = ("run", source, "-o", "out.jsonl")
    first = batchwright(*asked)
    before = {line["custom_id"]: line for line in read_lines(folder / "out.jsonl")}
    calls = calls_of(sandbox)

    second = batchwright(*asked, "--retry-failed")

    after = {line["custom_id"]: line for line in read_lines(folder / "out.jsonl")}
    assert (first.code, sorted(before)) == (3, ["a", "c"])
    assert (second.code, list(after)) == (3, ["a", "b", "c", "e"])
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    assert [line["custom_id"] for line in read_lines(folder / "out.errors.jsonl")] == ["d"]
    assert calls_of(sandbox) == calls + 3
    assert batchwright("verify", source, "out.jsonl").code == 0
    again = batchwright(*asked)
    assert (again.code, "4 of 5 answered, 1 failed" in again.out) == (3, True)
    assert batchwright(*asked, "--json").code == 3


def test_a_retry_that_nobody_serves_any_more_keeps_the_answers_that_there_are(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    bad = request("b", "not served", "sandbox/status-400")
    source = write_requests(folder / "in.jsonl", [request("a", "kept"), bad])
    asked = ("run", source, "-o", "out.jsonl")
    batchwright(*asked)
    written = (folder / "out.jsonl").read_bytes()
    settings = folder / "batchwright.toml"
    settings.write_text(settings.read_text().replace('"sandbox/*"', '"other"'))

    refused = batchwright(*asked, "--retry-failed")
    (folder / "out.jsonl").unlink()
    ended = batchwright(*asked)

    assert refused.code == 2
    assert "cannot be run again" in refused.err
    assert ended.code == 3
    assert (folder / "out.jsonl").read_bytes() == written


def test_nothing_is_retried_where_nothing_failed(batchwright: Batchwright, folder: Path) -> None:
    asked = ("run", reviews(folder), *SENTIMENT, "-o", "out.csv")
    batchwright(*asked)

    ended = batchwright(*asked, "--retry-failed")

    assert ended.code == 0
    assert "Nothing was sent" in ended.out


def test_a_bad_line_stops_the_run_before_anything_is_sent_and_a_corrected_input_just_runs(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    calls = calls_of(sandbox)
    bad = {**request("b", "x"), "method": "GET"}
    source = write_requests(folder / "in.jsonl", [request("a", "corrected"), bad])

    refused = batchwright("run", source, "-o", "out.jsonl")
    sent = calls_of(sandbox) - calls
    left = sorted(path.name for path in folder.iterdir())
    write_requests(source, [request("a", "corrected"), request("b", "corrected too")])
    ended = batchwright("run", source, "-o", "out.jsonl")

    assert (refused.code, sent) == (2, 0)
    assert "line 2: " in refused.err
    assert "invalid_method" in refused.err
    assert left == ["batchwright.toml", "in.jsonl"]
    assert ended.code == 0


def test_requests_to_two_endpoints_are_refused(batchwright: Batchwright, folder: Path) -> None:
    other = request("b", "x", url="/v1/embeddings")
    source = write_requests(folder / "in.jsonl", [request("a", "x", "builtin/echo"), other])

    ended = batchwright("run", source, "-o", "out.jsonl")

    assert ended.code == 2
    assert "line 2: The url must be the endpoint of the batch" in ended.err


def test_a_model_that_nobody_serves_is_told_in_one_line(
    batchwright: Batchwright, folder: Path
) -> None:
    ended = batchwright("run", reviews(folder), "--model", "nobody", "--prompt", "{review}")

    assert ended.code == 2
    told = [line for line in ended.err.splitlines() if "nobody" in line]
    assert len(told) == 1
    assert told[0].startswith("error: nothing was sent: The model 'nobody'")
    assert "Every row asks for it" in told[0]


def test_a_fault_of_thousands_of_lines_is_told_once(batchwright: Batchwright, folder: Path) -> None:
    requests = [request(f"r{number}", "x", "nobody") for number in range(1500)]
    source = write_requests(folder / "in.jsonl", requests)

    ended = batchwright("run", source, "-o", "out.jsonl")

    assert ended.code == 2
    assert ended.err.count("'nobody' is not served") == 1
    assert "line 1: The model 'nobody'" in ended.err
    assert "and 999 more lines\n1,500 lines are wrong; the first 1,000 of them" in ended.err


def test_a_state_that_cannot_be_kept_is_told_before_anything_is_sent(
    batchwright: Batchwright, folder: Path
) -> None:
    (folder / "out.csv.batchwright").write_text("somebody's file")

    ended = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")

    assert ended.code == 2
    assert "out.csv.batchwright is where the state of this run belongs" in ended.err
    assert "name another output with -o" in ended.err


def test_a_price_that_is_not_known_is_told_as_such(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    asked = ("run", reviews(folder), "--model", "m", "--prompt", "{review}")

    assert "cost    unknown" in batchwright(*asked, "-o", "a.csv").out
    assert json.loads(batchwright(*asked, "-o", "b.csv", "--json").out)["cost"] is None

    free = (*asked[:2], *SENTIMENT)
    assert "cost    $0\n" in batchwright(*free, "-o", "c.csv").out
    assert json.loads(batchwright(*free, "-o", "d.csv", "--json").out)["cost"] == 0


def test_a_dry_run_shows_the_first_request_and_sends_none(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    calls = calls_of(sandbox)

    asked = ("--model", "m", "--prompt", "Say: {review}", "--system", "Be brief")
    ended = batchwright("run", reviews(folder), *asked, "--dry-run")

    assert ended.code == 0
    assert "requests  3" in ended.out
    assert "served by upstream" in ended.out
    first = json.loads(ended.out[ended.out.index("{") :])
    assert first["body"]["messages"][-1] == {"role": "user", "content": "Say: I love it"}
    assert calls_of(sandbox) == calls
    assert sorted(path.name for path in folder.iterdir()) == ["batchwright.toml", "reviews.csv"]


def test_a_dry_run_counts_what_dedupe_would_send(batchwright: Batchwright, folder: Path) -> None:
    model = "builtin/echo"
    same = [request(name, "same", model) for name in "abc"]
    source = write_requests(folder / "in.jsonl", [*same, request("d", "other", model)])

    shown = batchwright("run", source, "--dry-run", "--dedupe")
    as_json = json.loads(batchwright("run", source, "--dry-run", "--dedupe", "--json").out)
    without = json.loads(batchwright("run", source, "--dry-run", "--json").out)

    assert "requests  4, of which 2 would be sent (dedupe)\n" in shown.out
    assert (as_json["requests"], as_json["would_be_sent"]) == (4, 2)
    assert without["would_be_sent"] == 4


def test_a_limit_takes_the_first_rows(batchwright: Batchwright, folder: Path) -> None:
    ended = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv", "--limit", "2")

    assert ended.code == 0
    assert len((folder / "out.csv").read_text().splitlines()) == 3


def test_another_model_for_ready_requests_is_said_aloud(
    batchwright: Batchwright, folder: Path
) -> None:
    source = write_requests(folder / "in.jsonl", [request("a", "hello")])

    ended = batchwright("run", source, "-o", "out.jsonl", "--model", "builtin/echo")

    assert ended.code == 0
    assert 'every request is sent with "builtin/echo"' in ended.err
    assert read_lines(folder / "out.jsonl")[0]["response"]["body"]["model"] == "builtin/echo"


def test_a_prompt_for_ready_requests_is_refused(batchwright: Batchwright, folder: Path) -> None:
    source = write_requests(folder / "in.jsonl", [request("a", "hello")])

    ended = batchwright("run", source, "--prompt", "{text}")

    assert ended.code == 2
    assert "--prompt is for rows" in ended.err


def test_a_missing_column_lists_the_columns(batchwright: Batchwright, folder: Path) -> None:
    ended = batchwright("run", reviews(folder), "--model", "m", "--prompt", "{reveiw}")

    assert ended.code == 2
    assert "the columns are: zip, review" in ended.err
    assert not (folder / "reviews.answers.csv.batchwright").exists()


def test_a_column_of_our_name_asks_for_a_prefix(batchwright: Batchwright, folder: Path) -> None:
    source = folder / "in.csv"
    source.write_text("review,answer\ngood,42\n")

    refused = batchwright("run", source, *SENTIMENT, "-o", "out.csv")
    ended = batchwright("run", source, *SENTIMENT, "-o", "out.csv", "--prefix", "ai_")

    assert refused.code == 2
    assert "--prefix" in refused.err
    assert ended.code == 0


def test_the_summary_is_json_for_scripts(batchwright: Batchwright, folder: Path) -> None:
    ended = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv", "--json")

    summary = json.loads(ended.out)
    assert (summary["total"], summary["completed"], summary["failed"]) == (3, 3, 0)
    assert summary["usage"]["output_tokens"] == 3
    assert summary["output"] == "out.csv"


def test_a_second_run_on_the_same_output_says_who_holds_it(
    batchwright: Batchwright, folder: Path
) -> None:
    import os

    with open_state(state_folder_of(folder / "out.csv")):
        ended = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")

    assert ended.code == 2
    assert f"in use by process {os.getpid()}" in ended.err


def test_a_state_folder_that_is_not_ours_is_left_alone(
    batchwright: Batchwright, folder: Path
) -> None:
    own = folder / "out.csv.batchwright"
    own.mkdir(mode=0o700)
    (own / "notes.txt").write_text("mine")

    ended = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")

    assert ended.code == 2
    assert [path.name for path in own.iterdir()] == ["notes.txt"]


def test_what_died_before_it_sent_anything_is_begun_anew(
    batchwright: Batchwright, folder: Path
) -> None:
    source = reviews(folder)
    batchwright("run", source, *SENTIMENT, "-o", "out.csv")
    manifest = folder / "out.csv.batchwright" / "run.json"
    state = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**state, "is_sent": False, "is_finished": False}))

    ended = batchwright(
        "run", source, "--model", "builtin/echo", "--prompt", "{review}", "-o", "out.csv"
    )

    assert ended.code == 0
    assert "I love it,I love it" in (folder / "out.csv").read_text()


def test_lost_answers_are_told_and_not_bought_again_in_silence(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    source = write_requests(folder / "in.jsonl", [request("a", "bought once")])
    asked = ("run", source, "-o", "out.jsonl")
    batchwright(*asked)
    calls = calls_of(sandbox)
    shutil.rmtree(folder / "out.jsonl.batchwright" / "engine")
    (folder / "out.jsonl").unlink()

    ended = batchwright(*asked)

    assert ended.code == 1
    assert "--restart" in ended.err
    assert calls_of(sandbox) == calls


def test_a_run_that_died_as_it_made_its_batch_makes_it_now(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    source = write_requests(folder / "in.jsonl", [request("a", "made now")])
    asked = ("run", source, "-o", "out.jsonl")
    batchwright(*asked)
    manifest = folder / "out.jsonl.batchwright" / "run.json"
    state = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**state, "batch_id": None, "is_finished": False}))
    shutil.rmtree(folder / "out.jsonl.batchwright" / "engine")

    ended = batchwright(*asked)

    assert ended.code == 0
    assert batchwright("verify", source, "out.jsonl").code == 0


def test_a_refused_key_ends_the_run_where_nothing_was_answered(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    source = write_requests(folder / "in.jsonl", [request("a", "x", "sandbox/status-401")])

    ended = batchwright("run", source, "-o", "out.jsonl")

    assert ended.code == 1
    assert "upstream" in ended.err
    assert not (folder / "out.jsonl").exists()


def test_requests_that_alone_are_refused_end_and_the_run_with_them(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    lines = [request(f"good-{n}", f"text {n}") for n in range(100)]
    for n, status in ((0, 403), (50, 402), (80, 401)):
        lines.insert(n, request(f"bad-{status}", "x", f"sandbox/status-{status}"))
    source = write_requests(folder / "in.jsonl", lines)

    ended = batchwright("run", source, "-o", "out.jsonl")

    assert ended.code == 3
    assert len((folder / "out.jsonl").read_text().splitlines()) == 100
    refused = [json.loads(line) for line in (folder / "out.errors.jsonl").read_text().splitlines()]
    assert {line["custom_id"]: line["response"]["status_code"] for line in refused} == {
        "bad-403": 403,
        "bad-402": 402,
        "bad-401": 401,
    }
    assert all("error" in line["response"]["body"] for line in refused)


def test_rows_without_an_answer_are_counted_apart(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    asked = ("--model", "sandbox/status-400", "--prompt", "{review}", "-o", "out.csv")

    ended = batchwright("run", reviews(folder), *asked)

    assert ended.code == 3
    assert "0 of 3 answered, 3 failed" in ended.out
    assert "(row 1)" in ended.out


def test_check_counts_and_names_models(batchwright: Batchwright, folder: Path) -> None:
    source = write_requests(
        folder / "in.jsonl", [request("a", "x", "builtin/echo"), request("b", "y", "gpt-x")]
    )

    ended = batchwright("check", source)

    assert ended.code == 0
    assert "requests  2" in ended.out
    assert "builtin/echo: 1 request, served by builtin" in ended.out
    assert "gpt-x: 1 request. The model 'gpt-x' is not served" in ended.out


def test_check_lists_every_fault_with_its_line(batchwright: Batchwright, folder: Path) -> None:
    source = write_requests(
        folder / "in.jsonl", [request("a", "x"), request("a", "y"), {"custom_id": "c", "body": {}}]
    )

    ended = batchwright("check", source)
    as_json = json.loads(batchwright("check", source, "--json").out)

    assert ended.code == 2
    assert "line 2: " in ended.err
    assert [error["line"] for error in as_json["errors"]] == [2, 3]


def test_verify_says_what_is_wrong_and_where(batchwright: Batchwright, folder: Path) -> None:
    source = write_requests(folder / "in.jsonl", [request("a", "x"), request("b", "y")])
    batchwright("run", source, "-o", "out.jsonl", "--model", "builtin/echo")
    output = folder / "out.jsonl"
    output.write_bytes(output.read_bytes().splitlines(keepends=True)[0])

    ended = batchwright("verify", source, output)

    assert ended.code == 1
    assert f"{source}:2: 'b' has no result (missing)" in ended.err
    assert "lost 1, doubled 0" in ended.out


def test_a_run_over_csv_imports_no_server_and_no_table_library(folder: Path) -> None:
    program = (
        "import sys\n"
        "from batchwright.cli.run_command import RunCommand\n"
        "heavy = {'fastapi', 'uvicorn', 'polars', 'pandas', 'genai_prices', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[3] / "src"), "PATH": ""}

    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )

    assert shown.stdout.strip() == "[]"


def test_embeddings_share_calls_and_an_input_that_is_refused_fails_alone(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    texts = [f"text {number}" for number in range(200)]
    texts[77] = "word " * 9_000  # more than an input may have
    source = write_requests(folder / "in.jsonl", [embedding(text) for text in texts])
    settings = folder / "batchwright.toml"
    calls = calls_of(sandbox)
    packed = batchwright("run", source, "-o", "packed.jsonl")
    packed_calls = calls_of(sandbox) - calls
    settings.write_text(
        settings.read_text().replace("[limits]\n", "[limits]\npack_embeddings = false\n")
    )

    unpacked = batchwright("run", source, "-o", "unpacked.jsonl")

    assert packed.code == unpacked.code
    assert packed_calls < 60
    assert calls_of(sandbox) - calls - packed_calls == 200
    both = [embedded(folder / name) for name in ("packed.jsonl", "unpacked.jsonl")]
    assert both[0] == both[1]
    assert sorted(both[0]) == sorted(text[:60] for text in texts if text != texts[77])


def embedding(text: str) -> dict[str, Any]:
    """A request for the embedding of a text, named by its beginning."""
    body = {"model": "m", "input": text, "dimensions": 4}
    return {"custom_id": text[:60], "method": "POST", "url": "/v1/embeddings", "body": body}


def embedded(path: Path) -> dict[str, Any]:
    """What an output file has for each request that succeeded."""
    return {
        line["custom_id"]: line["response"]["body"]["data"]
        for line in read_lines(path)
        if line["response"]["status_code"] == 200
    }


def test_what_is_asked_twice_is_sent_once_and_each_line_has_its_answer(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    before = calls_of(sandbox)
    texts = [f"dedupe {number % 10}" for number in range(50)]
    requests = [request(f"r-{n}", text) for n, text in enumerate(texts)]
    source = write_requests(folder / "in.jsonl", requests)

    ended = batchwright("run", source, "-o", "out.jsonl", "--dedupe")

    assert ended.code == 0
    assert calls_of(sandbox) - before == 10
    assert "saved   40 requests" in ended.out
    results = read_lines(folder / "out.jsonl")
    assert [each["custom_id"] for each in results] == [f"r-{n}" for n in range(50)]
    assert [each["response"] for each in results[10:20]] == [
        each["response"] for each in results[:10]
    ]
    assert results[49]["batchwright"]["copied_from"] == {"line": 10}
    assert batchwright("verify", source, "out.jsonl").code == 0


def test_the_rows_of_a_table_name_the_row_that_was_asked(
    batchwright: Batchwright, folder: Path
) -> None:
    table = folder / "moods.csv"
    table.write_text("id,review\n1,I love it\n2,It is awful\n3,I love it\n")

    ended = batchwright("run", table, *SENTIMENT, "-o", "out.csv", "--dedupe")

    assert ended.code == 0
    lines = [line.split(",") for line in (folder / "out.csv").read_text().splitlines()]
    assert lines[0][-1] == "copied_from"
    assert [(line[2], line[-1]) for line in lines[1:]] == [
        ("positive", ""),
        ("negative", ""),
        ("positive", "1"),
    ]


def test_a_finished_run_does_not_change_whether_it_is_deduped(
    batchwright: Batchwright, folder: Path
) -> None:
    batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv")

    ended = batchwright("run", reviews(folder), *SENTIMENT, "-o", "out.csv", "--dedupe")

    assert ended.code == 2
    assert "Dedupe is on now; it was off." in ended.err


def test_failures_that_were_copied_are_tried_again_as_one(
    batchwright: Batchwright, folder: Path, sandbox: SandboxProcess
) -> None:
    configure(folder, sandbox)
    lines = [request(f"r-{n}", "retried", model="sandbox/status-400") for n in range(5)]
    source = write_requests(folder / "in.jsonl", lines)
    before = calls_of(sandbox)
    first = batchwright("run", source, "-o", "out.jsonl", "--dedupe")
    again = batchwright("run", source, "-o", "out.jsonl", "--dedupe", "--retry-failed")

    assert (first.code, again.code) == (3, 3)
    assert calls_of(sandbox) - before == 2
    assert len(read_lines(folder / "out.errors.jsonl")) == 5


def prompts_alike(folder: Path, prompts: int, each: int) -> Path:
    """Requests of which every `prompts`-th begins with the same 1,500 tokens."""
    requests = []
    for number in range(prompts * each):
        made = request(f"r-{number}", f"question {number}")
        system = f"prompt {number % prompts} ".ljust(6_000, "x")
        made["body"]["messages"].insert(0, {"role": "system", "content": system})
        requests.append(made)
    return write_requests(folder / "in.jsonl", requests)


def test_by_prefix_more_comes_from_the_prompt_cache_and_the_output_is_in_order(
    batchwright: Batchwright, folder: Path
) -> None:
    source, shares = prompts_alike(folder, 20, 10), {}
    for order in ("input", "prefix"):
        with SandboxProcess("--prompt-cache", "8000", "--latency", "10ms") as sandbox:
            configure(folder, sandbox)
            arguments = ("run", source, "-o", f"{order}.jsonl", "--order", order)
            ended = batchwright(*arguments, "--concurrency", "4", "--json")
        assert ended.code == 0, ended.err
        usage = json.loads(ended.out)["usage"]
        shares[order] = usage["input_tokens_details"]["cached_tokens"] / usage["input_tokens"]

    assert shares["input"] < 0.1
    assert shares["prefix"] > 0.7
    for name in ("input", "prefix"):
        ids = [line["custom_id"] for line in read_lines(folder / f"{name}.jsonl")]
        assert ids == [f"r-{number}" for number in range(200)]


def test_the_summary_tells_cached_tokens_and_their_share(
    batchwright: Batchwright, folder: Path
) -> None:
    with SandboxProcess("--prompt-cache", "8000") as sandbox:
        configure(folder, sandbox)
        ended = batchwright("run", prompts_alike(folder, 1, 10), "--concurrency", "1")

    assert ended.code == 0
    cached = 9 * (1_500 // 128 * 128)
    assert f" in ({cached:,} cached, 84 %), " in ended.out


def test_an_order_that_means_nothing_is_refused_before_anything_is_sent(
    batchwright: Batchwright, folder: Path
) -> None:
    source = write_requests(folder / "in.jsonl", [embedding("a")])

    wrong = batchwright("run", source, "--order", "prefix")
    unknown = batchwright("run", source, "--order", "random")

    assert (wrong.code, unknown.code) == (2, 2)
    assert "no provider caches the prompts of /v1/embeddings" in wrong.err
    assert "'input', 'prefix'" in unknown.err
    assert not list(folder.glob("*.batchwright"))
