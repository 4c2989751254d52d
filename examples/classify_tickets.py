"""Support tickets into categories, as one batch.

The schema allows the model nothing but the categories, so no answer has to be tidied up.

    python examples/classify_tickets.py
    python examples/classify_tickets.py --base-url http://127.0.0.1:8000/v1 --model gpt-5-mini
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

from rehearsal import place

from batchwright import BatchProcessor

TICKETS = Path(__file__).parent / "tickets.csv"
CATEGORIES = ["billing", "delivery", "defect", "account", "how-to", "wish", "praise"]
SYSTEM_PROMPT = "Choose the category that decides which team should read this ticket."
ONE_CATEGORY = {
    "type": "json_schema",
    "json_schema": {
        "name": "ticket",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"category": {"type": "string", "enum": CATEGORIES}},
            "required": ["category"],
            "additionalProperties": False,
        },
    },
}


def main() -> None:
    """Classify every ticket; print a few, the counts, and what failed."""
    with TICKETS.open(newline="", encoding="utf-8") as file:
        tickets = list(csv.DictReader(file))
    items = [
        {"id": ticket["ticket_id"], "content": f"{ticket['subject']}\n\n{ticket['text']}"}
        for ticket in tickets
    ]

    with (
        place("Sort support tickets into categories.", model="gpt-5-mini") as api,
        BatchProcessor(api.api_key, api.base_url) as processor,
    ):
        results = processor.run(items, SYSTEM_PROMPT, api.model, response_format=ONE_CATEGORY)

    subjects = {ticket["ticket_id"]: ticket["subject"] for ticket in tickets}
    categories = {
        result["id"]: category_in(result["response"])
        for result in results
        if result["error"] is None
    }
    for ticket_id in list(categories)[:10]:
        print(f"{ticket_id}  {categories[ticket_id]:<9} {subjects[ticket_id]}")
    print(f"\n{len(categories)} of {len(tickets)} tickets have a category:")
    for category, count in Counter(categories.values()).most_common():
        print(f"  {category:<9} {count}")
    for result in results:
        if result["error"] is not None:
            print(f"failed: {result['id']}  {result['error']}")


def category_in(answer: str) -> str:
    """The category that the schema promises, unless the model refused or was cut off."""
    try:
        return str(json.loads(answer)["category"])
    except (ValueError, KeyError, TypeError):
        return "unclear"


if __name__ == "__main__":
    main()
