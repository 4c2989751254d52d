from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchwright.domain.errors import UsageError
from batchwright.tables import (
    RequestPlan,
    open_table,
    override_model,
    parse_param,
    request_lines,
    sniff,
)


def requests_of(path: Path, plan: RequestPlan, limit: int | None = None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in request_lines(open_table(sniff(path), limit=limit), plan)]


def contents_of(path: Path, template: str) -> list[str]:
    plan = RequestPlan(model="m", prompt=template)
    return [r["body"]["messages"][-1]["content"] for r in requests_of(path, plan)]


def csv_of(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_row_becomes_a_chat_request(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", "id,review\n7,fine\n")
    plan = RequestPlan(
        model="m", prompt="Say: {review}", system="{literal}", params={"seed": 7, "stop": ["\n"]}
    )

    assert requests_of(path, plan) == [
        {
            "custom_id": "row-1",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "m",
                "messages": [
                    {"role": "system", "content": "{literal}"},
                    {"role": "user", "content": "Say: fine"},
                ],
                "seed": 7,
                "stop": ["\n"],
            },
        }
    ]


def test_a_column_becomes_embedding_requests(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", "id,review\n7,fine\n8,\n")
    plan = RequestPlan(model="m", embed="review", params={"dimensions": 8})

    requests = requests_of(path, plan)

    assert [r["url"] for r in requests] == ["/v1/embeddings"] * 2
    assert requests[0]["body"] == {"model": "m", "input": "fine", "dimensions": 8}
    assert requests[1]["body"]["input"] == ""


def test_the_column_to_embed_must_exist(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", "id,review\n7,fine\n")

    with pytest.raises(UsageError, match=r'--embed names the column "reviews".*"review"'):
        requests_of(path, RequestPlan(model="m", embed="reviews"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "", "prompt": "{a}"}, "--model"),
        ({"model": "m"}, "--prompt"),
        ({"model": "m", "prompt": "{a}", "embed": "a"}, "give one of them"),
        ({"model": "m", "embed": "a", "system": "s"}, "--system goes with --prompt"),
        ({"model": "m", "prompt": "{a}", "params": {"messages": []}}, "use --prompt"),
        ({"model": "m", "prompt": "{a}", "params": {"stream": True}}, "stream"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RequestPlan(**arguments)


def test_csv_cells_keep_their_value(tmp_path: Path) -> None:
    cells = ["02139", "NA", "null", "1e5", "true", "1.50", " spaced ", "#x", '5" pipe', "é漢🙂"]
    path = csv_of(tmp_path / "a.csv", "zip,n\n" + "".join(f"{cell},1\n" for cell in cells))

    assert contents_of(path, "{zip}") == cells


def test_quotes_line_breaks_and_separators_in_cells_are_kept(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", 'a,b\r\n"x\r\ny, ""q""\n\u2028z",1\r\n"",2\r\n')

    assert contents_of(path, "{a}|{b}") == ['x\r\ny, "q"\n\u2028z|1', "|2"]


def test_a_byte_order_mark_blank_lines_and_short_rows_are_taken_in_stride(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", b'\xef\xbb\xbf"a",b\n\n1,2\n\n3\n4,5,,\n')

    assert contents_of(path, "{a}-{b}") == ["1-2", "3-", "4-5"]


def test_the_header_is_the_first_line_that_shows_something(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", "\n  \na,b\n1,2\n")

    assert open_table(sniff(path)).columns == ("a", "b")
    assert contents_of(path, "{a}-{b}") == ["1-2"]


def test_other_separators_and_tsv_are_read(tmp_path: Path) -> None:
    assert contents_of(csv_of(tmp_path / "a.csv", "a;b\n1,5;2\n"), "{a}|{b}") == ["1,5|2"]
    assert contents_of(csv_of(tmp_path / "a.tsv", "a\tb\n1,5\t2\n"), "{a}|{b}") == ["1,5|2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2\n3,4,5\n", "line 3 has 3 values.*2 columns"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3 opens a quote that is never closed"),
        (b'a,b\n1,2\n"3"x,4\n', "line 3 has text after a closing quote"),
        (b"a,b\n1,2\ncaf\xe9,4\n", "not UTF-8 in line 3.*WINDOWS-1252"),
        (b"a,b,a\n1,2,3\n", 'the column "a" more than once'),
    ],
)
def test_damaged_csv_is_refused_with_its_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = csv_of(tmp_path / "a.csv", data)

    with pytest.raises(UsageError, match=message):
        contents_of(path, "{a}")


def test_unnamed_columns_are_named_by_their_position(tmp_path: Path) -> None:
    table = open_table(sniff(csv_of(tmp_path / "a.csv", "a,,\n1,2,3\n")))

    assert table.columns == ("a", "column_2", "column_3")


def test_a_cell_of_a_megabyte_is_no_trouble(tmp_path: Path) -> None:
    cell = "long, " * 200_000
    path = csv_of(tmp_path / "a.csv", f'a\n"{cell}"\n')

    assert contents_of(path, "{a}") == [cell]


def test_an_empty_table_gives_no_requests(tmp_path: Path) -> None:
    pl.DataFrame(schema={"a": pl.String}).write_parquet(tmp_path / "a.parquet")

    assert contents_of(csv_of(tmp_path / "a.csv", "a,b"), "{a}") == []
    assert contents_of(tmp_path / "a.parquet", "{a}") == []


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    plan = RequestPlan(model="m", prompt="{a}")
    pl.DataFrame({"a": range(9)}).write_parquet(tmp_path / "a.parquet")
    csv_of(tmp_path / "a.csv", "a\n" + "1\n" * 9)
    csv_of(tmp_path / "a.jsonl", '{"a":1}\n' * 9)

    for name in ("a.parquet", "a.csv", "a.jsonl"):
        assert len(requests_of(tmp_path / name, plan, limit=3)) == 3


def test_json_rows_show_values_as_the_file_has_them(tmp_path: Path) -> None:
    lines = [
        '{"a": 1.50, "b": "x\\n\\u00e9"}',
        "",
        '{"b": null, "a": [1, {"c": 2.0}]}',
        '{"a": true, "d": 12345678901234567890123}',
    ]
    path = csv_of(tmp_path / "a.jsonl", "\r\n".join(lines))

    assert contents_of(path, "{a}|{b}|{d}") == [
        "1.50|x\né|",
        '[1, {"c": 2.0}]||',
        "true||12345678901234567890123",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "line 2 is not a JSON object"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "line 2 is not a JSON object"),
        (b'{"a": NaN}', "line 2 is not a JSON object"),
        (b'{"a": 1', "line 2 is not a JSON object"),
        (b'{"b": "\xff"}', "line 2 is not UTF-8"),
    ],
)
def test_damaged_json_rows_are_refused_with_their_line(
    tmp_path: Path, line: bytes, message: str
) -> None:
    path = csv_of(tmp_path / "a.jsonl", b'{"a":1}\n' + line + b"\n")

    with pytest.raises(UsageError, match=message):
        contents_of(path, "{a}")


def test_parquet_cells_are_rendered_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame(
        {
            "i": [1, None],
            "f": pl.Series([0.1, None], dtype=pl.Float32),
            "b": [True, None],
            "l": pl.Series([[0.1, 2.0], None], dtype=pl.List(pl.Float32)),
            "s": [{"x": "é\n"}, None],
            "d": pl.Series(["2024-01-02", None]).str.to_date(),
            "bin": [b"\xff", None],
            "cat": pl.Series(["k", None], dtype=pl.Categorical),
            "n": [None, None],
        }
    ).write_parquet(path)

    template = "|".join(f"{{{name}}}" for name in ("i", "f", "b", "l", "s", "d", "bin", "cat", "n"))
    first, second = contents_of(path, template)

    assert first == '1|0.1|true|[0.1,2.0]|{"x":"é\\n"}|2024-01-02|/w==|k|'
    assert second.replace("|", "") in {"", '{"x":null}'}


def test_a_file_that_only_begins_like_parquet_is_refused(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.parquet", b"PAR1 and then nothing")

    with pytest.raises(UsageError, match="cannot be read"):
        contents_of(path, "{a}")


def test_the_model_of_a_request_is_replaced_and_nothing_else() -> None:
    line = (
        b'{"custom_id": "a", "url": "/v1/x", "body": {"model": "old", "seed": 1.50, "x": [1,  2]}}'
    )

    changed = override_model(line, 'n"w')

    assert json.loads(changed)["body"] == {"model": 'n"w', "seed": 1.5, "x": [1, 2]}
    assert b'"seed":1.50' in changed
    assert b"[1,  2]" in changed


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"custom_id":"a"}', b'{"body":7}', b"\xff"])
def test_a_line_that_is_no_request_is_left_for_the_validation(line: bytes) -> None:
    assert override_model(line, "m") == line


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("seed=7", ("seed", 7)),
        ("user=ann", ("user", "ann")),
        ("stop=a=b", ("stop", "a=b")),
        ("x=NaN", ("x", "NaN")),
        ('f={"type":"json_object"}', ("f", {"type": "json_object"})),
    ],
)
def test_a_param_is_json_where_it_reads_as_json(argument: str, expected: tuple[str, Any]) -> None:
    assert parse_param(argument) == expected


def test_a_param_without_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse_param("seed")
