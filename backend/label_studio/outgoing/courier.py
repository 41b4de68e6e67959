"""The courier: sends due deliveries to Label Studio and deletes superseded predictions, one at a time."""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from backend.label_studio.breaker import CircuitBreaker
from backend.label_studio.outgoing.delivery import connected, deliver, put_off
from backend.label_studio.outgoing.links import renew_links
from backend.label_studio.outgoing.states import StateWriter
from backend.label_studio.outgoing.superseding import delete_superseded
from backend.label_studio.refusals import is_transient, retry_after
from backend.settings import Settings
from backend.store import Delivery, Store
from trajseg.errors import LabelStudioError

log = logging.getLogger("trajseg.delivery")

GRACE_SECONDS = 10.0
"""Younger deliveries are left to the worker that produced the result."""
CLEANING_SECONDS = 600.0
"""How often superseded predictions are checked."""
DEADLINE_SECONDS = 60.0
"""Time limit for one delivery, including all retries and slow answers."""

STATES_SECONDS = 10.0
"""Time limit for writing task states in one round."""


@dataclass(frozen=True)
class Errands:
    """What one round did."""

    delivered: int = 0
    failed: int = 0
    deleted: int = 0
    renewed: int = 0
    states: int = 0


class Courier:
    """Makes deliveries through one circuit breaker; each delivery has its own deadline.

    A failure that affects Label Studio as a whole (down, 5xx, 429, a rejected token) opens the breaker, and the other
    deliveries wait untouched. Once Label Studio is back, all of them are sent at once, including those that failed.
    """

    def __init__(self, store: Store, settings: Settings, breaker: CircuitBreaker | None = None) -> None:
        self.store = store
        self.settings = settings
        self.breaker = breaker or CircuitBreaker()
        self._states = StateWriter(store, settings)
        self._cleaned_at: float | None = None

    def round(self, grace_seconds: float = GRACE_SECONDS) -> Errands:
        """Makes the deliveries that are due; stops early while Label Studio is failing."""
        delivered = failed = 0
        for delivery in self.store.deliveries.due(self.store.now() - timedelta(seconds=grace_seconds)):
            try:
                if self.deliver(delivery):
                    delivered += 1
                    continue
            except Exception:
                # A delivery that cannot even be recorded as failed must not block the others.
                log.exception("delivery of job %s is skipped for now", delivery.job_id)
            failed += 1
            if self.breaker.open:
                break
        return Errands(delivered, failed, self._clean(), self._renew(), self._tell_states())

    def deliver(self, delivery: Delivery) -> bool:
        """Claims and makes one delivery; returns whether it arrived. Not attempted while the breaker is open."""
        if not self.breaker.allows() or not self.store.deliveries.claim(delivery.id, 2 * DEADLINE_SECONDS):
            return False
        try:
            client = connected(self.settings, DEADLINE_SECONDS)
        except LabelStudioError as error:
            put_off(self.store, self.settings, delivery, error)
            self.breaker.failed(str(error))
            return False
        try:
            failure = deliver(self.store, client, self.settings, delivery)
        finally:
            client.close()
        if failure is not None and is_transient(failure):
            self.breaker.failed(str(failure), retry_after(failure))
            return False
        if self.breaker.succeeded():
            self.store.deliveries.release_all()
        return failure is None

    def _tell_states(self) -> int:
        """Writes the states of tasks that have changed. Best effort: nothing waits for them or retries them."""
        if self.breaker.open or not self.settings.label_studio_api_key.get_secret_value():
            return 0
        due = self._states.due()
        if not due:
            return 0
        try:
            client = connected(self.settings, STATES_SECONDS)
        except LabelStudioError:
            return 0
        try:
            return self._states.write(client, due, time.monotonic() + STATES_SECONDS)
        except LabelStudioError as error:
            log.info("task states will be written later: %s", error)
            if is_transient(error):
                self.breaker.failed(str(error), retry_after(error))
            return 0
        finally:
            client.close()

    def _clean(self) -> int:
        due = self._cleaned_at is None or time.monotonic() - self._cleaned_at >= CLEANING_SECONDS
        if not due or self.breaker.open or not self.store.superseded.due(1):
            return 0
        self._cleaned_at = time.monotonic()
        try:
            client = connected(self.settings, DEADLINE_SECONDS)
        except LabelStudioError:
            return 0
        try:
            return delete_superseded(self.store, client, self.settings)
        except LabelStudioError as error:
            log.warning("superseded predictions will be deleted later: %s", error)
            return 0
        finally:
            client.close()

    def _renew(self) -> int:
        """Signs the links of some tasks again, if Label Studio is available."""
        if self.breaker.open or not self.settings.label_studio_api_key.get_secret_value():
            return 0
        if not self.store.pictures.due(1):
            return 0
        try:
            client = connected(self.settings, DEADLINE_SECONDS)
        except LabelStudioError:
            return 0
        try:
            return renew_links(self.store, client, self.settings)
        except LabelStudioError as error:
            log.warning("links to pictures will be signed again later: %s", error)
            if is_transient(error):
                self.breaker.failed(str(error), retry_after(error))
            return 0
        finally:
            client.close()


class Hand:
    """Runs a worker's deliveries in a background thread, so that the next job does not wait for them.

    Whatever has not arrived when the process ends is delivered by the backend.
    """

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self._waiting: queue.Queue[Delivery] = queue.Queue()
        self._thread: threading.Thread | None = None

    def give(self, delivery: Delivery) -> None:
        """Queues a delivery; returns at once."""
        self._waiting.put(delivery)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
            self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Waits up to `seconds` until everything has been attempted; returns whether it has."""
        deadline = time.monotonic() + seconds
        while self._waiting.unfinished_tasks:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def _run(self) -> None:
        while True:
            delivery = self._waiting.get()
            try:
                self._courier.deliver(delivery)
            except Exception:
                log.exception("job %s is not delivered yet", delivery.job_id)
            finally:
                self._waiting.task_done()
