"""Embeddings, and what they are good for: which sentences are about the same thing?

Nothing is made up here: `builtin/embedding` is part of batchwright and runs on this machine. It
compares words and parts of words. A model that knows meanings finds more:

    python examples/nearest_sentences.py
    OPENAI_API_KEY=… python examples/nearest_sentences.py --model text-embedding-3-small
"""

from __future__ import annotations

import argparse
from heapq import nlargest
from operator import mul
from pathlib import Path
from typing import Any

from batchwright import run

Row = dict[str, Any]

SENTENCES = Path(__file__).parent / "sentences.jsonl"
SHOWN = 6
NEIGHBOURS = 3


def main() -> None:
    """Embed every sentence, then print a few of them with their nearest neighbours."""
    parser = argparse.ArgumentParser(description="Find the nearest neighbours of sentences.")
    parser.add_argument("--model", default="builtin/embedding", help="default: %(default)s")
    model = parser.parse_args().model

    table = run(SENTENCES, embed="text", model=model)

    rows = table.filter(table["embedding"].is_not_null()).to_dicts()
    print(f"{len(rows)} of {len(table)} sentences embedded with {model}.")
    for row in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]:
        print(f"\n{row['text']}")
        for likeness, other in nearest(row, rows):
            print(f"  {likeness:.2f}  {other['topic']:<11} {other['text']}")


def nearest(row: Row, rows: list[Row]) -> list[tuple[float, Row]]:
    """The rows most like `row`: the vectors have length 1, so their product is the cosine."""
    others = (other for other in rows if other is not row)
    scored = ((sum(map(mul, row["embedding"], other["embedding"])), other) for other in others)
    return nlargest(NEIGHBOURS, scored, key=lambda pair: pair[0])


if __name__ == "__main__":
    main()
