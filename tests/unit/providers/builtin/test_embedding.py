from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright.providers.builtin.embedding import embed, to_base64

EXAMPLES = Path(__file__).parents[4] / "examples"


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@settings(max_examples=50)
@given(st.text(), st.sampled_from([1, 2, 3, 64, 256, 1536]))
def test_every_text_has_a_vector_of_unit_length(text: str, dimensions: int) -> None:
    vector = embed(text, dimensions)

    assert len(vector) == dimensions
    assert math.isclose(cosine(vector, vector), 1.0, abs_tol=1e-5)


def test_a_vector_is_the_same_in_every_process_and_version() -> None:
    assert embed("a kettle that leaks", 4) == [0.32619323, 0.26625422, -0.59244745, 0.68681342]


def test_similar_texts_are_nearer_than_others() -> None:
    broken = embed("The phone charger stopped working")

    similar = cosine(broken, embed("My phone's charger does not work any more"))
    other = cosine(broken, embed("A novel about two sisters in Lisbon"))

    assert similar > 0.4 > 0.2 > other


def test_case_and_width_of_letters_do_not_matter() -> None:
    assert embed("Ｋettle") == embed("KETTLE") == embed("kettle")


def test_base64_is_the_vector_as_little_endian_float32() -> None:
    vector = embed("kettle", 8)

    decoded = struct.unpack("<8f", base64.b64decode(to_base64(vector)))

    assert decoded == pytest.approx(vector, abs=1e-7)


def test_the_nearest_example_sentence_is_mostly_of_the_same_topic() -> None:
    lines = (EXAMPLES / "sentences.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    vectors = [embed(row["text"]) for row in rows]

    hits = 0
    for index, vector in enumerate(vectors):
        others = (other for other in range(len(rows)) if other != index)
        nearest = max(others, key=lambda other: cosine(vector, vectors[other]))
        hits += rows[nearest]["topic"] == rows[index]["topic"]

    assert len(rows) == 80
    assert hits >= 0.9 * len(rows)
