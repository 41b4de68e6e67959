"""Sides: which of a project's videos are held out of training, decided once for each."""

from __future__ import annotations

from typing import cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.store.database import Database
from backend.store.models import Project, VideoSide
from trajseg.data.sides import Side, side_of


class Sides:
    """Reads and writes the table `video_sides`; each method is one transaction. Projects are the store's own ids."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def of(self, project_id: int, identity: str) -> Side | None:
        """The side of a video; None if it is undecided."""
        with self.database.read() as session:
            return _known(session, project_id, identity)

    def decide(self, project_id: int, identity: str) -> Side:
        """The side of a video, decided now if it is new to the project.

        Whatever becomes of its corrections, it keeps the side: it may have been trained on.

        Args:
            identity: a hash of the video's bytes, as in an export's manifest.
        """
        known = self.of(project_id, identity)
        if known is not None:
            return known
        with self.database.write() as session:
            # A decision depends on how many came before, so the project's decisions are taken one after the other. The
            # lock lets others refer to the project meanwhile.
            session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
            known = _known(session, project_id, identity)
            if known is not None:
                return known
            earlier = session.scalar(select(func.count()).where(VideoSide.project_id == project_id)) or 0
            side = side_of(identity, earlier)
            session.add(VideoSide(project_id=project_id, identity=identity, side=side))
            return side


def _known(session: Session, project_id: int, identity: str) -> Side | None:
    query = select(VideoSide.side).where(VideoSide.project_id == project_id, VideoSide.identity == identity)
    return cast("Side | None", session.scalar(query))
