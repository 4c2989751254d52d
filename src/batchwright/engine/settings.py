"""What the engine can be told, with its defaults."""

from __future__ import annotations

from dataclasses import dataclass

from batchwright.domain.lines import LINE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Limits and spans of the engine. None means no limit."""

    requests_per_batch: int | None = 50_000
    embedding_inputs_per_batch: int | None = 50_000
    line_bytes_max: int = LINE_BYTES_MAX
    one_model_per_file: bool = False
    extra_endpoints: tuple[str, ...] = ()  # further JSON endpoints that are allowed
    pack_embeddings: bool = True  # requests to `/v1/embeddings` share calls
    max_attempts: int = 5
    grace_s: float = 30.0  # for calls in flight at a cancel, an expiry or a stop
    held_bytes_max: int = 128 * 2**20  # bodies read ahead, in flight and not yet durable
    reserve_bytes: int = 2**30  # free space below which nothing is sent
    result_ttl_s: int | None = 30 * 86_400
    prune_every_s: float = 60.0
