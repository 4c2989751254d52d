"""`builtin/sentiment`: positive, negative or neutral, by the VADER lexicon for English.

VADER (Hutto and Gilbert, 2014, https://github.com/cjhutto/vaderSentiment) scores a sentence
from -1 to 1 by the words it knows, with rules for negation, emphasis, emoticons and emoji.
It knows no other language, no irony and no subject: a text in German is mostly `neutral`.

A text is scored sentence by sentence. Sentences without any opinion do not count; the mean of
the others decides, beyond ±0.05, the threshold that VADER's authors give. The conclusion
weighs more than the beginning, as in VADER's rule for what follows a `but`.

VADER's time is quadratic in the words of what it is given, so a very long sentence is scored
in windows, and what no person writes as one sentence is refused.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Protocol

from batchwright.domain.errors import UsageError

SENTENCE_BYTES_MAX = 8 * 1024
TEXT_BYTES_MAX = 64 * 1024
THRESHOLD = 0.05

# White space after the end of a sentence (and what closes it), or a line break.
_SENTENCE_END = re.compile(r"(?:(?<=[.!?…。])|(?<=[.!?…][\"'”’)\]]))\s+|\s*\n\s*")
# 128 words and other characters, cut before white space where there is any.
_WINDOW = re.compile(r"(?:\w++|\W){1,128}(?=\s|\Z)|(?:\w++|\W){1,128}")
_STRAIGHT_QUOTES = str.maketrans("’‘“”", "''\"\"")  # the lexicon writes don't, not don’t


class _Analyzer(Protocol):
    def polarity_scores(self, text: str) -> dict[str, float]: ...


def classify(text: str) -> str:
    """`positive`, `negative` or `neutral`.

    Takes up to 64 KiB in all and 8 KiB a sentence, in UTF-8; raises `UsageError` beyond.
    May take tenths of a second for the longest texts: call it off the event loop.
    """
    score = compound(text)
    if score >= THRESHOLD:
        return "positive"
    return "negative" if score <= -THRESHOLD else "neutral"


def compound(text: str) -> float:
    """The weighted mean score of the sentences that hold an opinion, from -1 to 1, or 0.

    Weights rise evenly over the text, to twice the first one's at the end.
    """
    windows = [window for sentence in _sentences(text) for window in _WINDOW.findall(sentence)]
    total = weights = 0.0
    for index, window in enumerate(windows):
        if score := _analyzer().polarity_scores(window)["compound"]:
            weight = 1 + index / len(windows)
            total += weight * score
            weights += weight
    return total / weights if weights else 0.0


def _sentences(text: str) -> list[str]:
    _check_size("The text", text, TEXT_BYTES_MAX)
    sentences = [s for s in _SENTENCE_END.split(text.translate(_STRAIGHT_QUOTES)) if s]
    for sentence in sentences:
        _check_size(f"A sentence (it begins with {sentence[:40]!r})", sentence, SENTENCE_BYTES_MAX)
    return sentences


def _check_size(what: str, text: str, size_bytes_max: int) -> None:
    if len(text) * 4 <= size_bytes_max:  # no character takes more than four bytes
        return
    size_bytes = len(text.encode())
    if size_bytes > size_bytes_max:
        raise UsageError(
            f"{what} has {size_bytes:,} bytes; builtin/sentiment takes at most "
            f"{TEXT_BYTES_MAX:,} bytes of text and {SENTENCE_BYTES_MAX:,} bytes a sentence.",
            code="string_above_max_length",
        )


@cache
def _analyzer() -> _Analyzer:
    # Imported at the first use: the lexicon takes a moment, and most programs never need it.
    from vaderSentiment.vaderSentiment import (  # type: ignore[import-untyped]
        SentimentIntensityAnalyzer,
    )

    analyzer: _Analyzer = SentimentIntensityAnalyzer()
    return analyzer
