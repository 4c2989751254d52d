from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchwright.domain.errors import StorageError, UsageError
from batchwright.engine.results import Stretch
from batchwright.tables import (
    LinesWritten,
    RowResult,
    open_table,
    plan_output,
    plan_result_lines,
    sniff,
    write_output,
    write_result_lines,
)

RESULTS = [RowResult('good,\r"x"', tokens=3), RowResult(error="429: slow\ndown")]


def write(source: Path, output: Path, results: list[RowResult], **options: Any) -> None:
    table = open_table(sniff(source))
    plan = plan_output(output, table.columns, **options)
    assert write_output(table, plan, results) == len(results)


def read_csv(path: Path, separator: str = ",") -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter=separator, strict=True))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_bytes('zip,"the ""text"""\r\n02139,"a\r\n漢,"\r\nNA,\r\n'.encode())
    return path


@pytest.mark.parametrize(("name", "separator"), [("out.csv", ","), ("out.tsv", "\t")])
def test_csv_keeps_every_cell_and_adds_ours(source: Path, name: str, separator: str) -> None:
    write(source, source.with_name(name), RESULTS)

    assert read_csv(source.with_name(name), separator) == [
        ["zip", 'the "text"', "answer", "tokens", "error"],
        ["02139", "a\r\n漢,", 'good,\r"x"', "3", ""],
        ["NA", "", "", "", "429: slow\ndown"],
    ]


def test_jsonl_has_an_object_for_each_row(source: Path) -> None:
    output = source.with_name("out.jsonl")

    write(source, output, RESULTS)

    assert [json.loads(line) for line in output.read_bytes().splitlines()] == [
        {
            "zip": "02139",
            'the "text"': "a\r\n漢,",
            "answer": 'good,\r"x"',
            "tokens": 3,
            "error": None,
        },
        {"zip": "NA", 'the "text"': "", "answer": None, "tokens": None, "error": "429: slow\ndown"},
    ]


def test_parquet_has_the_columns_typed(source: Path) -> None:
    output = source.with_name("out.parquet")

    write(source, output, RESULTS)

    frame = pl.read_parquet(output)
    assert frame.schema["tokens"] == pl.Int64
    assert frame.rows() == [
        ("02139", "a\r\n漢,", 'good,\r"x"', 3, None),
        ("NA", "", None, None, "429: slow\ndown"),
    ]


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_row_that_is_a_copy_names_the_one_that_was_asked(source: Path, name: str) -> None:
    output = source.with_name(name)
    results = [RowResult("good", tokens=3), RowResult("good", tokens=3, copied_from=1)]

    write(source, output, results, is_deduped=True, prefix="ai_")

    if name == "out.csv":
        ours = [row[-4:] for row in read_csv(output)]
        assert ours[0] == ["ai_answer", "ai_tokens", "ai_error", "ai_copied_from"]
        assert [row[-1] for row in ours[1:]] == ["", "1"]
    else:
        read = pl.read_ndjson if name == "out.jsonl" else pl.read_parquet
        assert read(output)["ai_copied_from"].to_list() == [None, 1]


def test_embeddings_are_lists_or_json_text(source: Path) -> None:
    results = [RowResult(embedding=[0.5, -1.25]), RowResult(error="x")]

    for name in ("out.csv", "out.jsonl", "out.parquet"):
        write(source, source.with_name(name), results, is_embedding=True)

    assert read_csv(source.with_name("out.csv"))[1][2] == "[0.5,-1.25]"
    first = json.loads(source.with_name("out.jsonl").read_bytes().split(b"\n")[0])
    assert first["embedding"] == [0.5, -1.25]
    column = pl.read_parquet(source.with_name("out.parquet"))["embedding"]
    assert column.dtype == pl.List(pl.Float32)
    assert column.to_list() == [[0.5, -1.25], None]


def test_json_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = ['{"a": 1.50, "b": [1, {"c": null}]}', "{}", '{"d": "é"} ']
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(rows), encoding="utf-8")

    write(source, output, [RowResult("x", tokens=1)] * 3)

    ours = '"answer":"x","tokens":1,"error":null}\n'
    assert output.read_text(encoding="utf-8") == (f'{rows[0][:-1]},{ours}{{{ours}{{"d": "é",{ours}')


