from __future__ import annotations

import re
from pathlib import Path

import pytest

from fake_openai_batch import FakeOpenAI

PAGE = Path(__file__).resolve().parents[3] / "docs" / "library.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_page_runs(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with FakeOpenAI() as server:
        monkeypatch.setenv("BATCHWRIGHT_BASE_URL", server.base_url)
        monkeypatch.setenv("BATCHWRIGHT_API_KEY", server.api_key)

        exec(compile(example, str(PAGE), "exec"), {})

        assert server.calls
