from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchwright.domain.errors import UsageError
from batchwright.engine.results import Stretch
from batchwright.local.errors import InputChanged
from batchwright.local.job import RunOptions, default_output_of, plan_file, plan_rows
from batchwright.local.summary import Causes

CHAT = "/v1/chat/completions"
ROWS = RunOptions(model="m", prompt="{text}")


def batch_file(folder: Path, *urls: str | None) -> Path:
    path = folder / "in.jsonl"
    lines: list[dict[str, Any]] = [
        {"custom_id": f"c{number}", "method": "POST", "url": url, "body": {"model": "old"}}
        for number, url in enumerate(urls)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("name", "content", "output"),
    [
        ("a.csv", "x,y\n1,2\n", "a.answers.csv"),
        ("a.tsv", "x\ty\n1\t2\n", "a.answers.tsv"),
        ("a.txt", "x\ty\n1\t2\n", "a.answers.tsv"),
        ("a.jsonl", '{"x": 1}\n', "a.answers.jsonl"),
        ("a.json", '{"x": 1}\n', "a.answers.jsonl"),
        ("a.jsonl", '{"custom_id": "a", "url": "/v1/x", "body": {}}\n', "a.results.jsonl"),
    ],
)
def test_the_output_has_a_name_by_itself(
    name: str, content: str, output: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)

    assert default_output_of(tmp_path / name) == tmp_path / output


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [("/v1/embeddings", "/v1/embeddings"), ("/chat/completions", CHAT), (7, CHAT)],
)
def test_the_endpoint_is_that_of_the_first_line(url: Any, endpoint: str, tmp_path: Path) -> None:
    source = batch_file(tmp_path, url, "/v1/responses")

    job = plan_file(source, tmp_path / "out.jsonl", RunOptions())

    assert job.url == endpoint


def test_a_limit_counts_requests_and_blank_lines_keep_their_place(tmp_path: Path) -> None:
    source = batch_file(tmp_path, CHAT, CHAT, CHAT)
    source.write_bytes(b"\n" + source.read_bytes().replace(b"}\n{", b"}\n\n{"))

    job = plan_file(source, tmp_path / "out.jsonl", RunOptions(limit=2))

    assert [bool(line) for line in job.request_lines()] == [False, True, False, True, False]


def test_another_model_takes_the_place_of_each_lines(tmp_path: Path) -> None:
    source = batch_file(tmp_path, CHAT, CHAT)

    job = plan_file(source, tmp_path / "out.jsonl", RunOptions(model="new"))

    assert [json.loads(line)["body"] for line in job.request_lines()] == [{"model": "new"}] * 2


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(prompt="{x}"),
        RunOptions(system="be brief"),
        RunOptions(embed="x"),
        RunOptions(params={"seed": 1}),
        RunOptions(prefix="ai_"),
    ],
)
def test_what_is_for_rows_is_refused_for_ready_requests(
    options: RunOptions, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is for rows"):
        plan_file(batch_file(tmp_path, CHAT), tmp_path / "out.jsonl", options)


def test_rows_without_a_model_are_told_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x\n1\n")

    with pytest.raises(UsageError, match=r"rows .CSV., which need a model and a prompt"):
        plan_file(tmp_path / "in.csv", tmp_path / "out.csv", RunOptions())


def test_equal_rows_are_the_same_run_and_others_are_not(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"

    first, same, other = (plan_rows(rows, output, ROWS) for rows in (["a"], ["a"], ["b"]))

    assert first.identity.differences(same.identity) == []
    assert first.identity.differences(other.identity) != []


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="--limit"):
        RunOptions(limit=0)


def results(count: int, at_second: Callable[[], object] = lambda: None) -> Iterator[Stretch]:
    """A result for each row; `at_second` is called before the second one."""
    for number in range(1, count + 1):
        if number == 2:
            at_second()
        body = {"choices": [{"message": {"content": f"answer {number}"}}]}
        line = {"custom_id": f"row-{number}", "response": {"status_code": 200, "body": body}}
        yield Stretch(number, 1, json.dumps(line).encode() + b"\n", False)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_answers_are_not_put_beside_rows_that_were_not_asked_about(
    tmp_path: Path, suffix: str
) -> None:
    source, output = tmp_path / "in.csv", tmp_path / f"out.{suffix}"
    source.write_text("text\na\nb\n")
    job = plan_file(source, output, ROWS)

    source.write_text("text\nb\na\n")
    with pytest.raises(InputChanged, match="put it back"):
        job.write(results(2), Causes())
    with pytest.raises(InputChanged, match="put it back"):
        job.frame(results(2), Causes())
    assert not output.exists()

    source.write_text("text\na\nb\n")
    job.write(results(2), Causes())
    assert output.exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_input_that_changes_while_the_output_is_written_is_noticed(
    tmp_path: Path, suffix: str
) -> None:
    source, output = tmp_path / "in.csv", tmp_path / f"out.{suffix}"
    source.write_text("text\na\nb\n")
    job = plan_file(source, output, ROWS)

    with pytest.raises(InputChanged):
        job.write(results(2, lambda: source.write_text("text\nb\na\n")), Causes())
    assert not output.exists()


def test_requests_are_those_of_the_input_that_was_hashed(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\na\nb\n")
    job = plan_file(source, tmp_path / "out.csv", ROWS)
    lines = job.request_lines()
    next(lines)

    source.write_text("text\na\nc\n")

    with pytest.raises(InputChanged, match="nothing was sent"):
        list(lines)


def test_an_input_that_is_only_touched_or_put_back_is_the_same(tmp_path: Path) -> None:
    source = batch_file(tmp_path, CHAT, CHAT)
    job = plan_file(source, tmp_path / "out.jsonl", RunOptions())

    content = source.read_bytes()
    source.unlink()
    source.write_bytes(content)

    assert len(list(job.request_lines())) == 2


def test_an_input_that_is_gone_is_told(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\na\n")
    job = plan_file(source, tmp_path / "out.csv", ROWS)
    source.unlink()

    with pytest.raises(UsageError, match="cannot be read"):
        job.write(results(1), Causes())
