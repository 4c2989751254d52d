from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.lines import Line, LineSplitter

BOM = b"\xef\xbb\xbf"
PIECES = st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b" ", BOM, "\u2028".encode(), b"\0"])
FILES = st.lists(PIECES, max_size=40).map(b"".join)


def split(*chunks: bytes, line_bytes_max: int = 100) -> list[Line]:
    splitter = LineSplitter(line_bytes_max=line_bytes_max)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*lines, *splitter.finish()]


def reference(data: bytes, line_bytes_max: int) -> list[Line]:
    physical = data.split(b"\n")
    starts = accumulate((len(line) + 1 for line in physical), initial=0)
    lines = []
    for number, (offset, content) in enumerate(zip(starts, physical, strict=False), 1):
        marked = number == 1 and content.startswith(BOM)
        content = content.removeprefix(BOM) if marked else content
        if not content.strip():
            continue
        content = content.removesuffix(b"\r")
        if len(content) > line_bytes_max:
            lines.append(Line(number, offset, None))
        else:
            lines.append(Line(number, offset + 3 * marked, content))
    return lines


@given(FILES, st.lists(st.integers(0, 60), max_size=6), st.integers(3, 12))
def test_any_chunking_gives_the_same_lines(data: bytes, cuts: list[int], limit: int) -> None:
    bounds = [0, *sorted(cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(bounds)]

    lines = split(*chunks, line_bytes_max=limit)

    assert lines == reference(data, limit)


def test_only_a_line_feed_ends_a_line() -> None:
    text = "a\u2028b\u0085c\x0bd\re\x00f".encode()

    assert split(text + b"\r\n" + text) == [Line(1, 0, text), Line(2, len(text) + 2, text)]


def test_one_carriage_return_and_one_byte_order_mark_are_dropped() -> None:
    assert split(BOM + BOM + b"a\r\r\n" + BOM + b"b") == [
        Line(1, 3, BOM + b"a\r"),
        Line(2, 10, BOM + b"b"),
    ]


def test_blank_lines_are_counted_but_not_given() -> None:
    splitter = LineSplitter()

    lines = [*splitter.feed(b"\n \t\r\n\na\n\n"), *splitter.finish()]

    assert lines == [Line(4, 6, b"a")]
    assert splitter.count == 5


@pytest.mark.parametrize(("data", "count"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2)])
def test_an_unfinished_line_counts(data: bytes, count: int) -> None:
    splitter = LineSplitter()

    list(splitter.feed(data))

    assert splitter.count == count
    list(splitter.finish())
    assert splitter.count == count


def test_a_line_over_the_limit_is_reported_and_never_held() -> None:
    splitter = LineSplitter(line_bytes_max=1_000)

    for _ in range(50):
        assert list(splitter.feed(b"x" * 500)) == []
        assert sum(map(len, splitter._pending)) <= 1_500
    lines = [*splitter.feed(b"x\nshort\n"), *splitter.finish()]

    assert lines == [Line(1, 0, None), Line(2, 25_002, b"short")]


def test_a_splitter_may_start_inside_a_file() -> None:
    splitter = LineSplitter(offset=100, number=7)

    assert list(splitter.feed(BOM + b"a\nb\n")) == [Line(7, 100, BOM + b"a"), Line(8, 105, b"b")]
