"""Forms cut into chunks anywhere read the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.errors import UsageError
from batchwright.server.errors import UnsupportedBody
from batchwright.server.multipart import FormReader, boundary_of, clean_filename

TYPE = "multipart/form-data; boundary=BB"

contents = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n--B", b"\r\n--BBx", b"-", b'{"a": 1}\n', b"\0"]),
    max_size=12,
).map(b"".join)


def form_of(content: bytes) -> bytes:
    return (
        b'--BB\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n"
        b'--BB\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--BB--\r\n'
    )


@given(contents, st.integers(1, 40))
def test_any_cut_gives_the_same_file_and_fields(content: bytes, size: int) -> None:
    body = form_of(content)
    form = FormReader(TYPE, file_field="file")

    pieces: list[bytes] = []
    for start in range(0, len(body), size):
        pieces += form.feed(body[start : start + size])
    form.finish()

    assert b"".join(pieces) == content
    assert form.fields == {"purpose": "batch"}
    assert form.filename == "a.jsonl"


def test_a_form_that_ends_early_is_refused() -> None:
    form = FormReader(TYPE, file_field="file")
    form.feed(form_of(b"content")[:-30])

    with pytest.raises(UsageError, match="last boundary"):
        form.finish()


@pytest.mark.parametrize("name", ["file", "purpose"])
def test_a_part_that_comes_twice_is_refused(name: str) -> None:
    part = f'--BB\r\nContent-Disposition: form-data; name="{name}"\r\n\r\nx\r\n'.encode()
    form = FormReader(TYPE, file_field="file")

    with pytest.raises(UsageError, match="two parts") as refused:
        form.feed(part * 2)
    assert refused.value.param == name


def test_a_file_part_needs_no_name() -> None:
    form = FormReader(TYPE, file_field="data")
    form.feed(b'--BB\r\nContent-Disposition: form-data; name="data"\r\n\r\nx\r\n--BB--\r\n')
    form.finish()

    assert form.filename == "upload"


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 71],
)
def test_other_types_and_boundaries_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedBody):
        boundary_of(content_type)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"", "upload"),
        (b"../../x", "../../x"),
        (b"a\0b", "a\ufffdb"),
        (b"\xff", "\ufffd"),
        ("é".encode() * 200, "é" * 127),
    ],
)
def test_a_file_name_is_kept_as_text_of_at_most_255_bytes(given: bytes, kept: str) -> None:
    assert clean_filename(given) == kept
