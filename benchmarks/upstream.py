"""The sandbox with an account that says less, or whose limits change; or that answers otherwise.

    python benchmarks/upstream.py [--silent] [--step-s SECONDS] [--pretty]
        [--tls CERTIFICATE KEY] [options of the sandbox]

`--silent`: no answer has a header about limits, and a 429 says nothing but that.
`--step-s`: the limits halve that long after the first call, and double again after as long.
`--pretty`: every chat completion is indented, over many lines.
`--tls`: HTTPS, with the two as PEM files.
"""

from __future__ import annotations

import argparse
import ssl
import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from batchwright.sandbox import upstream
from batchwright.sandbox.__main__ import main as run_sandbox
from batchwright.sandbox.answers import encode, error_payload
from batchwright.sandbox.limiter import Limiter, Refusal
from batchwright.sandbox.options import SandboxOptions
from batchwright.sandbox.quick import quick_chat
from batchwright.sandbox.replies import Reply, whole


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--step-s", type=float)
    parser.add_argument("--pretty", action="store_true")
    parser.add_argument("--tls", type=Path, nargs=2)
    own, others = parser.parse_known_args()
    if own.step_s is not None:
        make_limits_step(own.step_s)
    if own.silent:
        Limiter.headers = _no_headers  # type: ignore[method-assign]
        SteppingLimiter.headers = _no_headers  # type: ignore[assignment, method-assign]
        upstream._refused = _refused_silently
    if own.pretty:
        upstream.quick_chat = _indented_chat  # type: ignore[attr-defined]
    tls = None
    if own.tls is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*own.tls)
    return run_sandbox(others, tls)


def _indented_chat(body: bytes, digest: bytes) -> bytes | None:
    answer = quick_chat(body, digest)
    return None if answer is None else msgspec.json.format(answer, indent=2)


def _no_headers(limiter: object, now_s: float) -> dict[str, str]:
    return {}


def _refused_silently(refusal: Refusal, headers: dict[str, str]) -> Reply:
    return whole(429, headers, encode(error_payload("Too many requests")))


class SteppingLimiter:
    """The limits of an account: whole, then half, then whole again."""

    def __init__(self, make: list[Limiter], step_s: float) -> None:
        self._limiters = make
        self._step_s = step_s
        self._started_s: float | None = None

    def admit(self, now_s: float, model: str, tokens: int) -> Refusal | None:
        return self._at(now_s).admit(now_s, model, tokens)

    def settle(self, now_s: float, estimated: int, used: int) -> None:
        self._at(now_s).settle(now_s, estimated, used)

    def headers(self, now_s: float) -> dict[str, str]:
        return self._at(now_s).headers(now_s)

    def _at(self, now_s: float) -> Limiter:
        if self._started_s is None:
            self._started_s = now_s
        step = int((now_s - self._started_s) / self._step_s)
        return self._limiters[min(step, len(self._limiters) - 1)]


def make_limits_step(step_s: float) -> None:
    """Every account that is made from now on changes its limits."""

    def stepping(options: SandboxOptions) -> SteppingLimiter:
        return SteppingLimiter([_limiter(options, part) for part in (1.0, 0.5, 1.0)], step_s)

    upstream._limiter = stepping  # type: ignore[assignment]


def _limiter(options: SandboxOptions, part: float) -> Limiter:
    return Limiter(
        requests_per_minute=None if options.rpm is None else int(options.rpm * part),
        tokens_per_minute=None if options.tpm is None else int(options.tpm * part),
        algorithm=options.limiter,
        burst_s=options.burst_s,
        tpm_counts=options.tpm_counts,
    )


if __name__ == "__main__":
    sys.exit(main())
