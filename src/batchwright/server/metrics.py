"""What `/metrics` shows: counts of HTTP requests, and the state of lanes and disk when asked."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from batchwright.domain.errors import StorageError
from batchwright.engine.engine import Engine

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineState(engine))
        self.requests = Counter(
            "batchwright_http_requests",
            "HTTP requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.durations = Histogram(
            "batchwright_http_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self.uploaded = Counter(
            "batchwright_uploaded_bytes", "Bytes of files taken in.", registry=self._registry
        )
        self.batches = Counter(
            "batchwright_batches_created", "Batches created.", registry=self._registry
        )

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count an answered request; `route` is its path with placeholders."""
        self.requests.labels(method, route, str(status)).inc()
        self.durations.labels(route).observe(duration_s)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class _EngineState(Collector):
    """Gauges that are read from the engine at the moment of asking."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # so that registering does not collect

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._lanes()
        yield from self._disk()
        failed = GaugeMetricFamily(
            "batchwright_engine_failed", "1 after a failure that only a restart cures."
        )
        failed.add_metric((), float(self._engine.failed.is_set()))
        yield failed

    def _lanes(self) -> Iterator[GaugeMetricFamily]:
        in_flight = GaugeMetricFamily(
            "batchwright_lane_in_flight", "Calls at the provider now.", labels=("lane",)
        )
        allowed = GaugeMetricFamily(
            "batchwright_lane_max_concurrency", "The most calls at a time.", labels=("lane",)
        )
        tripped = GaugeMetricFamily(
            "batchwright_lane_tripped", "1 while a lane only probes.", labels=("lane",)
        )
        for lane in self._engine.router.lanes:
            in_flight.add_metric((lane.name,), lane.in_flight)
            allowed.add_metric((lane.name,), lane.allowed_in_flight)
            tripped.add_metric((lane.name,), float(lane.tripped is not None))
        yield from (in_flight, allowed, tripped)

    def _disk(self) -> Iterator[GaugeMetricFamily]:
        short = GaugeMetricFamily(
            "batchwright_disk_short", "1 while free space is below the reserve."
        )
        short.add_metric((), float(self._engine.is_short_of_space))
        yield short
        try:
            free_bytes = self._engine.blobs.free_bytes()
        except StorageError:
            return
        free = GaugeMetricFamily("batchwright_disk_free_bytes", "Free space for files.")
        free.add_metric((), free_bytes)
        yield free
