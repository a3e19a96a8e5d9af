"""Starts a process's telemetry from its settings; OpenTelemetry is imported only when an endpoint is configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from paceline.config.settings import ServerSettings
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
    stops: list[Callable[[], None]] = []
    address = ""
    if settings.metrics:
        address, stop_page = serve_metrics(settings.metrics, registry)
        stops.append(stop_page)
    if settings.otlp_endpoint:
        from paceline.telemetry.otlp import OtlpExporter

        exporter = OtlpExporter(service, settings.otlp_endpoint)
        tracer.export_to(exporter.put)
        stops.append(exporter.close)

    def stop() -> None:
        for one in stops:
            one()

    return Telemetry(tracer, registry, address, stop)
