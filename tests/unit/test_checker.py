from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchwright.checker import HashTable, verify_files
from batchwright.domain.errors import UsageError

BATCH = "0" * 31 + "7"
CHAT = "/v1/chat/completions"

Lines = list[bytes]
Damage = Callable[[Lines, Lines], None]


def request(number: int) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"hello {number}"}]}
    return {"custom_id": f"id-{number}", "method": "POST", "url": CHAT, "body": body}


def result(number: int, **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}}
    return {
        "id": f"batch_req_{BATCH}_{number}",
        "custom_id": f"id-{number}",
        "response": {
            "status_code": 200,
            "request_id": f"req_{number}",
            "body": {"object": "chat.completion", "choices": [choice]},
        },
        "error": None,
        "batchwright": {"attempts": 1},
        **changes,
    }


def refused(number: int, **changes: Any) -> dict[str, Any]:
    error = {"message": "no", "type": "invalid_request_error", "param": None, "code": None}
    response = {"status_code": 400, "request_id": f"req_{number}", "body": {"error": error}}
    return result(number, **{"response": response, **changes})


def expired(number: int, **changes: Any) -> dict[str, Any]:
    error = {"code": "batch_expired", "message": "too late"}
    return result(number, **{"response": None, "error": error, **changes})


def line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def whole() -> tuple[Lines, Lines]:
    """The results of seven requests: five answers and two failures."""
    return [line(result(number)) for number in range(1, 6)], [line(refused(6)), line(expired(7))]


def replaced(place: int, value: dict[str, Any]) -> Damage:
    def damage(output: Lines, errors: Lines) -> None:
        output[place] = line(value)

    return damage


def replaced_error(place: int, value: dict[str, Any]) -> Damage:
    def damage(output: Lines, errors: Lines) -> None:
        errors[place] = line(value)

    return damage


def edited(old: bytes, new: bytes) -> Damage:
    """The third line of the output with other bytes."""

    def damage(output: Lines, errors: Lines) -> None:
        assert old in output[2]
        output[2] = output[2].replace(old, new, 1)

    return damage


def torn(output: Lines, errors: Lines) -> None:
    output[-1] = output[-1][:-40]


def no_last_line_break(output: Lines, errors: Lines) -> None:
    errors[-1] = errors[-1][:-1]


def swapped_ids(output: Lines, errors: Lines) -> None:
    output[0] = line(result(1, custom_id="id-2"))
    output[1] = line(result(2, custom_id="id-1"))


def success_in_errors(output: Lines, errors: Lines) -> None:
    errors.append(output.pop())


def failure_in_output(output: Lines, errors: Lines) -> None:
    output.append(errors.pop(0))


def without(key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name != key}


def answered(**changes: Any) -> dict[str, Any]:
    """The third result with a changed response."""
    return result(3, response={**result(3)["response"], **changes})


def failed_with(error: Any) -> dict[str, Any]:
    """The sixth result with another error body."""
    return refused(6, response={**refused(6)["response"], "body": {"error": error}})


