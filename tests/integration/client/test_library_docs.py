from __future__ import annotations

import re
from pathlib import Path

import pytest

from fake_openai_batch import FakeOpenAI

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "library.md"
IN_PROCESS = "from batchwright import run\n"  # such an example asks no server
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_page_runs(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with FakeOpenAI() as server:
        monkeypatch.setenv("BATCHWRIGHT_BASE_URL", server.base_url)
        monkeypatch.setenv("BATCHWRIGHT_API_KEY", server.api_key)

        exec(compile(example, str(PAGE), "exec"), {})

        assert bool(server.calls) != (IN_PROCESS in example)
