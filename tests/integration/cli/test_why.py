"""`status --why` of a batch at the limit of its provider, over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchwright.cli.app import app
from batchwright.cli.edge import run
from batchwright_process import serving
from sandbox_process import SandboxProcess

Ask = Callable[..., str]


@pytest.fixture
def ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Ask]:
    """Run a command against a server whose provider allows 600 requests per minute."""
    monkeypatch.chdir(tmp_path)
    for name in ("BATCHWRIGHT_API_KEY", "BATCHWRIGHT_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def ask(*arguments: str) -> str:
        code = run(app, arguments)
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return shown.out

    with SandboxProcess("--port", "0", "--rpm", "600", "--latency", "2ms") as sandbox:
        (tmp_path / "batchwright.toml").write_text(
            f'[providers.acme]\nbase_url = "{sandbox.base_url}"\nmodels = ["m"]\n'
        )
        with serving(tmp_path):
            yield ask


def submit(ask: Ask, path: Path) -> str:
    """Submit four times what the provider allows in a minute; returns the id."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    with path.open("w") as target:
        for number in range(2400):
            request = {"custom_id": f"r{number}", "method": "POST", "body": body}
            target.write(json.dumps({**request, "url": "/v1/chat/completions"}) + "\n")
    return ask("submit", str(path)).strip()


def until(ask: Ask, batch_id: str, is_so: Callable[[Any], bool]) -> Any:
    """What the batch tells under our key, once it is so."""
    give_up_at = time.monotonic() + 30
    while not is_so(ours := json.loads(ask("status", batch_id, "--why", "--json"))["batchwright"]):
        assert time.monotonic() < give_up_at, ours
    return ours


def test_the_limit_its_figures_and_the_range_of_the_end_are_told(ask: Ask, tmp_path: Path) -> None:
    batch_id = submit(ask, tmp_path / "one.jsonl")
    ours = until(
        ask, batch_id, lambda ours: ours["limit"] is not None and ours["expected_finish_between"]
    )
    limit, (early, late) = ours["limit"], ours["expected_finish_between"]
    text = ask("status", batch_id, "--why")

    assert (limit["what"], limit["provider"], limit["unit"]) == ("requests", "acme", "requests")
    assert (limit["limit"], limit["span_s"], limit["shared_with"]) == (600, 60, None)
    assert time.time() <= early <= ours["expected_finish_at"] <= late
    assert "held back by    acme: the provider's limit of 600 requests per minute, " in text
    assert "expected end    between " in text


def test_a_second_batch_shares_the_limit_and_a_pause_leaves_it_alone(
    ask: Ask, tmp_path: Path
) -> None:
    first = submit(ask, tmp_path / "one.jsonl")
    second = submit(ask, tmp_path / "two.jsonl")
    shared = until(ask, first, lambda ours: (ours["limit"] or {}).get("within") == "requests")
    ask("pause", second)
    alone = until(ask, first, lambda ours: (ours["limit"] or {}).get("what") == "requests")
    paused = until(ask, second, lambda ours: ours["limit"] is not None)

    assert shared["limit"]["what"] == "fairness"
    assert (shared["limit"]["share"], shared["limit"]["shared_with"]) == (0.5, 1)
    assert shared["held_back_by"].startswith("shares acme with 1 other batch, 50 % of it; the ")
    assert alone["limit"]["share"] is None
    assert paused["limit"] == {**dict.fromkeys(paused["limit"]), "what": "paused"}
    assert paused["expected_finish_between"] is None
    assert "held back by    it is paused" in ask("status", second, "--why")
