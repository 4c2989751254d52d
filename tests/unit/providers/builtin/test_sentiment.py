from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchwright.domain.errors import UsageError
from batchwright.providers.builtin import sentiment

EXAMPLES = Path(__file__).parents[4] / "examples"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I love it, wonderful!", "positive"),
        ("Terrible. It broke on the first day and support was rude.", "negative"),
        ("The box has four sides.", "neutral"),
        ("", "neutral"),
        ("😍", "positive"),
        ("It’s great, I don’t hate it.", "positive"),
    ],
)
def test_a_text_is_classified(text: str, expected: str) -> None:
    assert sentiment.classify(text) == expected


def test_a_typographic_apostrophe_negates_like_a_straight_one() -> None:
    assert sentiment.compound("It isn’t good.") == sentiment.compound("It isn't good.") < 0


def test_sentences_without_an_opinion_do_not_dilute_the_others() -> None:
    plain = "It has a lid. " * 50

    assert sentiment.classify(f"{plain}It is excellent.") == "positive"


def test_the_conclusion_weighs_more_than_the_beginning() -> None:
    assert sentiment.compound("It is good. It is bad.") < sentiment.compound(
        "It is bad. It is good."
    )


def test_a_text_of_64_kib_is_taken_and_one_byte_more_is_refused() -> None:
    sentence = "a" * 1023 + "\n"
    text = sentence * 64

    assert sentiment.classify(text) == "neutral"
    with pytest.raises(UsageError, match=r"65,537 bytes.*at most 65,536 bytes of text"):
        sentiment.classify(text + "a")


def test_a_sentence_of_8_kib_is_taken_and_one_byte_more_is_refused() -> None:
    assert sentiment.classify("é" * 4096) == "neutral"
    with pytest.raises(UsageError, match=r"begins with 'éé.*8,194 bytes.*8,192 bytes a sentence"):
        sentiment.classify("Fine. " + "é" * 4097)


def test_a_long_run_without_any_break_is_scored_in_windows_that_hold_all_of_it() -> None:
    text = "word " * 700 + "excellent " + "😀" * 300

    windows = sentiment._WINDOW.findall(text)

    assert "".join(windows) == text
    assert len(windows) > 5
    assert not any(window[0].isalnum() and window.endswith("wor") for window in windows)


def test_the_lexicon_is_not_imported_before_it_is_used() -> None:
    program = (
        "import sys, batchwright.providers.builtin;"
        "sys.exit(any(name.startswith('vaderSentiment') for name in sys.modules))"
    )

    env = {"PYTHONPATH": os.pathsep.join(sys.path)}

    finished = subprocess.run([sys.executable, "-c", program], env=env, check=False)

    assert finished.returncode == 0


def test_the_example_reviews_are_judged_much_as_their_stars_say() -> None:
    lines = (EXAMPLES / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    judged = [(row["stars"], sentiment.classify(row["review"])) for row in map(json.loads, lines)]

    good = [answer for stars, answer in judged if stars >= 4]
    bad = [answer for stars, answer in judged if stars <= 2]

    assert good.count("positive") / len(good) > 0.9
    assert bad.count("negative") / len(bad) > 0.7
