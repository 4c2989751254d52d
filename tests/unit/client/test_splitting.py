from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright.client.splitting import Numbered, plan_file
from batchwright.domain.errors import UsageError


def line(number: int, url: str = "/v1/chat/completions", **body: object) -> bytes:
    request = {"custom_id": str(number), "method": "POST", "url": url, "body": body}
    return json.dumps(request).encode() + b"\n"


def test_a_small_file_is_one_part(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(line(1) + line(2))

    plan = plan_file(path)

    assert plan.endpoint == "/v1/chat/completions"
    assert [(part.start, part.requests) for part in plan.parts] == [(0, 2)]
    assert plan.size_bytes == path.stat().st_size


def test_parts_follow_the_limit_of_requests_and_know_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(line(n) for n in range(7)))

    plan = plan_file(path, requests_max=3)

    assert [(part.first_line, part.requests) for part in plan.parts] == [(1, 3), (4, 3), (7, 1)]


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=30),
    requests_max=st.integers(1, 8),
    size_bytes_max=st.integers(100, 600),
    blank=st.booleans(),
    last=st.booleans(),
)
def test_parts_join_to_the_whole_file_within_the_limits(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    requests_max: int,
    size_bytes_max: int,
    blank: bool,
    last: bool,
) -> None:
    path = tmp_path_factory.mktemp("split") / "in.jsonl"
    lines = [line(n, text="x" * size) + (b"\n" if blank else b"") for n, size in enumerate(sizes)]
    content = b"".join(lines) if last else b"".join(lines).rstrip(b"\n")
    path.write_bytes(content)

    plan = plan_file(path, requests_max=requests_max, size_bytes_max=size_bytes_max)

    pieces = [content[part.start : part.start + part.size_bytes] for part in plan.parts]
    assert b"".join(pieces).rstrip() == content.rstrip()
    assert plan.requests == len(sizes)
    assert all(part.requests <= requests_max for part in plan.parts)
    assert all(part.size_bytes <= size_bytes_max for part in plan.parts if part.requests > 1)


def named(*names: str) -> bytes:
    return b"".join(
        b'{"custom_id":"%b","url":"/v1/chat/completions","body":{}}\n' % name.encode()
        for name in names
    )


def test_ids_of_our_making_are_known_part_by_part(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(named(*(f"request-{number:02d}" for number in range(1, 11))))

    parts = plan_file(path, requests_max=4).parts

    assert [str(part.numbered) for part in parts] == ["01-04", "05-08", "09-10"]
    numbered = Numbered.parse("09-10")
    assert numbered == parts[2].numbered
    assert numbered is not None
    assert numbered.ids == ["request-09", "request-10"]


@pytest.mark.parametrize(
    "names",
    [
        ("request-2", "request-1"),
        ("request-1", "request-3"),
        ("request-01", "request-2"),
        ("request-9", "request-10"),
        ("a", "request-2"),
    ],
)
def test_other_ids_are_not_taken_for_ours(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(named(*names))

    assert plan_file(path).parts[0].numbered is None


@pytest.mark.parametrize("text", [None, 7, "", "1", "1-", "01-2", "a-b", "1-2-3"])
def test_other_metadata_is_no_numbering(text: object) -> None:
    assert Numbered.parse(text) is None


def test_each_embedding_input_counts(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    url = "/v1/embeddings"
    path.write_bytes(line(1, url, input=["a", "b"]) + line(2, url, input="c") + line(3, url))

    plan = plan_file(path, requests_max=3)

    assert [part.requests for part in plan.parts] == [2, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no request"), (b"\n \n", "no request"), (b"{", "not JSON"), (b"[]", "object"),
     (b"{}", "url")],
)  # fmt: skip
def test_what_is_no_batch_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)

    with pytest.raises(UsageError, match=message):
        plan_file(path)


@pytest.mark.parametrize(("name", "what"), [("nothing.jsonl", "not there"), ("", "a folder")])
def test_what_is_no_file_is_told(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(UsageError, match=f"expected a file of batch requests .* is {what}"):
        plan_file(tmp_path / name)
