"""The token count of the builtin models: pieces of text that join to the text again.

A piece is up to eight letters or digits, or one other character, with the white space
character before it; or a run of white space that belongs to neither.
From U+2E80 on (Chinese, Japanese, Korean, emoji) each character is a piece.
English comes to about 1.3 pieces a word, close to what larger models count.
"""

from __future__ import annotations

import re

_PIECE = re.compile(r"\s?(?:[^\W\u2e80-\U0010ffff]{1,8}|\S)|\s+")


def split_tokens(text: str) -> list[str]:
    """The pieces of a text, in order; joined they are the text."""
    return [match.group() for match in _PIECE.finditer(text)]


def count_tokens(text: str) -> int:
    """How many pieces a text has."""
    # Not `findall`: on a long text it would keep every other thread waiting until its end.
    return sum(1 for _ in _PIECE.finditer(text))
