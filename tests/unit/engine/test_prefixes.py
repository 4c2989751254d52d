"""Putting together what begins alike: a permutation, in groups, in the order of first lines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise

from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.prefixes import FIRST_BYTES, STEP_BYTES, Arrangement, Prefixes, Walk

# A letter is a block, and a prompt a few of them: so that they often have blocks in common.
WORDS = st.lists(st.text("abc", max_size=6), max_size=60)


def prompt(word: str) -> bytes:
    """A block for each letter, and an end that no other has."""
    sizes = [FIRST_BYTES, *[STEP_BYTES] * len(word)]
    return b"".join(each.encode() * size for each, size in zip(word, sizes, strict=False))


def arranged(words: Sequence[str], kinds: Sequence[bytes] = ()) -> Arrangement:
    prefixes = Prefixes()
    for place, word in enumerate(words):
        prefixes.add(kinds[place] if kinds else b"m", prompt(word) + b"%d" % place)
    return prefixes.arrange()


def sent(words: Sequence[str]) -> list[str]:
    return [words[line] for line in arranged(words).order]


@given(WORDS)
def test_every_line_comes_once(words: list[str]) -> None:
    assert sorted(arranged(words).order) == list(range(len(words)))


@given(WORDS)
def test_lines_that_share_the_first_block_are_neighbours(words: list[str]) -> None:
    first_blocks = [word[0] for word in sent(words) if word]
    changes = sum(a != b for a, b in pairwise(first_blocks))
    assert changes == max(0, len(dict.fromkeys(first_blocks)) - 1)


@given(WORDS)
def test_groups_stand_in_the_order_of_their_first_lines(words: list[str]) -> None:
    first_blocks = [word[0] for word in words if word]
    assert list(dict.fromkeys(word[0] for word in sent(words) if word)) == list(
        dict.fromkeys(first_blocks)
    )


@given(WORDS, st.integers(0, 5))
def test_lines_with_the_same_prompt_keep_their_order(words: list[str], chosen: int) -> None:
    words = [*words, "abab"[:chosen], "ab", "abab"[:chosen]]
    order = list(arranged(words).order)
    same = [line for line in order if words[line] == "abab"[:chosen]]
    assert same == sorted(same)


@given(st.lists(st.integers(0, 40), max_size=60, unique=True))
def test_lines_that_share_nothing_keep_their_places(numbers: list[int]) -> None:
    prefixes = Prefixes()
    for number in numbers:
        prefixes.add(b"m", b"%04d" % number + b"x" * FIRST_BYTES)
    found = prefixes.arrange()
    assert list(found.order) == list(range(len(numbers)))
    assert found.says_nothing


def test_what_is_shared_further_on_is_together_within_what_is_shared_at_first() -> None:
    words = ["aax", "aby", "c", "aax", "aby", "aax", "aby", "aax", "aby", "c"]
    order = sent(words)
    # The first of each shows where they part, and stands before what comes later.
    assert order[2:8] in (["aby"] * 3 + ["aax"] * 3, ["aax"] * 3 + ["aby"] * 3)
    assert order[8:] == ["c", "c"]


def test_models_share_no_cache() -> None:
    order = arranged(["a", "a", "a", "a"], [b"m", b"n", b"m", b"n"]).order
    assert list(order) == [0, 2, 1, 3]


def test_less_than_the_first_block_is_no_long_prefix() -> None:
    prefixes = Prefixes()
    for number in range(4):
        prefixes.add(b"m", b"%d" % (number % 2) * (FIRST_BYTES - 1))
    assert prefixes.arrange().says_nothing


def test_what_is_kept_of_single_prefixes_and_of_groups_is_bounded() -> None:
    prefixes = Prefixes(groups_max=2, seen_max=3)
    for number in [*range(10), 9, 9, 8, 8, 7, 7, 6, 6]:
        prefixes.add(b"m", prompt(chr(97 + number)))
    assert len(prefixes._seen) <= 3
    assert len(prefixes._groups) == 2
    order = list(prefixes.arrange().order)
    assert sorted(order) == list(range(18))
    assert order[8:14] == [8, 12, 13, 9, 10, 11]  # the last two that came once, and came again


# Going through it, with forerunners


def walked(found: Arrangement, lead: int, done: Sequence[int] = ()) -> list[int]:
    walk = Walk(found, is_done=lambda line: line in done)
    walk.lead = lead
    return list(walk)


@given(WORDS, st.integers(0, 80), st.lists(st.integers(0, 59), max_size=20))
def test_a_walk_gives_every_undone_line_once(words: list[str], lead: int, done: list[int]) -> None:
    lines = walked(arranged(words), lead, done)
    assert sorted(lines) == [line for line in range(len(words)) if line not in done]


@given(WORDS)
def test_without_a_lead_a_walk_is_the_order(words: list[str]) -> None:
    found = arranged(words)
    assert walked(found, 0) == list(found.order)


@given(WORDS, st.integers(0, 80), st.integers(0, 60))
def test_a_copy_goes_on_as_the_walk_does(words: list[str], lead: int, count: int) -> None:
    walk = Walk(arranged(words))
    walk.lead = lead
    before = list(islice(walk, count))
    copied = list(walk.copy())
    assert copied == list(walk)
    assert sorted(before + copied) == list(range(len(words)))


@given(WORDS, st.integers(0, 80), st.data())
def test_lines_that_are_done_on_the_way_change_nothing_for_those_to_come(
    words: list[str], lead: int, data: st.DataObject
) -> None:
    done: dict[int, None] = {}
    walk = Walk(arranged(words), is_done=done.__contains__)
    walk.lead = lead
    before = list(islice(walk, data.draw(st.integers(0, 60))))
    if before:
        done.update(dict.fromkeys(data.draw(st.lists(st.sampled_from(before)))))
    assert sorted([*before, *walk]) == list(range(len(words)))


def test_the_first_of_each_group_goes_out_ahead_of_the_others() -> None:
    words = ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    lines = walked(arranged(words), 3)
    assert [words[line] for line in lines] == [*"aaabaa", *"bbcbb", *"cccc"]
    assert [line for line in lines if words[line] == "b"] == [5, 6, 7, 8, 9]


def test_of_a_group_begun_before_the_first_that_is_not_done_leads() -> None:
    words = ["a"] * 3 + ["b"] * 4
    assert walked(arranged(words), 2, done=[3]) == [0, 1, 4, 2, 5, 6]


def test_a_group_that_is_done_has_no_forerunner() -> None:
    words = ["a"] * 3 + ["b"] * 3 + ["c"] * 2
    assert walked(arranged(words), 5, done=[3, 4, 5]) == [0, 1, 6, 2, 7]


def test_the_lead_may_change_on_the_way() -> None:
    words = ["a"] * 3 + ["b"] * 2 + ["c"] * 2
    walk = Walk(arranged(words))
    first = [next(walk), next(walk)]
    walk.lead = 10
    assert [*first, *walk] == [0, 1, 2, 5, 3, 4, 6]
