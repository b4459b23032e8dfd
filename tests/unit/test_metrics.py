"""The metrics carry the names of the design, in a registry of their own."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from runtime.metrics import Metrics

NAMES = {
    "pending_writes": "gauge",
    "pending_bytes": "gauge",
    "flush_lag_seconds": "gauge",
    "flush_seconds": "histogram",
    "flush_commands": "histogram",
    "flush_rows": "counter",
    "transactions": "counter",
    "flush_failures": "counter",
    "pool_connections": "gauge",
    "cache_hits": "counter",
    "cache_misses": "counter",
    "cache_bytes": "gauge",
    "http_request_seconds": "histogram",
    "sse_streams": "gauge",
    "search_unindexed_sessions": "gauge",
    "wal_bytes": "gauge",
    "retention_sessions": "counter",
    "shutdown_seconds": "gauge",
    # Turns
    "turns": "counter",
    "turns_running": "gauge",
    "model_streams": "gauge",
    "first_token_seconds": "histogram",
    "model_tokens": "counter",
    "model_errors": "counter",
    "pending_approvals": "gauge",
}


def families(metrics: Metrics) -> dict[str, str]:
    return {family.name: family.type for family in text_string_to_metric_families(metrics.render().decode())}


def test_every_metric_of_the_design_is_there_and_no_other() -> None:
    assert families(Metrics()) == {f"agent_runtime_{name}": kind for name, kind in NAMES.items()}


def test_labels_and_totals_are_written_as_designed() -> None:
    metrics = Metrics()
    metrics.flush_rows.inc(3)
    metrics.flush_failures.labels("connection").inc()
    metrics.pool_connections.labels("idle").set(2)
    metrics.http_request_seconds.labels("/sessions", "GET", "200").observe(0.003)
    text = metrics.render().decode()
    assert "agent_runtime_flush_rows_total 3.0" in text
    assert 'agent_runtime_flush_failures_total{reason="connection"} 1.0' in text
    assert 'agent_runtime_pool_connections{state="idle"} 2.0' in text
    assert 'agent_runtime_http_request_seconds_count{method="GET",route="/sessions",status="200"} 1.0' in text


def test_two_stores_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.transactions.inc()
    assert "agent_runtime_transactions_total 1.0" in one.render().decode()
    assert "agent_runtime_transactions_total 0.0" in other.render().decode()
