"""GET /metrics: what Prometheus reads about jobs, deliveries, queues and requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from flask import Blueprint, Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.service.service import Service
from backend.store.kinds import QUEUES
from trajseg.errors import ServiceError

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 100)


class ServiceCollector(Collector):
    """Reads the store and the queue on each scrape."""

    def __init__(self, service: Service, problems: Callable[[], Mapping[str, int]]) -> None:
        self.service = service
        self.problems = problems

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
        yield from self._figures()
        problems = CounterMetricFamily(
            "trajseg_problems", "Failed rounds of a background loop, or jobs skipped", labels=["loop"]
        )
        for loop, count in self.problems().items():
            problems.add_metric([loop], count)
        yield problems
        waiting = GaugeMetricFamily("trajseg_queue_depth", "Jobs that wait in a queue", labels=["queue"])
        workers = GaugeMetricFamily("trajseg_workers", "Workers that are alive")
        reachable = GaugeMetricFamily("trajseg_queue_reachable", "1 when Redis or Valkey answers")
        seconds = CounterMetricFamily("trajseg_stage_seconds", "Seconds in a stage of jobs", labels=["kind", "stage"])
        runs = CounterMetricFamily("trajseg_stage_runs", "Jobs done that had this stage", labels=["kind", "stage"])
        gpu = GaugeMetricFamily("trajseg_gpu_bytes", "Memory of a worker's GPU", labels=["worker", "what"])
        try:
            for name, count in self.service.queue.depths().items():
                waiting.add_metric([name], count)
            workers.add_metric([], self.service.queue.workers())
            for (kind, unit, stage), amount in self.service.queue.figures().items():
                (seconds if unit == "seconds" else runs).add_metric([kind, stage], amount)
            for worker, (used, total) in self.service.queue.gpus().items():
                gpu.add_metric([worker, "used"], used)
                gpu.add_metric([worker, "total"], total)
            reachable.add_metric([], 1)
        except ServiceError:
            reachable.add_metric([], 0)
        yield from (waiting, workers, reachable, seconds, runs, gpu)

    def _figures(self) -> Iterable[Metric]:
        figures = self.service.store.figures
        failed = GaugeMetricFamily("trajseg_jobs_failed", "Failed jobs by error pattern", labels=["reason"])
        for reason, count in figures.failed_by_reason().items():
            failed.add_metric([reason], count)
        held = GaugeMetricFamily("trajseg_jobs_held", "Queued jobs not waiting for a worker", labels=["reason"])
        for reason, count in figures.held_by_reason().items():
            held.add_metric([reason], count)
        ages = GaugeMetricFamily("trajseg_queue_age_seconds", "Age of the oldest job that may start", labels=["queue"])
        for queue, age in {**dict.fromkeys(QUEUES, 0.0), **figures.queue_ages()}.items():
            ages.add_metric([queue], age)
        yield from (failed, held, ages)
        age = figures.delivery_age()
        yield GaugeMetricFamily("trajseg_delivery_age_seconds", "Age of the oldest delivery that waits", value=age)


def measure(app: Flask, service: Service, problems: Callable[[], Mapping[str, int]]) -> None:
    """Adds GET /metrics to the app, and times its requests.

    Args:
        problems: returns how often each loop of the reconciler failed.
    """
    registry = CollectorRegistry()
    seconds = Histogram(
        "trajseg_request_seconds", "Time to answer", ["route", "status"], buckets=BUCKETS, registry=registry
    )
    registry.register(ServiceCollector(service, problems))
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
