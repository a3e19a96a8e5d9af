"""Starts a process's telemetry from its settings; OpenTelemetry is imported only when an endpoint is configured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from paceline.config.settings import ServerSettings
from paceline.core.errors import InvalidRequest
from paceline.telemetry.logs import configure
from paceline.telemetry.metrics import serve_metrics
from paceline.telemetry.spans import Tracer


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a process holds on to."""

    tracer: Tracer
    registry: CollectorRegistry
    metrics_address: str
    """Empty when no page is served."""
    stop: Callable[[], None]


def start(service: str, settings: ServerSettings) -> Telemetry:
    """Logs, spans, and the metrics page when its address is set. Raises ``InvalidRequest`` for a bad address."""
    configure(service, settings.log_level)
    tracer, registry = Tracer(service, settings.ring_spans), CollectorRegistry()
    address = ""
    with ExitStack() as started:
        if settings.otlp_endpoint:
            started.callback(_export(tracer, settings.otlp_endpoint))
        if settings.metrics:
            address, stop_page = serve_metrics(settings.metrics, registry)
            started.callback(stop_page)
        return Telemetry(tracer, registry, address, started.pop_all().close)


def _export(tracer: Tracer, endpoint: str) -> Callable[[], None]:
    try:
        from paceline.telemetry.otlp import OtlpExporter
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"server.otlp_endpoint: exporting needs {error.name}; install it with: pip install 'paceline[otel]'."
        ) from error
    exporter = OtlpExporter(tracer.service, endpoint)
    tracer.export_to(exporter.put)
    return exporter.close
