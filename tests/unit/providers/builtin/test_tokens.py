from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.providers.builtin.tokens import count_tokens, split_tokens


@given(st.text())
def test_pieces_join_to_the_text(text: str) -> None:
    pieces = split_tokens(text)

    assert "".join(pieces) == text
    assert len(pieces) == count_tokens(text)


def test_words_punctuation_and_ideographs_are_counted() -> None:
    assert split_tokens("I like it, 我喜欢!") == ["I", " like", " it", ",", " 我", "喜", "欢", "!"]


def test_each_sentiment_is_one_token() -> None:
    assert [count_tokens(word) for word in ("positive", "negative", "neutral")] == [1, 1, 1]


def test_a_long_word_is_several_tokens() -> None:
    assert split_tokens("incomprehensible") == ["incompre", "hensible"]
