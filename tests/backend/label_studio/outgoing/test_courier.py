"""Deliveries wait while Label Studio is unavailable, and are made as soon as it is back; none blocks another."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from backend.label_studio import breaker as breakers
from backend.label_studio.breaker import CircuitBreaker
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing import courier as couriers
from backend.label_studio.outgoing.courier import Courier, Hand
from backend.label_studio.refusals import MissingError, UnavailableError
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from tests.backend.label_studio.conftest import FakeLabelStudio
from trajseg.tracks import Result

LEGACY = "0123456789abcdef0123456789abcdef01234567"


def delivery_of(store: Store, job: Job) -> Delivery:
    """The delivery of a job that has one."""
    delivery = store.deliveries.of_job(job.id)
    assert delivery
    return delivery


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a production breaker, shortened."""
    monkeypatch.setattr(breakers, "FIRST_PAUSE_SECONDS", 0.2)


def states(store: Store, jobs: list[Job]) -> list[tuple[str, int]]:
    found = [store.deliveries.of_job(job.id) for job in jobs]
    return [(one.state, one.attempts) for one in found if one]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and then sends a header endlessly, byte by byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopped = threading.Event()

        def drip(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n")
                    while not stopped.wait(0.1):
                        connection.sendall(b"X-Slow: 1\r\n")
                except OSError:
                    return

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        stopped.set()


def test_due_deliveries_are_made_once(studio: FakeLabelStudio, store: Store, settings: Settings, done: Any) -> None:
    jobs = done(2)
    courier = Courier(store, settings)
    assert courier.round().delivered == 0
    assert courier.round(grace_seconds=0).delivered == 2
    assert courier.round(grace_seconds=0).delivered == 0
    assert states(store, jobs) == [("sent", 1)] * 2


def test_a_label_studio_that_is_down_is_probed_with_one_delivery_and_the_others_wait(
    studio: FakeLabelStudio, store: Store, settings: Settings, done: Any
) -> None:
    jobs = done(5)
    studio.failures = 1_000
    courier = Courier(store, settings)
    courier.round(grace_seconds=0)
    before = len(studio.requests)
    courier.round(grace_seconds=0)
    assert len(studio.requests) == before
    assert sorted(states(store, jobs)) == [("pending", 0)] * 4 + [("pending", 1)]
    assert courier.breaker.open


def test_everything_goes_at_once_when_label_studio_is_back_dead_letters_too(
    studio: FakeLabelStudio, store: Store, settings: Settings, done: Any
) -> None:
    jobs = done(4)
    dead = delivery_of(store, jobs[3])
    store.deliveries.failed(dead.id, "refused", None)
    studio.failures = 1_000
    courier = Courier(store, settings)
    courier.round(grace_seconds=0)
    studio.failures = 0
    time.sleep(0.3)
    courier.round(grace_seconds=0)
    courier.round()
    assert states(store, jobs) == [("sent", 1)] * 4


def test_one_delivery_that_is_refused_does_not_open_the_breaker(
    studio: FakeLabelStudio, store: Store, settings: Settings, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = done(2)
    store_of = store.jobs.result

    def tracks(job_id: str) -> Result:
        if job_id == jobs[0].id:
            raise RuntimeError("odd")
        return store_of(job_id)

    monkeypatch.setattr(store.jobs, "result", tracks)
    courier = Courier(store, settings)
    done_ = courier.round(grace_seconds=0)
    assert (done_.delivered, done_.failed) == (1, 1)
    assert not courier.breaker.open


def test_a_label_studio_that_hangs_costs_no_more_than_the_deadline(
    store: Store, settings: Settings, done: Any, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(couriers, "DEADLINE_SECONDS", 1.0)
    jobs = done(1)
    hanging = settings.model_copy(update={"label_studio_url": silent})
    began = time.monotonic()
    Courier(store, hanging).round(grace_seconds=0)
    # Without the deadline it waits for SILENCE_SECONDS, 30 s, several times.
    assert time.monotonic() - began < 20
    assert states(store, jobs) == [("pending", 1)]
    assert "in time" in delivery_of(store, jobs[0]).last_error


def test_a_workers_next_job_does_not_wait_for_a_hanging_label_studio(
    store: Store, settings: Settings, done: Any, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(couriers, "DEADLINE_SECONDS", 2.0)
    (job,) = done(1)
    hand = Hand(Courier(store, settings.model_copy(update={"label_studio_url": silent})))
    hand.give(delivery_of(store, job))
    # `give` has returned, and the delivery is still under way.
    assert not hand.finish(0.0)
    assert hand.finish(20)
    assert states(store, [job]) == [("pending", 1)]


def proxy(
    status: int, body: bytes = b"<html>nginx</html>", asked: list[bytes] | None = None, **headers: str
) -> tuple[str, socket.socket]:
    """A server with one answer to every request, like a proxy while Label Studio restarts.

    Args:
        asked: receives the requests.
    """
    requests = [] if asked is None else asked
    listener = socket.create_server(("127.0.0.1", 0))
    lines = [f"HTTP/1.1 {status} X", "Content-Type: text/html", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(65536))
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", listener


@pytest.mark.parametrize("status", [404, 403, 502, 503, 429])
def test_a_proxys_answer_while_label_studio_restarts_is_not_final(
    store: Store, settings: Settings, done: Any, status: int
) -> None:
    jobs = done(1)
    url, listener = proxy(status)
    with listener:
        courier = Courier(store, settings.model_copy(update={"label_studio_url": url}))
        courier.round(grace_seconds=0)
    assert states(store, jobs) == [("pending", 1)]
    assert courier.breaker.open


def test_retry_after_is_honoured(store: Store, settings: Settings, done: Any) -> None:
    jobs = done(2)
    asked: list[bytes] = []
    url, listener = proxy(503, asked=asked, Retry_After="120")
    with listener:
        courier = Courier(store, settings.model_copy(update={"label_studio_url": url}))
        before = store.now()
        courier.round(grace_seconds=0)
        after = store.now()
        assert len(asked) == 1
        courier.round(grace_seconds=0)
        assert len(asked) == 1
    assert not courier.breaker.allows()
    (refused,) = [one for one in map(store.deliveries.of_job, [job.id for job in jobs]) if one and one.attempts]
    pause, second = timedelta(seconds=120), timedelta(seconds=1)
    assert before + pause - second <= refused.next_attempt_at <= after + pause + second


def test_what_label_studio_itself_does_not_have_is_missing(studio: FakeLabelStudio) -> None:
    client = LabelStudioClient(studio.url, LEGACY, attempts=1)
    with pytest.raises(MissingError):
        client.project(999)
    client.close()


def test_retry_after_as_a_date_is_read() -> None:
    url, listener = proxy(503, Retry_After="Wed, 21 Oct 2099 07:28:00 GMT")
    client = LabelStudioClient(url, LEGACY, attempts=1)
    with listener, pytest.raises(UnavailableError) as caught:
        client.whoami()
    client.close()
    assert caught.value.retry_after == 3600


def test_the_breaker_lets_one_probe_through_after_each_growing_pause() -> None:
    breaker = CircuitBreaker()
    assert breaker.allows()
    breaker.failed("away")
    assert not breaker.allows()
    time.sleep(0.25)
    assert breaker.allows()
    assert not breaker.allows()
    breaker.failed("away still")
    time.sleep(0.25)
    assert not breaker.allows()
    assert breaker.succeeded()
    assert not breaker.succeeded()
    assert breaker.allows()
