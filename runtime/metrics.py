"""Metrics of the process, in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

from runtime.models import Turn

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MODEL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0)
COMMANDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class MetricsRegistry(CollectorRegistry):
    """A registry without the `_created` samples that prometheus_client adds to every counter."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """The metrics of one store and its server, in their own registry."""

    def __init__(self) -> None:
        self.registry = MetricsRegistry()
        self._define_store()
        self._define_server()

    def _define_store(self) -> None:
        self.pending_writes = self._gauge("pending_writes", "Pending writes.")
        self.pending_bytes = self._gauge("pending_bytes", "Bytes of the pending writes.")
        self.flush_lag_seconds = self._gauge("flush_lag_seconds", "Age of the oldest pending write.")
        self.flush_seconds = self._histogram(
            "flush_seconds", "Seconds from the start of a batch to its commit.", SECONDS
        )
        self.flush_commands = self._histogram("flush_commands", "Commands in a batch.", COMMANDS)
        self.flush_rows = self._counter("flush_rows", "Rows written.")
        self.transactions = self._counter("transactions", "Transactions committed.")
        self.flush_failures = self._counter("flush_failures", "Batches that failed.", "reason")
        self.search_unindexed_sessions = self._gauge(
            "search_unindexed_sessions", "Sessions from before an upgrade that the search has yet to index."
        )
        self.retention_sessions = self._counter(
            "retention_sessions", "Sessions deleted and erased by their age.", "action"
        )
        self.wal_bytes = self._gauge("wal_bytes", "Length of SQLite's write-ahead log.")
        self.shutdown_seconds = self._gauge("shutdown_seconds", "Duration of the shutdown.")
        self.pool_connections = self._gauge("pool_connections", "Connections for reading.", "state")
        self.cache_hits = self._counter("cache_hits", "Page reads served from the cache.")
        self.cache_misses = self._counter("cache_misses", "Page reads served from the database.")
        self.cache_bytes = self._gauge("cache_bytes", "Bytes in the cache.")

    def _define_server(self) -> None:
        labels = ("route", "method", "status")
        self.http_request_seconds = self._histogram(
            "http_request_seconds", "Duration of requests.", SECONDS, *labels
        )
        self.sse_streams = self._gauge("sse_streams", "Open streams of server-sent events.")
        # Any name may be an agent of a session; only configured ones become labels.
        self.known_agents: Collection[str] = ()
        self.turns = self._counter("turns", "Ended turns.", "status", "agent")
        self.turns_running = self._gauge("turns_running", "Turns running in this process.")
        self.model_streams = self._gauge("model_streams", "Model answers being streamed.")
        self.first_token_seconds = self._histogram(
            "first_token_seconds", "Seconds from a request to the model's first token.", MODEL_SECONDS
        )
        self.model_tokens = self._counter("model_tokens", "Tokens reported by models.", "direction")
        self.model_errors = self._counter("model_errors", "Failed requests to models.", "code")
        self.pending_approvals = self._gauge("pending_approvals", "Tool calls waiting for a decision.")

    def turn_ended(self, turn: Turn) -> None:
        """Count an ended turn."""
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
