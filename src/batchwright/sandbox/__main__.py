"""`python -m batchwright.sandbox`: nothing else is imported, so that it starts fast."""

from __future__ import annotations

import argparse
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from batchwright.domain.errors import ConfigError
from batchwright.sandbox.options import SandboxOptions
from batchwright.sandbox.server import run_sandbox


def main(arguments: Sequence[str] | None = None, tls: ssl.SSLContext | None = None) -> int:
    """Run a sandbox until it is told to stop; the exit code."""
    try:
        run_sandbox(SandboxOptions(**vars(_parser().parse_args(arguments))), tls)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m batchwright.sandbox",
        description="A simulated OpenAI upstream.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--port", type=int, help="0 takes a free one (default)")
    add("--host", help="address to listen on (127.0.0.1)")
    add("--latency", help="0.1, 100ms, 50-150ms, or lognormal:MEDIAN,SIGMA")
    add("--rpm", type=int, help="requests per minute")
    add("--tpm", type=int, help="tokens per minute")
    add("--limiter", help="bucket (default), fixed or sliding")
    add("--burst-s", type=float, help="seconds' worth of a limit usable at once (60)")
    add("--tpm-counts", help="estimate (default) or usage")
    add("--prompt-cache", type=int, help="tokens that its prompt cache holds")
    add("--fail-rate", type=float, help="share of calls that fail, 0 to 1")
    add("--ledger", type=Path, help="file that gets one JSON line per request")
    add("--seed", type=int, help="changes every answer and every fault (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
