"""Texts for a web shop from a table of products, with direct calls: the answers come at once.

python examples/product_texts.py
python examples/product_texts.py --base-url https://api.openai.com/v1 --model gpt-5-mini
"""

from __future__ import annotations

import csv
from pathlib import Path
from textwrap import fill

from rehearsal import place

from batchwright import process_batch

PRODUCTS = Path(__file__).parent / "products.csv"
SYSTEM_PROMPT = "You write for a small web shop. Two plain sentences, no exclamation marks."
PROMPT = "Describe the {name}: {material}, {colour}, {weight_g} g. It is for {audience}."


def main() -> None:
    """Write a text for every product; print a few, and what failed."""
    with PRODUCTS.open(newline="", encoding="utf-8") as file:
        products = list(csv.DictReader(file))

    with place("Write texts for the products of a shop.", model="gpt-5-mini") as api:
        texts = process_batch(
            [PROMPT.format(**product) for product in products],
            api.api_key,
            api.model,
            max_concurrent=20,
            base_url=api.base_url,
            system_prompt=SYSTEM_PROMPT,
        )

    # Answers come in the order of the items; one that failed is falsy and says why.
    written = [(product, text) for product, text in zip(products, texts, strict=True) if text]
    for product, text in written[:4]:
        print(f"{product['name']} ({product['sku']})")
        print(fill(text, 88, initial_indent="  ", subsequent_indent="  "), end="\n\n")
    print(f"{len(written)} of {len(products)} products have a text.")
    for product, text in zip(products, texts, strict=True):
        if not text:
            print(f"failed: {product['sku']}  {text}")


if __name__ == "__main__":
    main()
