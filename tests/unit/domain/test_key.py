"""API keys: their form, and that a wrong one is told from a right one without a look-up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.key import CONFIGURED_ID, digest_of, lookup_id, make_token, public_id

RANDOM = st.binary(min_size=40, max_size=40)


@given(RANDOM)
def test_a_key_carries_its_public_id_and_its_check(random_bytes: bytes) -> None:
    token = make_token(random_bytes)
    prefix, public, secret = token.split("_")
    assert (prefix, len(public), len(secret)) == ("bw", 8, 49)
    assert public_id(token) == lookup_id(token) == public


@given(RANDOM, st.integers(0, 60), st.sampled_from("0aZz_-é"))
def test_a_single_wrong_character_is_found(random_bytes: bytes, at: int, put: str) -> None:
    token = make_token(random_bytes)
    at %= len(token)
    changed = token[:at] + put + token[at + 1 :]
    assert public_id(changed) == (public_id(token) if changed == token else None)


@given(st.text(max_size=80))
def test_any_other_text_is_no_key_of_ours_and_breaks_nothing(text: str) -> None:
    assert public_id(text) is None
    assert lookup_id(text) == CONFIGURED_ID


@given(RANDOM, RANDOM)
def test_different_randomness_gives_different_keys(one: bytes, two: bytes) -> None:
    assert (make_token(one) == make_token(two)) == (one == two)


def test_the_hash_depends_on_the_pepper_and_on_every_character() -> None:
    token = make_token(bytes(range(40)))
    assert digest_of(b"a", token) == digest_of(b"a", token)
    assert len({digest_of(b"a", token), digest_of(b"b", token), digest_of(b"a", token[:-1])}) == 3
