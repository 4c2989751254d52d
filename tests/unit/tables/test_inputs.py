from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from batchwright.domain.errors import UsageError
from batchwright.tables import sniff

REQUEST = b'{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}}\n'


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "kind", "format_"),
    [
        ("a.jsonl", REQUEST, "batch", "jsonl"),
        ("a.csv", REQUEST, "batch", "jsonl"),
        ("a.jsonl", b"\xef\xbb\xbf\n\r\n" + REQUEST, "batch", "jsonl"),
        ("a.jsonl", b'{"custom_id":"a","body":{}}\n', "batch", "jsonl"),
        ("a.jsonl", b'{"custom_id":"a","body":"a text"}\n', "rows", "jsonl"),
        ("a.jsonl", b'{"review":"fine"}\n', "rows", "jsonl"),
        ("a.csv", b"review\nfine\n", "rows", "csv"),
        ("a.csv", b"{a},b\n1,2\n", "rows", "csv"),
    ],
)
def test_the_first_line_tells_the_form(
    tmp_path: Path, name: str, data: bytes, kind: str, format_: str
) -> None:
    form = sniff(write(tmp_path / name, data))

    assert (form.kind, form.format) == (kind, format_)


def test_parquet_is_told_by_its_magic_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "table.data"
    pl.DataFrame({"a": [1]}).write_parquet(path)

    form = sniff(path)

    assert (form.kind, form.format, form.label) == ("rows", "parquet", "rows (Parquet)")


@pytest.mark.parametrize(
    ("name", "header", "separator"),
    [
        ("a.csv", b"a,b", ","),
        ("a.csv", b"a;b;c", ";"),
        ("a.csv", b'"a;b;c",d', ","),
        ("a.csv", b"a\tb", "\t"),
        ("a.csv", b"alone", ","),
        ("a.tsv", b"a,b", "\t"),
        ("a.TSV", b"a\tb", "\t"),
    ],
)
def test_the_separator_is_told_by_the_header(
    tmp_path: Path, name: str, header: bytes, separator: str
) -> None:
    assert sniff(write(tmp_path / name, header + b"\n")).separator == separator


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.jsonl", b"\n \n", "is empty"),
        ("a.json", b'[{"a": 1}]', r"JSON array.*jq -c '\.\[\]'"),
        ("a.json", b'{\n "a": 1\n}', "not a whole JSON object.*jq -c"),
        ("a.jsonl", b'{"a": "\xff"}', r"the first line is not UTF-8: .*\(byte 7\)"),
        ("a.jsonl", b'{"a": NaN}', r"the first line is not valid JSON: .*\(byte 6\)"),
        ("a.jsonl", b'{"a": "\\ud800"}', "half of a surrogate pair"),
        ("a.jsonl", b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}", "the first line is nested"),
        ("a.csv", "a,b\n".encode("utf-16"), "UTF-16 text.*iconv -f UTF-16"),
        ("a.csv", "a,b\n".encode("utf-16-le"), "UTF-16LE text"),
        ("a.csv", "a,b\n".encode("utf-32"), "UTF-32 text"),
        ("a.csv", gzip.compress(b"a,b\n", mtime=0), "gunzip"),
        ("a.xlsx", b"PK\x03\x04rest", "Excel workbook.*CSV UTF-8"),
        ("a.csv", b"a\x00\x01\x02b", "binary file"),
        ("a.bin", b"hello", "not in a known form"),
    ],
)
def test_what_cannot_be_read_is_refused_with_advice(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = write(tmp_path / name, data)

    with pytest.raises(UsageError, match=message):
        sniff(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        sniff(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="is a directory"):
        sniff(tmp_path)
