from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

EXAMPLES = Path(__file__).parents[4] / "examples"


def read_csv(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def read_jsonl(name: str) -> Iterator[dict[str, object]]:
    return map(json.loads, (EXAMPLES / name).read_text(encoding="utf-8").splitlines())


def test_the_csv_holds_the_same_reviews_as_the_jsonl() -> None:
    rows = list(read_jsonl("reviews.jsonl"))
    cells = read_csv("reviews.csv")

    assert len(rows) == 240
    assert cells == [{name: str(value) for name, value in row.items()} for row in rows]
    assert [row["review_id"] for row in rows] == [f"{number:05}" for number in range(1, 241)]


def test_every_review_is_different_and_they_are_of_all_lengths() -> None:
    lengths = sorted(len(str(row["review"])) for row in read_jsonl("reviews.jsonl"))

    assert len({row["review"] for row in read_jsonl("reviews.jsonl")}) == 240
    assert lengths[0] < 15
    assert lengths[-1] > 800


def test_tickets_and_products_have_all_cells_and_unique_keys_of_fixed_width() -> None:
    for name, key, count in (("tickets.csv", "ticket_id", 60), ("products.csv", "sku", 40)):
        rows = read_csv(name)
        assert all(all(row.values()) for row in rows)
        assert len({row[key] for row in rows}) == count
        assert {len(row[key]) for row in rows} == {6}
        assert all(row[key].startswith("00") for row in rows)
