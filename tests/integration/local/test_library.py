from __future__ import annotations

import asyncio
import json
from pathlib import Path

import polars
import pytest

from batchwright.config import Config, LimitsConfig
from batchwright.domain.errors import UsageError
from batchwright.local.errors import InvalidInput
from batchwright.local.library import run, run_async

CONFIG = Config(limits=LimitsConfig(reserve_mb=0))
TEXTS = ["What a lovely day", "This is terrible", "The box is brown"]
ANSWERS = ["positive", "negative", "neutral"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def classify(data: object, **options: object) -> polars.DataFrame:
    return run(
        data, model="builtin/sentiment", prompt="{text}", config=CONFIG, progress=False, **options
    )


def test_strings_come_back_with_their_answers_in_order() -> None:
    frame = classify(TEXTS)

    assert frame.columns == ["text", "answer", "tokens", "error"]
    assert frame["answer"].to_list() == ANSWERS


def test_in_another_order_they_come_back_as_they_were_given() -> None:
    assert classify(TEXTS, order="prefix")["answer"].to_list() == ANSWERS


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="Supported values are: 'input', 'prefix'"):
        classify(TEXTS, order="random")
    with pytest.raises(UsageError, match="caches the prompts of /v1/embeddings"):
        run(
            TEXTS,
            model="builtin/embedding",
            embed="text",
            order="prefix",
            config=CONFIG,
            progress=False,
        )


def test_rows_keep_their_types() -> None:
    rows = [{"text": text, "stars": number, "tags": ["a"]} for number, text in enumerate(TEXTS)]

    frame = classify(rows)

    assert frame.select("text", "stars", "tags").to_dicts() == rows
    assert frame["answer"].to_list() == ANSWERS


def test_a_system_message_may_stand_in_a_file_as_for_the_command(folder: Path) -> None:
    message = "Answer in one word, and not in two."
    (folder / "system.txt").write_text(f"{message}\n")

    of_text = classify(TEXTS, system=message)
    of_file = classify(TEXTS, system="@system.txt")

    assert of_file["tokens"].to_list() == of_text["tokens"].to_list()


def test_polars_and_pandas_frames_are_taken() -> None:
    import pandas

    of_polars = classify(polars.DataFrame({"text": TEXTS}))
    of_pandas = classify(pandas.DataFrame({"text": TEXTS}))

    assert of_polars["answer"].to_list() == ANSWERS
    assert of_pandas["answer"].to_list() == ANSWERS


def test_a_file_of_requests_gives_answers_by_custom_id(folder: Path) -> None:
    body = {"model": "builtin/echo", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (folder / "in.jsonl").write_text(json.dumps(line) + "\n")

    frame = run("in.jsonl", config=CONFIG, progress=False)

    assert frame.select("custom_id", "answer").rows() == [("a", "hello")]


def test_vectors_come_as_lists_of_floats() -> None:
    frame = run(
        TEXTS,
        model="builtin/embedding",
        embed="text",
        params={"dimensions": 8},
        config=CONFIG,
        progress=False,
    )

    assert frame["embedding"].dtype == polars.List(polars.Float32)
    assert frame["embedding"].list.len().to_list() == [8, 8, 8]


def test_a_request_that_embeds_several_texts_has_its_vectors_as_json(folder: Path) -> None:
    lines = [
        {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "builtin/embedding", "input": texts, "dimensions": 2},
        }
        for custom_id, texts in (("one", "a"), ("two", ["a", "b"]))
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    frame = run("in.jsonl", config=CONFIG, progress=False)

    assert [len(json.loads(answer)) for answer in frame["answer"]] == [2, 2]
    assert len(json.loads(frame["answer"][1])[0]) == 2


async def test_it_works_where_a_loop_runs_already() -> None:
    in_a_notebook = classify(TEXTS)
    awaited = await run_async(
        TEXTS, model="builtin/sentiment", prompt="{text}", config=CONFIG, progress=False
    )

    assert in_a_notebook.equals(awaited)


def test_without_an_output_nothing_is_left_behind(folder: Path) -> None:
    classify(TEXTS)

    assert list((folder / "tmp").iterdir()) == []


def test_the_output_is_written_and_the_second_call_answers_from_the_state(folder: Path) -> None:
    first = classify(TEXTS, output="out.parquet")
    written = polars.read_parquet(folder / "out.parquet")
    second = classify(TEXTS, output="out.parquet")

    assert written.equals(first)
    assert second.equals(first)


def test_an_output_that_was_edited_is_left_alone(folder: Path) -> None:
    first = classify(TEXTS, output="out.csv")
    (folder / "out.csv").write_text("mine")

    second = classify(TEXTS, output="out.csv")

    assert second.equals(first)
    assert (folder / "out.csv").read_text() == "mine"


def test_other_rows_for_the_same_output_are_refused(folder: Path) -> None:
    classify(TEXTS, output="out.csv")

    with pytest.raises(UsageError, match="belongs to another run"):
        classify(TEXTS[:2], output="out.csv")


def test_a_model_that_nobody_serves_is_raised_once_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="'nobody' is not served") as caught:
        run(TEXTS, model="nobody", prompt="{text}", config=CONFIG, output="out.csv")

    assert [error.line for error in caught.value.errors] == [None]
    assert sorted(path.name for path in folder.iterdir()) == ["tmp"]


def test_no_rows_are_an_error_that_says_so() -> None:
    with pytest.raises(UsageError, match="there are no rows"):
        classify([])


def test_calls_in_flight_are_at_least_one() -> None:
    with pytest.raises(UsageError, match="concurrency: expected 1 or more, got 0"):
        classify(TEXTS, concurrency=0)


async def test_cancelling_leaves_a_state_that_goes_on(folder: Path) -> None:
    rows = [f"text {number}" for number in range(3000)]
    asked = {"model": "builtin/sentiment", "prompt": "{text}", "output": "out.csv"}
    task = asyncio.create_task(run_async(rows, config=CONFIG, progress=False, **asked))
    manifest = folder / "out.csv.batchwright" / "run.json"
    while not (manifest.exists() and json.loads(manifest.read_text())["is_sent"]):
        await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    frame = await run_async(rows, config=CONFIG, progress=False, **asked)

    assert frame.height == 3000
    assert frame["error"].null_count() == 3000


def test_what_is_asked_twice_is_sent_once_and_says_so() -> None:
    frame = classify([*TEXTS, *TEXTS], dedupe=True)

    assert frame.columns == ["text", "answer", "tokens", "error", "copied_from"]
    assert frame["answer"].to_list() == [*ANSWERS, *ANSWERS]
    assert frame["copied_from"].to_list() == [None, None, None, 1, 2, 3]
