from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from batchwright.domain.errors import UsageError
from batchwright.tables import RunIdentity, hash_file

RUN = RunIdentity(10, "ab", prompt="{a}", model="m", params={"seed": 7, "stop": ["x"]})


def test_the_order_of_parameters_does_not_matter() -> None:
    other = replace(RUN, params={"stop": ["x"], "seed": 7})

    assert other.differences(RUN) == []


def test_what_differs_is_said_in_sentences() -> None:
    now = RunIdentity(12, "cd", prompt="{b}", system="s", params={"seed": 8, "n": 1}, limit=3)

    assert now.differences(RUN) == [
        "The input has changed: it was 10 bytes long and is 12 now.",
        'The prompt was "{a}" and is "{b}" now.',
        'The system message is "s" now; there was none.',
        'The model was "m"; there is none now.',
        "The parameter n is 1 now; there was none.",
        "The parameter seed was 7 and is 8 now.",
        'The parameter stop was ["x"]; there is none now.',
        "The limit is 3 now; there was none.",
    ]


def test_dedupe_is_part_of_what_a_run_is() -> None:
    deduped = replace(RUN, dedupe=True)

    assert deduped.differences(RUN) == ["Dedupe is on now; it was off."]
    assert RUN.differences(deduped) == ["Dedupe is off now; it was on."]


def test_other_content_of_the_same_length_is_noticed() -> None:
    assert "other content" in replace(RUN, input_sha256="zz").differences(RUN)[0]


def test_a_long_prompt_is_shortened() -> None:
    assert "…" in replace(RUN, prompt="x" * 500).differences(RUN)[0]


def test_a_file_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")

    assert hash_file(tmp_path / "f") == (3, hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(UsageError):
        hash_file(tmp_path / "none")
