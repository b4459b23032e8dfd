"""What the process counts and measures, as Prometheus text."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

from runtime.models import Turn

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MODEL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0)
COMMANDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Registry(CollectorRegistry):
    """A registry without the `_created` samples that prometheus_client adds to every counter."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """The metrics of one store and its server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._define_writing()
        self._define_reading()
        self._define_serving()
        self._define_turns()

    def _define_writing(self) -> None:
        self.pending_writes = self._gauge("pending_writes", "Writes that wait for their commit.")
        self.pending_bytes = self._gauge("pending_bytes", "Bytes of the writes that wait.")
        self.flush_lag_seconds = self._gauge("flush_lag_seconds", "Age of the oldest write that waits.")
        self.flush_seconds = self._histogram("flush_seconds", "From a batch's begin to its commit.", SECONDS)
        self.flush_commands = self._histogram("flush_commands", "Commands in a batch.", COMMANDS)
        self.flush_rows = self._counter("flush_rows", "Rows written.")
        self.transactions = self._counter("transactions", "Transactions committed.")
        self.flush_failures = self._counter("flush_failures", "Batches that failed.", "reason")
        self.wal_bytes = self._gauge("wal_bytes", "Length of SQLite's write-ahead log.")
        self.shutdown_seconds = self._gauge("shutdown_seconds", "How long the shutdown took.")

    def _define_reading(self) -> None:
        self.pool_connections = self._gauge("pool_connections", "Connections for reading.", "state")
        self.cache_hits = self._counter("cache_hits", "Reads that the cache answered.")
        self.cache_misses = self._counter("cache_misses", "Reads that went to the database.")
        self.cache_bytes = self._gauge("cache_bytes", "Bytes in the cache.")

    def _define_serving(self) -> None:
        labels = ("route", "method", "status")
        self.http_request_seconds = self._histogram("http_request_seconds", "Requests.", SECONDS, *labels)
        self.sse_streams = self._gauge("sse_streams", "Open streams of server-sent events.")

    def _define_turns(self) -> None:
        # Any name can hold a session; only those of the configuration become labels.
        self.known_agents: Collection[str] = ()
        self.turns = self._counter("turns", "Turns that have ended.", "status", "agent")
        self.turns_running = self._gauge("turns_running", "Turns that run in this process.")
        self.model_streams = self._gauge("model_streams", "Answers that models are giving now.")
        self.first_token_seconds = self._histogram(
            "first_token_seconds", "From a question to the model's first word.", MODEL_SECONDS
        )
        self.model_tokens = self._counter("model_tokens", "Tokens that models reported.", "direction")
        self.model_errors = self._counter("model_errors", "Questions that models failed on.", "code")
        self.pending_approvals = self._gauge("pending_approvals", "Tool calls that wait for a person.")

    def turn_ended(self, turn: Turn) -> None:
        """Count a turn that has ended."""
        agent = turn.agent if turn.agent in self.known_agents else "other"
        self.turns.labels(turn.status, agent).inc()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="agent_runtime", registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="agent_runtime", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(
            name, text, labels, namespace="agent_runtime", registry=self.registry, buckets=buckets
        )

    def render(self) -> bytes:
        """All metrics in the Prometheus text format (see CONTENT_TYPE)."""
        return generate_latest(self.registry)
