"""What /metrics says: jobs by how they ended, waits and stages, batches, memory, workers, what the queue waits for."""

import threading
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from jobs.observer import EndedJob

STAGE_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 16)
MIB = 1 << 20
WORKER_STATES = ("idle", "busy", "starting", "stuck", "refused")
OBSTACLES = ("storage", "redis", "workers")


class Metrics:
    """The counters of one process, in a registry of their own; a `jobs.observer.Observer`."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._writing = threading.Lock()
        self._jobs = Counter("fftlama_jobs", "Repairs by how they ended.", ["state"], registry=registry)
        self._failures = Counter("fftlama_failures", "Failed repairs by error code.", ["error"], registry=registry)
        self._memory_steps = Counter(
            "fftlama_out_of_memory_steps", "Repairs that took a way with less memory, by the way.", ["how"],
            registry=registry,
        )  # fmt: skip
        self._stages = Histogram(
            "fftlama_stage_seconds", "Seconds a finished repair spent in each stage.", ["stage"],
            buckets=STAGE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._waits = Histogram(
            "fftlama_wait_seconds", "Seconds a finished repair had waited before it ran.", ["kind"],
            buckets=STAGE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._batches = Histogram(
            "fftlama_batch_size", "Repairs that went to a device together.", buckets=BATCH_BUCKETS, registry=registry
        )
        self._queue_length = Gauge("fftlama_queue_length", "Repairs that wait.", ["kind"], registry=registry)
        self._running = Gauge("fftlama_running", "Repairs that are being carried out.", registry=registry)
        self._workers = Gauge("fftlama_workers", "Whoever repairs, by state.", ["state"], registry=registry)
        self._memory = Gauge(
            "fftlama_device_memory_bytes", "Device memory in use.", ["worker", "device"], registry=registry
        )
        self._waiting_for = Gauge(
            "fftlama_waiting_for", "1 for what keeps every repair from running.", ["obstacle"], registry=registry
        )
        for state in ("done", "failed", "cancelled"):
            self._jobs.labels(state)
        for kind in ("interactive", "batch"):
            self._waits.labels(kind)
        ProcessCollector(registry=registry)

    def job_ended(self, job: EndedJob) -> None:
        """Count a job that ended, and what it took."""
        self._jobs.labels(job.state).inc()
        if job.error:
            self._failures.labels(job.error).inc()
        for stage, duration_ms in job.timings_ms.items():
            self._stages.labels(stage).observe(duration_ms / 1e3)
        if "queued" in job.timings_ms:
            self._waits.labels(job.kind).observe(job.timings_ms["queued"] / 1e3)
        for note in job.notes:
            if note["code"] == "out_of_memory":
                self._memory_steps.labels(note["params"].get("how", "")).inc()

    def batch_began(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    @property
    def ended(self) -> dict[str, int]:
        """How many jobs have ended since the start, by state."""
        return {
            state: int(self._registry.get_sample_value("fftlama_jobs_total", {"state": state}) or 0)
            for state in ("done", "failed", "cancelled")
        }

    def render(self, status: Mapping[str, Any]) -> bytes:
        """Write the page for Prometheus.

        Args:
            status: from `JobQueue.status`.

        Returns:
            the page in Prometheus' text format.
        """
        with self._writing:  # else one page's memory is cleared while another is written
            return self._render(status)

    def _render(self, status: Mapping[str, Any]) -> bytes:
        for kind, count in status["waiting"].items():
            self._queue_length.labels(kind).set(count)
        self._running.set(status["running"])
        states = [worker["state"] for worker in status["workers"]]
        for state in WORKER_STATES:
            self._workers.labels(state).set(states.count(state))
        for obstacle in OBSTACLES:
            self._waiting_for.labels(obstacle).set(obstacle in status["waiting_for"])
        self._memory.clear()  # workers that are gone have no memory
        for worker in status["workers"]:
            if isinstance(worker["memory_mib"], int | float):
                self._memory.labels(worker["name"], worker["device"]).set(worker["memory_mib"] * MIB)
        return generate_latest(self._registry)
