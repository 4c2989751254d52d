"""What the pages show works: each shell and Python block of the tutorials is run, in order.

A block in which `batchwright serve` or `batchwright sandbox` begins a line stands for a terminal of
its own: it is started in the background and runs until its like is started, or to the page's end.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchwright.cli.exits import Exit
from batchwright.domain.batch import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "examples" / "README.md"])
TUTORIALS = [ROOT / "README.md", DOCS / "quickstart.md", DOCS / "server.md"]
REFERENCES = [DOCS / name for name in ("command-line.md", "limits.md", "dedupe.md")]
"""Where a batch has run already."""
CONFIGURATION = DOCS / "configuration.md"

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<language>sh|python)\n(?P<code>.*?)```", re.DOTALL
)
_TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)
_ERROR = re.compile(r"```text\n(error: .*?)```", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_FENCED = re.compile(r"```.*?```", re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", TUTORIALS, ids=name_of)
def test_every_command_of_a_tutorial_works(page: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with Reader(tmp_path) as reader:
        for language, code in runnable_blocks(page):
            reader.run(language, code)


@pytest.mark.parametrize("page", REFERENCES, ids=name_of)
def test_every_command_of_a_reference_page_works(page: Path, tmp_path: Path) -> None:
    write_requests(tmp_path / "requests.jsonl")
    with Reader(tmp_path) as reader:
        reader.run("sh", "batchwright serve")
        reader.run("sh", "batchwright submit requests.jsonl --wait")
        for language, code in runnable_blocks(page):
            reader.run(language, code)


def test_every_example_of_the_configuration_is_taken(tmp_path: Path) -> None:
    examples = _TOML.findall(CONFIGURATION.read_text(encoding="utf-8"))
    assert examples
    for example in examples:
        (tmp_path / "batchwright.toml").write_text(example, encoding="utf-8")
        keys = dict.fromkeys(re.findall(r"env:(\w+)", example), "sk-of-the-example")
        shown = configuration_in(tmp_path, keys)
        assert shown.returncode == 0, f"{example}\n{shown.stderr}"


def test_wrong_settings_are_told_as_the_page_shows_it(tmp_path: Path) -> None:
    [shown] = _ERROR.findall(CONFIGURATION.read_text(encoding="utf-8"))
    (tmp_path / "batchwright.toml").write_text("[server]\nprot = 1\n", encoding="utf-8")
    refused = configuration_in(tmp_path, {"BATCHWRIGHT_LIMITS__FILE_MB": "many"})
    assert refused.returncode == Exit.USAGE
    assert refused.stderr.replace(f"{tmp_path}/", "") == shown


def configuration_in(folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What `batchwright config` says in a folder."""
    return subprocess.run(
        [Path(sys.executable).parent / "batchwright", "config"],
        cwd=folder,
        env={"HOME": str(folder), "PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def write_requests(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for text in ("Great sound!", "Broke after a week."):
            messages = [{"role": "user", "content": text}]
            body = {"model": "builtin/sentiment", "messages": messages}
            url = "/v1/chat/completions"
            line = {"custom_id": text, "method": "POST", "url": url, "body": body}
            file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    broken = [link for link in _LINK.findall(text) if not is_there(page, link)]
    assert not broken


def test_every_page_is_listed_in_the_index() -> None:
    listed = set(_LINK.findall((DOCS / "index.md").read_text(encoding="utf-8")))
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} <= listed


def test_what_is_not_run_says_why() -> None:
    for page in [*TUTORIALS, *REFERENCES]:
        for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
            assert block["mark"] is None or block["mark"].startswith("not run: ")


def test_the_states_are_drawn_as_the_table_has_them() -> None:
    page = (DOCS / "batch-life.md").read_text(encoding="utf-8")
    drawn = runpy.run_path(str(DOCS / "make_state_diagram.py"))["drawn"]
    assert page == drawn(page), "run: python docs/make_state_diagram.py"


def test_every_change_of_state_says_when_it_happens() -> None:
    page = (DOCS / "batch-life.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| \S", page, re.MULTILINE)
    assert rows == [(status, to) for status, following in TRANSITIONS.items() for to in following]


def runnable_blocks(page: Path) -> Iterator[tuple[str, str]]:
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["mark"] is None:
            yield block["language"], block["code"]


def is_there(page: Path, link: str) -> bool:
    """Whether a relative link has its file, and its anchor there. Others are not looked at."""
    if "://" in link or link.startswith("mailto:"):
        return True
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, made as GitHub makes them."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Reader:
    """A person who follows a page: types what it shows, with terminals for what keeps running.

    The ports of the page are replaced by free ones.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._terminals: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {8000: free_port(), 8080: free_port()}
        kept = {name: os.environ[name] for name in ("LANG", "TERM") if name in os.environ}
        self._environment = {
            **kept,
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "BATCHWRIGHT_SERVER__PORT": str(self._ports[8000]),
            "BATCHWRIGHT_BASE_URL": f"http://127.0.0.1:{self._ports[8000]}/v1",
        }

    def run(self, language: str, code: str) -> None:
        for shown, port in self._ports.items():
            code = re.sub(rf"(127\.0\.0\.1:|--port ){shown}\b", rf"\g<1>{port}", code)
        resident = re.match(r"batchwright (serve|sandbox)\b", code)
        if language == "python":
            self._finish([sys.executable, "-c", code], code)
        elif resident:
            self._open_terminal(resident[1], code)
        elif "curl" not in code or shutil.which("curl"):
            self._finish(["bash", "-euo", "pipefail", "-c", code], code)

    def _finish(self, command: list[str], code: str) -> None:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"

    def _open_terminal(self, name: str, code: str) -> None:
        self._close_terminal(name)
        with (self._folder / f"{name}.log").open("wb") as log:
            process = self._terminals[name] = subprocess.Popen(
                ["bash", "-c", f"exec {code}"],
                cwd=self._folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(rb"ready |.*listening on ", line):
                return
        raise AssertionError(f"{code}\n{(self._folder / f'{name}.log').read_text()}")

    def _close_terminal(self, name: str) -> None:
        process = self._terminals.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        process.stdout.close()
        process.wait(30)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._terminals):
            self._close_terminal(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
