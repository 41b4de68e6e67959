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
        """The delivery of a job, if it has one."""
        with self.database.read() as session:
            return session.scalars(select(Delivery).where(Delivery.job_id == job_id)).one_or_none()

    def due(self, moment: datetime | None = None, limit: int = 100) -> list[Delivery]:
        """Pending deliveries whose time has come, the longest due first."""
        with self.database.read() as session:
            due = Delivery.next_attempt_at <= (moment or database_now(session))
            query = select(Delivery).where(Delivery.state == "pending", due).order_by(Delivery.next_attempt_at)
            return list(session.scalars(query.limit(limit)))

    def claim(self, delivery_id: str, seconds: float = 120.0) -> bool:
        """Take a pending delivery that is due, so that nobody else makes it for so many seconds.

        False when somebody else was faster, or it is no longer due.
        """
        with self.database.write() as session:
            # By the database's clock, as leases are: with their own, two workers would claim one delivery, or none.
            moment = database_now(session)
            due = (Delivery.id == delivery_id) & (Delivery.state == "pending") & (Delivery.next_attempt_at <= moment)
            claim = update(Delivery).where(due).values(next_attempt_at=moment + timedelta(seconds=seconds))
            claimed: Any = session.execute(claim)
            return bool(claimed.rowcount)

    def sent(self, delivery_id: str, prediction_id: int | None) -> None:
        """It has arrived; `prediction_id` is Label Studio's, or None when the page was answered directly."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state, delivery.prediction_id, delivery.last_error = "sent", prediction_id, ""
            delivery.attempts += 1
            delivery.sent_at = now()

    def failed(self, delivery_id: str, error: str, retry_at: datetime | None) -> None:
        """It has not arrived; try again at `retry_at`, or never when that is None."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state = "pending" if retry_at else "failed"
            delivery.attempts += 1
            delivery.last_error = error
            if retry_at:
                delivery.next_attempt_at = retry_at

    def look_later(self, delivery_id: str, until: datetime) -> None:
        """The page that asked has the result already: look again at `until` whether that was enough."""
        later = update(Delivery).where(Delivery.id == delivery_id, Delivery.state == "pending")
        with self.database.write() as session:
            session.execute(later.values(next_attempt_at=until))

    def dropped(self, delivery_id: str, reason: str) -> None:
        """It is not needed any more: its task was deleted."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state, delivery.last_error = "dropped", reason

    def release_all(self) -> None:
        """Label Studio is back: what waits for its next try is due now, and what was given up is tried again."""
        waiting = update(Delivery).where(Delivery.attempts > 0, Delivery.state.in_(("pending", "failed")))
        with self.database.write() as session:
            # In the past: these are not left to the worker that made the result.
            due = database_now(session) - timedelta(minutes=1)
            session.execute(waiting.values(state="pending", attempts=0, next_attempt_at=due))

    def send_again(self, job_id: str) -> None:
        """Make a job's delivery due now, also when it was sent or has failed before."""
        again = update(Delivery).where(Delivery.job_id == job_id)
        with self.database.write() as session:
            session.execute(again.values(state="pending", attempts=0, next_attempt_at=database_now(session)))

    def count(self) -> dict[str, int]:
        """How many deliveries there are by state."""
        query = select(Delivery.state, func.count()).group_by(Delivery.state)
        with self.database.read() as session:
            return {row[0]: row[1] for row in session.execute(query)}


def _get_delivery(session: Session, delivery_id: str) -> Delivery:
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None:
        raise InputError(f"There is no delivery {delivery_id}.", "GET /jobs/ID shows the delivery of a job.")
    return delivery