DAMAGES: dict[str, tuple[str, Damage]] = {
    "a missing answer": ("missing", lambda output, errors: output.__delitem__(1)),
    "a missing failure": ("missing", lambda output, errors: errors.__delitem__(0)),
    "a doubled line": ("doubled", lambda output, errors: output.append(output[0])),
    "an id in both files": ("doubled", lambda o, e: e.append(line(refused(1, id="batch_req_x")))),
    "swapped custom_ids": ("swapped", swapped_ids),
    "a torn tail": ("torn", torn),
    "no line break at the end": ("torn", no_last_line_break),
    "half a line in the middle": ("bad_json", edited(b'"error": null', b'"er')),
    "two lines run together": ("bad_json", edited(b"\n", b"")),
    "a blank line": ("blank", lambda output, errors: output.insert(2, b"\n")),
    "zeros after a power cut": ("bad_json", lambda o, e: o.append(b"\0" * 64 + b"\n")),
    "bytes that are not UTF-8": ("bad_json", edited(b"yes", b"\xff\xfe")),
    "half of a surrogate pair": ("bad_json", edited(b"yes", b"\\ud800")),
    "a number out of range": ("bad_answer", edited(b'"index": 0', b'"index": 1e999')),
    "a key given twice": ("bad_json", edited(b'"error": null', b'"error": null, "error": null')),
    "a raw line separator": ("line_break", edited(b"yes", "\u2028".encode())),
    "a carriage return": ("line_break", edited(b"\n", b"\r\n")),
    "a line that is no object": ("bad_type", lambda o, e: o.append(b"[]\n")),
    "an unknown custom_id": ("unknown_custom_id", replaced(2, result(3, custom_id="id-33"))),
    "a custom_id in another case": ("unknown_custom_id", replaced(2, result(3, custom_id="ID-3"))),
    "a number as custom_id": ("bad_type", replaced(2, result(3, custom_id=3))),
    "no custom_id": ("missing_key", replaced(2, without("custom_id", result(3)))),
    "no error key": ("missing_key", replaced(2, without("error", result(3)))),
    "no response key": ("missing_key", replaced_error(1, without("response", expired(7)))),
    "no id": ("missing_key", replaced(2, without("id", result(3)))),
    "an id of another form": ("bad_id", replaced(2, result(3, id="req_3"))),
    "an id used twice": ("doubled_id", replaced(2, result(3, id=f"batch_req_{BATCH}_2"))),
    "a foreign key": ("unknown_key", replaced(2, result(3, note="x"))),
    "the body as a string": ("bad_type", replaced(2, answered(body='{"choices": []}'))),
    "no body": ("missing_key", replaced(2, result(3, response={"status_code": 200}))),
    "a foreign key in the response": ("unknown_key", replaced(2, answered(headers={}))),
    "the status as text": ("bad_status", replaced(2, answered(status_code="200"))),
    "a status that is none": ("bad_status", replaced(2, answered(status_code=0))),
    "no request_id": ("bad_type", replaced(2, answered(request_id=None))),
    "both null in the output": ("not_a_success", replaced(2, result(3, response=None))),
    "both set in the output": (
        "not_a_success",
        replaced(2, result(3, error={"code": "x", "message": "y"})),
    ),
    "both null in the errors": ("not_a_failure", replaced_error(1, expired(7, error=None))),
    "both set in the errors": (
        "not_a_failure",
        replaced_error(0, refused(6, error={"code": "x", "message": "y"})),
    ),
    "a success in the error file": ("not_a_failure", success_in_errors),
    "a failure in the output file": ("not_a_success", failure_in_output),
    "an answer of another endpoint": (
        "bad_answer",
        replaced(2, answered(body={"object": "list", "data": []})),
    ),
    "an error inside a 200": (
        "bad_answer",
        replaced(2, answered(body={"choices": [], "error": {"message": "x"}})),
    ),
    "an empty body": ("bad_answer", replaced(2, answered(body={}))),
    "an error body without its keys": ("missing_key", replaced_error(0, failed_with({}))),
    "an error body that is text": ("bad_type", replaced_error(0, failed_with("no"))),
    "an error without a code": (
        "missing_key",
        replaced_error(1, expired(7, error={"message": "x"})),
    ),
    "an error with a null message": (
        "bad_type",
        replaced_error(1, expired(7, error={"code": "x", "message": None})),
    ),
    "an empty output file": ("missing", lambda output, errors: output.clear()),
}


def files(folder: Path, output: Lines, errors: Lines) -> tuple[Path, Path, Path]:
    paths = folder / "in.jsonl", folder / "out.jsonl", folder / "out.errors.jsonl"
    requests = [line(request(number)) for number in range(1, 8)]
    for path, lines in zip(paths, (requests, output, errors), strict=True):
        path.write_bytes(b"".join(lines))
    return paths


