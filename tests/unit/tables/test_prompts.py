from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.errors import UsageError
from batchwright.tables import compile_prompt, read_prompt


def test_a_column_in_braces_becomes_its_cell() -> None:
    prompt = compile_prompt("{a} and { b } and {a}", ["b", "a"])

    assert prompt.columns == ("a", "b")
    assert prompt.render(("1", "2")) == "1 and 2 and 1"


def test_a_null_cell_is_empty_text() -> None:
    assert compile_prompt("<{a}>", ["a"]).render((None,)) == "<>"


def test_doubled_braces_are_literal() -> None:
    assert compile_prompt('{{"label": "{a}"}}', ["a"]).render(("x",)) == '{"label": "x"}'


@pytest.mark.parametrize("name", ["a.b", "a[0]", "a:>10", "a!r", "0", "naïve name", "%s"])
def test_a_column_of_any_name_can_be_named(name: str) -> None:
    assert compile_prompt(f"{{{name}}}", [name]).render(("x",)) == "x"


@given(st.text(), st.text().filter(bool))
def test_cells_are_never_interpreted(cell: str, around: str) -> None:
    literal = around.replace("{", "{{").replace("}", "}}")

    assert compile_prompt(literal + "{a}", ["a"]).render((cell,)) == around + cell


def test_a_missing_column_lists_the_columns_and_the_nearest() -> None:
    with pytest.raises(UsageError) as raised:
        compile_prompt("{Reviw}", ["id", "review"])

    assert '"Reviw"' in raised.value.message
    assert "the columns are: id, review" in raised.value.message
    assert 'Did you mean "review"?' in raised.value.message


@pytest.mark.parametrize("template", ["{a.text}", "{a[0]}", "{a:>10}", "{a!r}", '{"x": 1}', "{}"])
def test_attributes_indexes_and_formats_are_refused_in_words(template: str) -> None:
    with pytest.raises(UsageError, match="no attribute, index or format"):
        compile_prompt(template, ["a"])


@pytest.mark.parametrize(
    ("template", "where"), [("x\n{a} }", "line 2, character 5"), ("{a", "line 1")]
)
def test_a_stray_brace_is_refused_with_its_place(template: str, where: str) -> None:
    with pytest.raises(UsageError, match=where):
        compile_prompt(template, ["a"])


def test_a_prompt_without_a_column_is_refused() -> None:
    with pytest.raises(UsageError, match="names no column"):
        compile_prompt("Classify", ["a"])


def test_many_columns_are_not_all_listed() -> None:
    with pytest.raises(UsageError, match="and 50 more"):
        compile_prompt("{x}", [f"c{n}" for n in range(100)])


def test_a_prompt_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes("\ufeffClassify:\n\n{a}\r\n".encode())

    assert read_prompt(f"@{path}") == "Classify:\n\n{a}"
    assert read_prompt("@@home {a}") == "@home {a}"
    assert read_prompt("plain {a}\n") == "plain {a}\n"


def test_a_prompt_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")

    with pytest.raises(UsageError, match="No such file"):
        read_prompt(f"@{tmp_path}/none")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_prompt(f"@{tmp_path}/latin")
