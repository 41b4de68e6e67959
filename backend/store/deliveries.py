"""Deliveries: the outbox of predictions that still have to reach Label Studio."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend.store.clock import database_now
from backend.store.database import Database
from backend.store.models import Delivery, now
from trajseg.errors import InputError


class DeliveryStore:
    """Reads and writes the table `deliveries`; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def of_job(self, job_id: str) -> Delivery | None:
        """The delivery of a job, if any."""
        with self.database.read() as session:
            return session.scalars(select(Delivery).where(Delivery.job_id == job_id)).one_or_none()

    def due(self, moment: datetime | None = None, limit: int = 100) -> list[Delivery]:
        """Pending deliveries that are due, longest due first."""
        with self.database.read() as session:
            due = Delivery.next_attempt_at <= (moment or database_now(session))
            query = select(Delivery).where(Delivery.state == "pending", due).order_by(Delivery.next_attempt_at)
            return list(session.scalars(query.limit(limit)))

    def claim(self, delivery_id: str, seconds: float = 120.0) -> bool:
        """Claims a pending, due delivery for `seconds`, so that nobody else makes it.

        False if another process was faster, or it is no longer due.
        """
        with self.database.write() as session:
            # On the database's clock, like leases: with local clocks two workers could claim one delivery, or none.
            moment = database_now(session)
            due = (Delivery.id == delivery_id) & (Delivery.state == "pending") & (Delivery.next_attempt_at <= moment)
            claim = update(Delivery).where(due).values(next_attempt_at=moment + timedelta(seconds=seconds))
            claimed: Any = session.execute(claim)
            return bool(claimed.rowcount)

    def sent(self, delivery_id: str, prediction_id: int | None) -> None:
        """It arrived; `prediction_id` is Label Studio's, or None if the page was answered directly."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state, delivery.prediction_id, delivery.last_error = "sent", prediction_id, ""
            delivery.attempts += 1
            delivery.sent_at = now()

    def failed(self, delivery_id: str, error: str, retry_at: datetime | None) -> None:
        """It did not arrive; try again at `retry_at`, or never if that is None."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state = "pending" if retry_at else "failed"
            delivery.attempts += 1
            delivery.last_error = error
            if retry_at:
                delivery.next_attempt_at = retry_at

    def look_later(self, delivery_id: str, until: datetime) -> None:
        """The requesting page already has the result: check again at `until` whether that was enough."""
        later = update(Delivery).where(Delivery.id == delivery_id, Delivery.state == "pending")
        with self.database.write() as session:
            session.execute(later.values(next_attempt_at=until))

    def dropped(self, delivery_id: str, reason: str) -> None:
        """It is no longer needed: its task was deleted."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state, delivery.last_error = "dropped", reason

    def release_all(self) -> None:
        """Label Studio is back: everything waiting for a retry is due now, and dead letters are tried again."""
        waiting = update(Delivery).where(Delivery.attempts > 0, Delivery.state.in_(("pending", "failed")))
        with self.database.write() as session:
            # In the past, so that these are not left to the worker that produced the result.
            due = database_now(session) - timedelta(minutes=1)
            session.execute(waiting.values(state="pending", attempts=0, next_attempt_at=due))

    def send_again(self, job_id: str) -> None:
        """Makes a job's delivery due now, even if it was already sent or had failed."""
        again = update(Delivery).where(Delivery.job_id == job_id)
        with self.database.write() as session:
            session.execute(again.values(state="pending", attempts=0, next_attempt_at=database_now(session)))

    def count(self) -> dict[str, int]:
        """The number of deliveries by state."""
        query = select(Delivery.state, func.count()).group_by(Delivery.state)
        with self.database.read() as session:
            return {row[0]: row[1] for row in session.execute(query)}


def _get_delivery(session: Session, delivery_id: str) -> Delivery:
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None:
        raise InputError(f"There is no delivery {delivery_id}.", "GET /jobs/ID shows the delivery of a job.")
    return delivery