def test_a_whole_result_has_no_problem(tmp_path: Path) -> None:
    found = verify_files(*files(tmp_path, *whole()))

    assert found.is_whole
    assert (found.requests, found.successes, found.failures) == (7, 5, 2)


@pytest.mark.parametrize("name", DAMAGES)
def test_planted_damage_is_caught(name: str, tmp_path: Path) -> None:
    output, errors = whole()
    code, damage = DAMAGES[name]
    damage(output, errors)

    found = verify_files(*files(tmp_path, output, errors))

    assert not found.is_whole
    assert code in {problem.code for problem in found.problems}


def test_at_least_twenty_five_kinds_of_damage_are_planted() -> None:
    assert len(DAMAGES) >= 25


def test_a_problem_names_file_and_line(tmp_path: Path) -> None:
    output, errors = whole()
    output[3] = line(result(4, response=None))
    del errors[1]

    found = verify_files(*files(tmp_path, output, errors))

    assert [(each.where, each.line, each.code) for each in found.problems] == [
        ("output", 4, "not_a_success"),
        ("input", 7, "missing"),
    ]


def test_lines_count_as_in_an_editor_where_the_input_has_blank_ones(tmp_path: Path) -> None:
    source, output, errors = files(tmp_path, *whole())
    source.write_bytes(b"\xef\xbb\xbf" + line(request(1)) + b"\r\n\n" + line(request(2)))
    output.write_bytes(line(result(1)) + line(result(2, id=f"batch_req_{BATCH}_4")))
    errors.write_bytes(b"")

    found = verify_files(source, output, errors)

    assert found.is_whole


def test_ids_of_another_service_say_nothing_about_lines(tmp_path: Path) -> None:
    source, output, errors = files(tmp_path, *whole())
    lines = [result(number, id=f"batch_req_{number * 97}") for number in range(1, 6)]
    output.write_bytes(b"".join(map(line, lines)))

    assert verify_files(source, output, errors).is_whole


def test_a_body_may_be_as_deep_as_an_answer_may_be(tmp_path: Path) -> None:
    source, output, errors = files(tmp_path, *whole())
    lines = [line(result(number)) for number in range(1, 6)]
    deep = b"[" * 98 + b"]" * 98
    lines[2] = lines[2].replace(b'"choices"', b'"deep": ' + deep + b', "choices"')
    output.write_bytes(b"".join(lines))

    assert verify_files(source, output, errors).is_whole


def test_problems_are_listed_up_to_a_bound_and_counted_beyond_it(tmp_path: Path) -> None:
    source, output, errors = files(tmp_path, [], [])
    source.write_bytes(b"".join(line(request(number)) for number in range(1, 2001)))

    found = verify_files(source, output, errors)

    assert len(found.problems) == 1000
    assert found.counts == {"missing": 2000}


def test_an_input_with_two_equal_ids_is_told(tmp_path: Path) -> None:
    source, output, errors = files(tmp_path, *whole())
    source.write_bytes(source.read_bytes() + line(request(1)))

    found = verify_files(source, output, errors)

    assert [(each.where, each.line, each.code) for each in found.problems] == [
        ("input", 8, "duplicate_request")
    ]


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    source, output, errors = files(tmp_path, *whole())
    errors.unlink()

    with pytest.raises(UsageError, match="cannot be read"):
        verify_files(source, output, errors)


def test_a_hash_table_finds_each_hash_at_its_place_while_it_grows() -> None:
    table = HashTable()
    # Hashes that meet in the same slot at first.
    hashes = [number << 10 for number in range(5000)]

    added = [table.add(hashed, number + 1) for number, hashed in enumerate(hashes)]

    assert all(added)
    assert not table.add(hashes[7], 1)
    assert [table.find(hashed) for hashed in hashes] == list(range(5000))
    assert table.value(4321) == 4322
    assert table.find(12345) is None
