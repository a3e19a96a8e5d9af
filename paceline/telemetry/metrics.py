"""Prometheus instruments of each kind of process, and the page that serves them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from paceline.core.errors import InvalidRequest
from paceline.core.types import Commit, KvFrame
from paceline.telemetry.names import Instrument, Metric


def _counter(instrument: Instrument, registry: CollectorRegistry) -> Counter:
    return Counter(instrument.name, instrument.help, instrument.labels, registry=registry)


def _histogram(instrument: Instrument, registry: CollectorRegistry) -> Histogram:
    return Histogram(instrument.name, instrument.help, instrument.labels, buckets=instrument.buckets, registry=registry)


class DrafterMemory:
    """What a drafter takes, in its own process or in a verifier's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.weights = Gauge(Metric.DRAFTER_WEIGHTS.name, Metric.DRAFTER_WEIGHTS.help, registry=registry)
        self.state = Gauge(Metric.DRAFTER_STATE.name, Metric.DRAFTER_STATE.help, registry=registry)
        self.most_state = 0
        """Bytes, so far."""

    def observe(self, weights: int, state: int) -> None:
        """Bytes, now."""
        self.weights.set(weights)
        self.state.set(state)
        self.most_state = max(self.most_state, state)


class VerifierMetrics:
    """Of a verifier process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.step_seconds = _histogram(Metric.STEP_SECONDS, registry)
        self.step_rows = _histogram(Metric.STEP_ROWS, registry)
        self.sessions = Gauge(Metric.SESSIONS.name, Metric.SESSIONS.help, registry=registry)
        self.wait_seconds = _counter(Metric.WAIT_SECONDS, registry)
        self.prefill_tokens = _counter(Metric.PREFILL_TOKENS, registry)
        self.drafts_received = _counter(Metric.DRAFTS_RECEIVED, registry)
        self.draft_seconds = _histogram(Metric.DRAFT_SECONDS, registry)
        self.drafted_tokens = _counter(Metric.DRAFTED_TOKENS, registry)
        self.drafter_memory = DrafterMemory(registry)
        self.reloads = _counter(Metric.RELOADS, registry)
        self._generation_tokens = _counter(Metric.GENERATION_TOKENS, registry)
        self._drafts = _counter(Metric.DRAFTS, registry)
        self._draft_tokens = _counter(Metric.DRAFT_TOKENS, registry)
        self._accepted_tokens = _counter(Metric.ACCEPTED_TOKENS, registry)
        self._accepted_per_pos = _counter(Metric.ACCEPTED_PER_POS, registry)
        self._feature_bytes = _counter(Metric.FEATURE_BYTES, registry)
        self._kv_bytes = _counter(Metric.KV_BYTES, registry)

    def kv(self, frame: KvFrame) -> None:
        """Count what is sent."""
        self._kv_bytes.inc(len(frame.rows.bf16))

    def commit(self, commit: Commit) -> None:
        """Count one session's share of a step."""
        self._generation_tokens.inc(len(commit.token_ids))
        if commit.features is not None:
            self._feature_bytes.inc(len(commit.features.bf16))
        if commit.drafted:
            self._drafts.inc()
            self._draft_tokens.inc(commit.drafted)
            self._accepted_tokens.inc(commit.accepted)
            for position in range(commit.accepted):
                self._accepted_per_pos.labels(str(position)).inc()


class DrafterMetrics:
    """Of a drafter process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sessions = Gauge(Metric.SESSIONS.name, Metric.SESSIONS.help, registry=registry)
        self.draft_seconds = _histogram(Metric.DRAFT_SECONDS, registry)
        self.drafted_tokens = _counter(Metric.DRAFTED_TOKENS, registry)
        self.drafter_memory = DrafterMemory(registry)
        self.reloads = _counter(Metric.RELOADS, registry)
        self._feature_bytes = _counter(Metric.FEATURE_BYTES, registry)
        self._kv_bytes = _counter(Metric.KV_BYTES, registry)

    def kv(self, frame: KvFrame) -> None:
        """Count what came."""
        self._kv_bytes.inc(len(frame.rows.bf16))

    def commit(self, commit: Commit) -> None:
        """Count what came with it."""
        if commit.features is not None:
            self._feature_bytes.inc(len(commit.features.bf16))


class CoordinatorMetrics:
    """Of a coordinator process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sessions = Gauge(Metric.SESSIONS.name, Metric.SESSIONS.help, registry=registry)
        self.requests = _counter(Metric.REQUESTS, registry)
        self.request_seconds = _histogram(Metric.REQUEST_SECONDS, registry)
        self.first_token_seconds = _histogram(Metric.FIRST_TOKEN_SECONDS, registry)
        self.fallbacks = _counter(Metric.FALLBACKS, registry)
        self.verdicts = _counter(Metric.VERDICTS, registry)


def serve_metrics(address: str, registry: CollectorRegistry) -> tuple[str, Callable[[], None]]:
    """Serve the page on host:port (port 0 picks one); return the bound address and what stops it."""
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host or "127.0.0.1", registry)
    except (OSError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"metrics: can't serve on {address}: {error}. Choose a free host:port.") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return f"{host or '127.0.0.1'}:{server.server_port}", stop
