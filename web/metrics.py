"""What /metrics says: jobs by how they ended, seconds per stage, the queue's length, the device's memory."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

STAGE_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
MIB = 1 << 20
MEMORY_KEY = "memory_mib"


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._jobs = Counter("fftlama_jobs", "Repairs by how they ended.", ["state"], registry=self._registry)
        self._stages = Histogram(
            "fftlama_stage_seconds", "Seconds a finished repair spent in each stage.", ["stage"],
            buckets=STAGE_BUCKETS_S, registry=self._registry,
        )  # fmt: skip
        self._queue_length = Gauge("fftlama_queue_length", "Repairs that wait.", registry=self._registry)
        self._memory: Gauge | None = None
        for state in ("done", "failed", "cancelled"):
            self._jobs.labels(state)
        ProcessCollector(registry=self._registry)

    def count(self, state: str, timings_ms: dict[str, float]) -> None:
        """Count a job that ended, and what it took."""
        self._jobs.labels(state).inc()
        for stage, duration_ms in timings_ms.items():
            self._stages.labels(stage).observe(duration_ms / 1e3)

    def render(self, describe: Callable[[], dict[str, Any]]) -> bytes:
        """Return the page for Prometheus; `describe` tells the queue's length and, when known, the device's memory."""
        told = describe()
        self._queue_length.set(told.get("queue_length", 0))
        if isinstance(memory_mib := told.get(MEMORY_KEY), int | float):
            if self._memory is None:
                self._memory = Gauge("fftlama_device_memory_bytes", "Device memory in use.", registry=self._registry)
            self._memory.set(memory_mib * MIB)
        return generate_latest(self._registry)
