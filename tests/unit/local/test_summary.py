from __future__ import annotations

from batchwright.local.summary import CAUSES_MAX, Cause, Causes


def test_errors_that_differ_only_in_numbers_and_ids_are_of_one_cause() -> None:
    causes = Causes()
    causes.add(3, "429: wait 20 s (request 0a1b2c3d4e5f)", is_failure=True)
    causes.add(4, "400: bad", is_failure=True)
    causes.add(9, "429: wait 7 s (request ffffffff0000)", is_failure=True)

    assert list(causes) == [
        Cause(2, 3, "429: wait 20 s (request 0a1b2c3d4e5f)"),
        Cause(1, 4, "400: bad"),
    ]


def test_answers_without_text_are_no_failures() -> None:
    causes = Causes()
    causes.add(1, "refused: no", is_failure=False)
    causes.add(2, "500: oops", is_failure=True)

    assert (causes.failed, causes.unanswered) == (1, 1)


def test_an_example_is_one_short_line_without_control_characters() -> None:
    causes = Causes()
    causes.add(1, "\x1b[31mred\nand " + "long " * 200, is_failure=True)

    (cause,) = causes

    assert cause.text.startswith("[31mred and long")
    assert cause.text.isprintable()
    assert len(cause.text) <= 300


def test_causes_without_end_are_counted_together() -> None:
    causes = Causes()
    words = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}!" for i in range(CAUSES_MAX + 50)]
    for number, word in enumerate(words, start=1):
        causes.add(number, word, is_failure=True)

    found = list(causes)

    assert len(found) == CAUSES_MAX + 1
    assert found[0] == Cause(50, CAUSES_MAX + 1, words[CAUSES_MAX])
    assert causes.failed == CAUSES_MAX + 50
