"""What an input file is: told by its first bytes, never by a guess from its name alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.domain.strict_json import BadJson, read

LINE_BYTES_MAX = 64 * 2**20
"""The longest line of JSON, and the longest CSV cell, that is read."""

_UTF8_BOM = b"\xef\xbb\xbf"
_SEPARATORS = (",", ";", "\t", "|")
_TABLE_SUFFIXES = {".csv", ".tsv", ".tab", ".txt"}
_QUOTED = re.compile(r'"(?:[^"]|"")*"')

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "is gzip-compressed: unpack it first (gunzip)"),
    (
        b"PK\x03\x04",
        "is a ZIP file or an Excel workbook: unpack it, or save the sheet as CSV UTF-8",
    ),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook: save the sheet as CSV UTF-8"),
    (b"\x28\xb5\x2f\xfd", "is Zstandard-compressed: unpack it first (zstd -d)"),
    (b"BZh", "is bzip2-compressed: unpack it first (bunzip2)"),
    (b"\xfd7zXZ\x00", "is xz-compressed: unpack it first (unxz)"),
    (b"ARROW1", "is an Arrow file: write it as Parquet"),
    (b"SQLite format 3\x00", "is an SQLite database: export the table as CSV"),
    (b"%PDF-", "is a PDF"),
)
_UTF32_BOMS = (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class InputForm:
    """What `sniff` found."""

    path: Path
    kind: Literal["batch", "rows"]  # ready requests, or a table that needs a prompt
    format: Literal["jsonl", "csv", "parquet"]
    separator: str = ","  # between the cells of a CSV file

    @property
    def label(self) -> str:
        """The form in words, for a person."""
        if self.kind == "batch":
            return "batch requests (JSONL)"
        if self.format == "csv":
            return "rows (TSV)" if self.separator == "\t" else "rows (CSV)"
        return "rows (JSONL)" if self.format == "jsonl" else "rows (Parquet)"


def sniff(path: str | Path) -> InputForm:
    """Tell the form of an input file from its beginning.

    Raises `UsageError`, which says what to do, for anything that cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _sniff_open(path, file)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a file") from None
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _sniff_open(path: Path, file: BinaryIO) -> InputForm:
    if not file.seekable():
        raise UsageError(f"{path} is not a regular file: write the input to a file first")
    head = file.read(16)
    if head.startswith(b"PAR1"):
        return InputForm(path, "rows", "parquet")
    _refuse_foreign(path, head)
    file.seek(len(_UTF8_BOM) if head.startswith(_UTF8_BOM) else 0)
    line = _first_line(path, file)
    return _form_of(path, line)


def _refuse_foreign(path: Path, head: bytes) -> None:
    for magic, advice in _MAGIC:
        if head.startswith(magic):
            raise UsageError(f"{path} {advice}")
    if head.startswith(_UTF32_BOMS):
        raise UsageError(_convert(path, "UTF-32"))
    if head.startswith(_UTF16_BOMS):
        raise UsageError(_convert(path, "UTF-16"))
    if b"\x00" in head:
        big = head[0:4:2] == b"\x00\x00" and b"\x00" not in head[1:4:2]
        small = head[1:4:2] == b"\x00\x00" and b"\x00" not in head[0:4:2]
        if big or small:
            raise UsageError(_convert(path, "UTF-16BE" if big else "UTF-16LE"))
        raise UsageError(f"{path} is a binary file; CSV, TSV, JSONL or Parquet is expected")


def _convert(path: Path, encoding: str) -> str:
    return (
        f"{path} is {encoding} text; UTF-8 is expected: "
        f"iconv -f {encoding} -t UTF-8 {path} > converted{path.suffix}"
    )


def _first_line(path: Path, file: BinaryIO) -> bytes:
    """The first line that is not blank."""
    while line := file.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX:
            raise UsageError(
                f"the first line of {path} is longer than {LINE_BYTES_MAX // 2**20} MiB"
            )
        if line.strip():
            return line
    raise UsageError(f"{path} is empty")


def _form_of(path: Path, line: bytes) -> InputForm:
    start = line.lstrip()[:1]
    if start == b"{" and (keys := _object(line)) is not None:
        return InputForm(path, "batch" if _is_request(keys) else "rows", "jsonl")
    if path.suffix.lower() in _TABLE_SUFFIXES:
        return InputForm(path, "rows", "csv", _separator(path, line))
    if start == b"[":
        raise UsageError(
            f"{path} is a JSON array; one object per line is expected: "
            f"jq -c '.[]' {path} > {path.stem}.jsonl"
        )
    if start == b"{":
        raise UsageError(_bad_object(path, line))
    raise UsageError(
        f"{path} is not in a known form: JSONL starts with a JSON object, Parquet with PAR1, "
        "and the name of a CSV or TSV file ends in .csv or .tsv"
    )


def _bad_object(path: Path, line: bytes) -> str:
    """What is wrong with a first line that begins an object, and what to do."""
    try:
        read(line)
    except BadJson as error:
        if "truncated" not in error.reason:
            return f"{path}: the first line is {error.reason}; one JSON object per line is expected"
    return (
        f"{path}: the first line is not a whole JSON object; one object per line is "
        f"expected: jq -c . {path} > {path.stem}-lines.jsonl"
    )


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_request(keys: dict[str, Any]) -> bool:
    """Whether a line is a batch request, or means to be one and lacks only its url."""
    if "custom_id" not in keys or "body" not in keys:
        return False
    return "url" in keys or isinstance(keys["body"], dict)


def _separator(path: Path, header: bytes) -> str:
    """The character that splits the header most often; a comma when in doubt."""
    if path.suffix.lower() in {".tsv", ".tab"}:
        return "\t"
    text = _QUOTED.sub("", header.decode("utf-8", "replace"))
    return max(_SEPARATORS, key=text.count)
