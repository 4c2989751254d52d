"""The worked examples, run as a reader would run them: no key, no network."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SOURCE = EXAMPLES.parent / "src"


def run_example(name: str, folder: Path, *arguments: str) -> str:
    """What the example prints. It runs in another folder, without any key or setting."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_it_is_a_rehearsal(printed: str, folder: Path) -> None:
    """It says so before anything else, and leaves nothing behind."""
    assert printed.startswith("Rehearsal: the answers are made up")
    assert list(folder.iterdir()) == []


def rows(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_ticket_gets_one_of_the_categories(tmp_path: Path) -> None:
    printed = run_example("classify_tickets", tmp_path)

    assert_it_is_a_rehearsal(printed, tmp_path)
    tickets = rows("tickets.csv")
    shown = re.findall(r"^(\d{6})  ([a-z-]+) +(.+)$", printed, re.MULTILINE)
    assert [(key, subject) for key, _, subject in shown] == [
        (ticket["ticket_id"], ticket["subject"]) for ticket in tickets[:10]
    ]
    counts = dict(re.findall(r"^  ([a-z-]+) +(\d+)$", printed, re.MULTILINE))
    assert set(counts) <= {
        *("billing", "delivery", "defect", "account", "how-to", "wish", "praise"),
    }
    assert len(counts) > 1
    assert sum(int(count) for count in counts.values()) == len(tickets)
    assert f"{len(tickets)} of {len(tickets)} tickets" in printed
    assert "failed" not in printed


def test_every_product_gets_a_text_that_says_it_is_rehearsed(tmp_path: Path) -> None:
    printed = run_example("product_texts", tmp_path, "--model", "any-model")

    assert_it_is_a_rehearsal(printed, tmp_path)
    products = rows("products.csv")
    texts = re.findall(r"^(.+) \((\d{6})\)\n  \[sandbox \w+\] \w", printed, re.MULTILINE)
    assert texts == [(product["name"], product["sku"]) for product in products[:4]]
    assert f"{len(products)} of {len(products)} products have a text." in printed
    assert "failed" not in printed


def test_the_nearest_sentences_are_about_the_same_thing_more_often_than_not(
    tmp_path: Path,
) -> None:
    printed = run_example("nearest_sentences", tmp_path)

    lines = (EXAMPLES / "sentences.jsonl").read_text(encoding="utf-8").splitlines()
    topic_of = {row["text"]: row["topic"] for row in map(json.loads, lines)}
    blocks = [block.splitlines() for block in printed.split("\n\n")[1:]]
    assert len(blocks) == 6
    neighbours = [
        (topic_of[text], float(likeness), topic, topic_of[other])
        for text, *nearest in blocks
        for likeness, topic, other in (line.split(maxsplit=2) for line in nearest)
    ]
    assert len(neighbours) == 18
    assert all(topic == true_topic for _, _, topic, true_topic in neighbours)
    assert all(0 < likeness < 1 for _, likeness, _, _ in neighbours)
    # By chance it would be one in eight.
    assert sum(own == topic for own, _, topic, _ in neighbours) > len(neighbours) / 2
