"""Request lines in pieces: how they are cut, and how many lines a piece has."""

from batchwright.blobs.base import CHUNK_BYTES
from batchwright.local.requests import Chunk, take_chunk


def test_a_piece_counts_its_lines_the_blank_ones_too() -> None:
    lines = iter([b'{"a":1}', b"", b'{"b":2}'])

    assert take_chunk(lines) == Chunk(b'{"a":1}\n\n{"b":2}\n', 3)
    assert take_chunk(lines) == Chunk(b"", 0)


def test_blank_lines_alone_are_not_the_end() -> None:
    assert take_chunk(iter([b"", b""])) == Chunk(b"\n\n", 2)


def test_a_piece_ends_with_the_line_that_fills_it() -> None:
    lines = iter([b"x" * CHUNK_BYTES, b"y"])

    assert take_chunk(lines).lines == 1
    assert take_chunk(lines) == Chunk(b"y\n", 1)
