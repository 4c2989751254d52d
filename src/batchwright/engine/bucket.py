"""A token bucket as plain functions over explicit state and a given clock.

It refills at its rate and holds at most its burst, so that in every interval of t seconds at most
rate x t + burst passes.
"""

from __future__ import annotations

from dataclasses import dataclass

WAIT_S_MIN = 1e-6  # a shorter one may be rounded away when it is added to the time


@dataclass(slots=True)
class Bucket:
    """A token bucket. `level` may go below zero: a single request larger than the burst passes
    when the bucket is full, and what follows waits for it."""

    rate_per_s: float
    burst: float
    level: float
    at: float  # monotonic seconds of the last refill

    @classmethod
    def per_minute(cls, amount: float, now: float) -> Bucket:
        burst = max(1.0, amount / 60)
        return cls(amount / 60, burst, burst, now)


def wait_s(bucket: Bucket, amount: float, now: float) -> float:
    """Seconds until `amount` may be taken; 0 if it may be now."""
    _refill(bucket, now)
    missing = min(amount, bucket.burst) - bucket.level
    return max(missing / bucket.rate_per_s, WAIT_S_MIN) if missing > 1e-9 else 0.0


def take(bucket: Bucket, amount: float, now: float) -> None:
    """Take `amount`, or give it back if it is negative (settling an estimate)."""
    _refill(bucket, now)
    bucket.level = min(bucket.burst, bucket.level - amount)


def set_rate(bucket: Bucket, rate_per_s: float, burst: float, now: float) -> None:
    """Refill at another rate from now on."""
    _refill(bucket, now)
    bucket.rate_per_s = rate_per_s
    bucket.burst = burst
    bucket.level = min(bucket.level, burst)


def _refill(bucket: Bucket, now: float) -> None:
    if now > bucket.at:
        bucket.level = min(bucket.burst, bucket.level + (now - bucket.at) * bucket.rate_per_s)
        bucket.at = now
