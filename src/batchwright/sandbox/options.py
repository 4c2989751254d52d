"""What `batchwright sandbox` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from batchwright.domain.errors import ConfigError
from batchwright.sandbox.latency import parse_latency
from batchwright.sandbox.limiter import Algorithm, TokenCount


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """The settings of a sandbox, checked when made. Raises `ConfigError`."""

    port: int = 0  # 0: a free one
    host: str = "127.0.0.1"
    latency: str = "0"  # as `parse_latency` reads it
    rpm: int | None = None  # requests per minute; None: no limit
    tpm: int | None = None  # tokens per minute; None: no limit
    limiter: Algorithm = "bucket"
    burst_s: float = 60.0  # how many seconds' worth of a limit may be used at once
    tpm_counts: TokenCount = "estimate"
    prompt_cache: int | None = None  # tokens; None: half of each long prompt counts as cached
    fail_rate: float = 0.0  # share of calls that fail, 0 to 1
    ledger: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        parse_latency(self.latency)
        _check("port", "0 to 65535", self.port, 0 <= self.port <= 65535)
        _check("rpm", "at least 1", self.rpm, self.rpm is None or self.rpm >= 1)
        _check("tpm", "at least 1", self.tpm, self.tpm is None or self.tpm >= 1)
        _check(
            "prompt-cache",
            "at least 1024",
            self.prompt_cache,
            self.prompt_cache is None or self.prompt_cache >= 1024,
        )
        _check_name("limiter", get_args(Algorithm), self.limiter)
        _check_name("tpm-counts", get_args(TokenCount), self.tpm_counts)
        _check("burst-s", "0.001 to 86400", self.burst_s, 0.001 <= self.burst_s <= 86400)
        _check("fail-rate", "0 to 1", self.fail_rate, 0 <= self.fail_rate <= 1)


def _check_name(key: str, names: tuple[str, ...], value: str) -> None:
    _check(key, "one of " + ", ".join(names), value, value in names)


def _check(key: str, expected: str, value: object, holds: bool) -> None:
    if not holds:
        raise ConfigError(f"{key}: expected {expected}, got {value}")