def test_json_rows_become_typed_columns(tmp_path: Path) -> None:
    rows = [
        {"i": 1, "f": 1, "l": [1], "s": {"x": 1}, "m": 1, "e": {}, "big": 2**70},
        {"i": None, "f": 0.5, "l": [], "s": {"y": "t"}, "m": "one", "late": True},
    ]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    source.write_text("\n".join(json.dumps(row) for row in rows))

    write(source, output, [RowResult("x")] * 2)

    frame = pl.read_parquet(output).drop("answer", "tokens", "error")
    assert frame.rows(named=True) == [
        {
            "i": 1, "f": 1.0, "l": [1], "s": {"x": 1, "y": None}, "m": "1", "e": "{}",
            "big": str(2**70), "late": None,
        },
        {
            "i": None, "f": 0.5, "l": [], "s": {"x": None, "y": "t"}, "m": "one", "e": None,
            "big": None, "late": True,
        },
    ]  # fmt: skip


def test_nested_parquet_goes_to_every_form(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    frame = pl.DataFrame(
        {
            "l": [[1, 2], None],
            "s": [{"x": "é\n"}, {"x": None}],
            "bin": [b"ok", None],
            "n": [None, None],
        }
    )
    frame.write_parquet(source)

    for name in ("out.csv", "out.jsonl", "out.parquet"):
        write(source, tmp_path / name, [RowResult("x")] * 2)

    assert read_csv(tmp_path / "out.csv")[1][:4] == ["[1,2]", '{"x":"é\\n"}', "ok", ""]
    first = json.loads((tmp_path / "out.jsonl").read_bytes().split(b"\n")[0])
    assert (first["l"], first["s"], first["bin"], first["n"]) == ([1, 2], {"x": "é\n"}, "ok", None)
    kept = pl.read_parquet(tmp_path / "out.parquet")
    assert kept.drop("answer", "tokens", "error").equals(frame)
    assert kept.schema == {
        **frame.schema,
        "answer": pl.String,
        "tokens": pl.Int64,
        "error": pl.String,
    }


def test_bytes_inside_a_list_have_no_text_form(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pl.DataFrame({"l": [[b"\xff"]]}).write_parquet(source)

    for name in ("out.csv", "out.jsonl"):
        with pytest.raises(UsageError, match='the column "l" is of type'):
            write(source, tmp_path / name, [RowResult("x")])


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_an_empty_table_gives_an_empty_output(tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.csv"
    source.write_text("a,b\n")

    write(source, tmp_path / name, [])

    if name.endswith("parquet"):
        assert pl.read_parquet(tmp_path / name).columns == ["a", "b", "answer", "tokens", "error"]
    else:
        assert len((tmp_path / name).read_bytes().splitlines()) == (not name.endswith("jsonl"))


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize(("count", "message"), [(1, "fewer"), (3, "more")])
def test_results_that_do_not_match_the_rows_leave_the_old_output(
    source: Path, name: str, count: int, message: str
) -> None:
    output = source.with_name(name)
    output.write_text("old")

    with pytest.raises(UsageError, match=message):
        write(source, output, [RowResult("x")] * count)

    assert output.read_text() == "old"
    assert sorted(path.name for path in source.parent.iterdir()) == sorted(["in.csv", name])


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_failure_while_reading_results_passes_through(source: Path, name: str) -> None:
    def results() -> Iterator[RowResult]:
        yield RowResult("x")
        raise KeyError("journal")

    table = open_table(sniff(source))
    plan = plan_output(source.with_name(name), table.columns)

    with pytest.raises(KeyError, match="journal"):
        write_output(table, plan, results())

    assert not source.with_name(name).exists()


def test_thousands_of_rows_stay_in_order_across_forms(tmp_path: Path) -> None:
    source, middle, output = (tmp_path / name for name in ("a.csv", "b.parquet", "c.jsonl"))
    source.write_text("n\n" + "\n".join(map(str, range(20_000))) + "\n")

    write(source, middle, [RowResult(str(n)) for n in range(20_000)])
    write(middle, output, [RowResult(str(n)) for n in range(20_000)], prefix="b_")

    rows = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [(r["n"], r["answer"], r["b_answer"]) for r in rows] == [
        (str(n),) * 3 for n in range(20_000)
    ]


def test_a_column_of_our_name_asks_for_a_prefix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='column "answer" already; use --prefix'):
        plan_output(tmp_path / "o.csv", ["answer"])
    with pytest.raises(UsageError, match="another --prefix"):
        plan_output(tmp_path / "o.csv", ["x_error"], prefix="x_")

    plan = plan_output(tmp_path / "o.csv", ["answer"], prefix="ai_")

    assert plan.columns == ("ai_answer", "ai_tokens", "ai_error")


def test_an_output_that_cannot_be_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()

    with pytest.raises(UsageError, match=r"\.csv, \.tsv, \.jsonl or \.parquet"):
        plan_output(tmp_path / "o.xlsx", [])
    with pytest.raises(UsageError, match="is a directory"):
        plan_output(tmp_path / "d.csv", [])
    with pytest.raises(UsageError, match="does not exist"):
        plan_output(tmp_path / "none" / "o.csv", [])
    with pytest.raises(UsageError, match=r"name the output o\.jsonl"):
        plan_result_lines(tmp_path / "o.csv")
    with pytest.raises(StorageError, match="cannot be written"):
        write_result_lines(tmp_path / "none" / "o.jsonl", [])


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "in.errors.jsonl").touch()

    with pytest.raises(UsageError, match="is the input"):
        plan_output(tmp_path / "in.csv", [], source=tmp_path / "." / "in.csv")
    with pytest.raises(UsageError, match="is the input"):
        plan_result_lines(tmp_path / "in.jsonl", source=tmp_path / "in.errors.jsonl")


def test_result_lines_are_parted_into_answers_and_failures(tmp_path: Path) -> None:
    path = plan_result_lines(tmp_path / "out.jsonl")
    results = [
        Stretch(1, 1, b"1\n", False),
        Stretch(2, 1, b"2\n", True),
        Stretch(3, 2, b"3\n4\n", False),
    ]

    written = write_result_lines(path, results)

    assert written == LinesWritten(3, 1, tmp_path / "out.errors.jsonl")
    assert path.read_bytes() == b"1\n3\n4\n"
    assert (tmp_path / "out.errors.jsonl").read_bytes() == b"2\n"


def test_an_error_file_goes_when_nothing_fails_any_more(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_result_lines(path, [Stretch(1, 1, b"1\n", True)])

    written = write_result_lines(path, [Stretch(1, 1, b"1\n", False)])

    assert written == LinesWritten(1, 0, None)
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_header_comes_out_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(",text\n0,a\n1,b\n")  # as pandas writes an index

    write(source, tmp_path / "out.csv", RESULTS)

    assert read_csv(tmp_path / "out.csv")[0] == ["", "text", "answer", "tokens", "error"]


def test_an_output_that_is_a_link_needs_the_folder_of_its_file(tmp_path: Path) -> None:
    link = tmp_path / "out.csv"
    link.symlink_to(tmp_path / "none" / "real.csv")

    with pytest.raises(UsageError, match="none of the output does not exist"):
        plan_output(link, [])


@pytest.mark.parametrize("numbers", ["9007199254740993 1.5", "1.5 9007199254740993"])
def test_a_number_that_a_float_cannot_hold_is_kept(tmp_path: Path, numbers: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"n": {number}}}\n' for number in numbers.split()))

    write(source, tmp_path / "out.parquet", RESULTS)

    assert pl.read_parquet(tmp_path / "out.parquet")["n"].to_list() == numbers.split()


def test_whole_numbers_of_any_size_stay_whole(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"n": 9007199254740993}\n{"n": 1}\n')

    write(source, tmp_path / "out.parquet", RESULTS)

    assert pl.read_parquet(tmp_path / "out.parquet")["n"].to_list() == [9007199254740993, 1]
