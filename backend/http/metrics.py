"""GET /metrics: what Prometheus reads about jobs, deliveries, queues and requests."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flask import Blueprint, Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.service.service import Service
from trajseg.errors import ServiceError

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 100)


class ServiceCollector(Collector):
    """Reads the store and the queue when it is asked."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("trajseg_jobs", "Jobs in the store", labels=["kind", "state"])
        for (kind, state), count in self.service.store.jobs.count().items():
            jobs.add_metric([kind, state], count)
        deliveries = GaugeMetricFamily("trajseg_deliveries", "Deliveries in the store", labels=["state"])
        for state, count in self.service.store.deliveries.count().items():
            deliveries.add_metric([state], count)
        webhooks = CounterMetricFamily("trajseg_webhooks", "Webhooks taken", labels=["action"])
        for action, count in self.service.webhooks.counts.items():
            webhooks.add_metric([action], count)
        yield from (jobs, deliveries, webhooks)
        waiting = GaugeMetricFamily("trajseg_queue_depth", "Jobs that wait in a queue", labels=["queue"])
        workers = GaugeMetricFamily("trajseg_workers", "Workers that are alive")
        reachable = GaugeMetricFamily("trajseg_queue_reachable", "1 when Redis or Valkey answers")
        try:
            for name, count in self.service.queue.depths().items():
                waiting.add_metric([name], count)
            workers.add_metric([], self.service.queue.workers())
            reachable.add_metric([], 1)
        except ServiceError:
            reachable.add_metric([], 0)
        yield from (waiting, workers, reachable)


def measure(app: Flask, service: Service) -> None:
    """Add GET /metrics to the app, and time its requests."""
    registry = CollectorRegistry()
    seconds = Histogram(
        "trajseg_request_seconds", "Time to answer", ["route", "status"], buckets=BUCKETS, registry=registry
    )
    registry.register(ServiceCollector(service))
    blueprint = Blueprint("metrics", __name__)

    @blueprint.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    @app.before_request
    def begin() -> None:
        g.begun = time.perf_counter()

    @app.after_request
    def end(answer: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "unknown"
        begun = g.get("begun")
        if begun is not None:
            seconds.labels(route, str(answer.status_code)).observe(time.perf_counter() - begun)
        return answer

    app.register_blueprint(blueprint)
