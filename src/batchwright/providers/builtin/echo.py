"""`builtin/echo`: answers with what it was told, for dry runs and tests."""

from __future__ import annotations


def repeat(text: str) -> str:
    """The text itself."""
    return text
