"""Where an example finds a model: at the URL that you name, or in a rehearsal on this machine.

A rehearsal is `batchwright serve --rehearse`: every model name is answered, with an answer that
is made up and says so. It needs no key and no network, and costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """An API to speak to. Without `api_key` the library takes `BATCHWRIGHT_API_KEY`."""

    base_url: str
    model: str
    api_key: str | None = None


@contextmanager
def place(description: str, model: str) -> Iterator[Place]:
    """What the command line asks for; without `--base-url` a rehearsal that ends with the block."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base-url", help="an OpenAI-compatible API; without it: a rehearsal")
    parser.add_argument("--model", default=model, help="the model to ask (default: %(default)s)")
    asked = parser.parse_args()
    if asked.base_url:
        yield Place(asked.base_url, asked.model)
        return
    print("Rehearsal: the answers are made up, and nothing is sent or paid.")
    print("For real ones: --base-url https://api.openai.com/v1, and BATCHWRIGHT_API_KEY set.\n")
    with tempfile.TemporaryDirectory() as folder, _server(folder) as (base_url, api_key):
        yield Place(base_url, asked.model, api_key)


@contextmanager
def _server(folder: str) -> Iterator[tuple[str, str]]:
    """A rehearsing server on a free port: its base URL and its key."""
    command = [sys.executable, "-m", "batchwright", "serve", "--rehearse", "--json"]
    own_key = {k: v for k, v in os.environ.items() if k != "BATCHWRIGHT_ADMIN_KEY"}
    process = subprocess.Popen(
        [*command, "--port", "0", "--data-dir", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=own_key,
    )
    with process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        try:
            if not ready:
                sys.exit("The rehearsal did not start. Try: batchwright serve --rehearse")
            said = json.loads(ready)
            yield said["base_url"], said["admin_key"]
        finally:
            process.terminate()
