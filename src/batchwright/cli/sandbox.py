"""`batchwright sandbox`: a simulated provider, for tests, rehearsals and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from batchwright.cli.exits import Exit
from batchwright.domain.errors import ConfigError, UsageError


def sandbox(
    *,
    port: Annotated[int | None, typer.Option(help="0, the default, takes a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; else 127.0.0.1.")] = None,
    latency: Annotated[
        str | None, typer.Option(help="0.1, 100ms, 50-150ms, or lognormal:MEDIAN,SIGMA.")
    ] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests per minute.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens per minute.")] = None,
    limiter: Annotated[
        str | None, typer.Option(help="bucket (the default), fixed or sliding.")
    ] = None,
    burst_s: Annotated[
        float | None,
        typer.Option(help="Seconds' worth of a limit usable at once; else 60."),
    ] = None,
    tpm_counts: Annotated[str | None, typer.Option(help="estimate (the default) or usage.")] = None,
    prompt_cache: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="Have a prompt cache of so many tokens."),
    ] = None,
    fail_rate: Annotated[
        float | None, typer.Option(help="Share of calls that fail, 0 to 1.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Gets one JSON line per request.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Changes every answer and fault.")] = None,
) -> int:
    """Play an OpenAI upstream on this machine: nothing is sent on, nothing is paid."""
    from batchwright.sandbox.options import SandboxOptions
    from batchwright.sandbox.server import run_sandbox

    given: dict[str, Any] = {
        "port": port,
        "host": host,
        "latency": latency,
        "rpm": rpm,
        "tpm": tpm,
        "limiter": limiter,
        "burst_s": burst_s,
        "tpm_counts": tpm_counts,
        "prompt_cache": prompt_cache,
        "fail_rate": fail_rate,
        "ledger": ledger,
        "seed": seed,
    }
    options = {name: value for name, value in given.items() if value is not None}
    try:
        run_sandbox(SandboxOptions(**options))
    except ConfigError as error:
        raise UsageError(f"--{error}") from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise UsageError(f"--host, --port: {error.strerror}") from error
    return Exit.OK
