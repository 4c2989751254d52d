"""Ranges and names of downloads."""

from __future__ import annotations

import pytest

from batchwright.server.downloads import Span, content_disposition, parse_range
from batchwright.server.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-", Span(0, 10)),
        ("bytes=3-5", Span(3, 6)),
        ("bytes=3-999", Span(3, 10)),
        ("Bytes=3-5", Span(3, 6)),
        ("bytes=-4", Span(6, 10)),
        ("bytes=-999", Span(0, 10)),
        ("bytes=5-3", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_one_range_is_read_and_all_else_is_the_whole(header: str, span: Span | None) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_without_a_byte_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 10)


def test_nothing_in_a_name_gets_out_of_the_header() -> None:
    header = content_disposition('a"; x=\r\n\u202e/ü')

    assert header == "attachment; filename*=UTF-8''a%22%3B%20x%3D%0D%0A%E2%80%AE%2F%C3%BC"
