"""Projects: Label Studio's projects as trajseg knows them."""

from __future__ import annotations

from sqlalchemy import bindparam, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.store.database import Database
from backend.store.models import Project
from trajseg.errors import UnknownProjectError


class ProjectStore:
    """Reads and writes the table `projects`; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def upsert(
        self, label_studio_id: int, hostname: str, label_config: str, title: str = "", stamp: str = ""
    ) -> Project:
        """Records a Label Studio project, or changes to it; empty values keep the stored ones.

        Args:
            stamp: what Label Studio appends to the id ("6.1795422572" has "1795422572"). A project recorded without a
                stamp takes the first one that arrives; a different stamp creates another project.
        """
        new = {"hostname": hostname, "label_config": label_config, "title": title, "stamp": stamp}
        changes = {name: value for name, value in new.items() if value}
        with self.database.read() as session:
            # Label Studio repeats itself, and almost no request brings a change: avoid waiting for writers.
            known = _find_project(session, label_studio_id, stamp)
            if known is not None and all(getattr(known, name) == value for name, value in changes.items()):
                return known
        for _ in range(2):
            try:
                with self.database.write() as session:
                    project = _find_project(session, label_studio_id, stamp)
                    if project is None:
                        project = Project(label_studio_id=label_studio_id)
                        session.add(project)
                    for name, value in changes.items():
                        if getattr(project, name) != value:
                            setattr(project, name, value)
                    return project
            except IntegrityError as error:
                # Another process recorded it between our read and our write: read again.
                lost = error
        raise lost

    def known(self, label_studio_id: int, label_config: str, stamp: str = "") -> Project | None:
        """The stored project; None if there is none, or if it has another configuration or stamp."""
        with self.database.read() as session:
            project = _find_project(session, label_studio_id, stamp)
        if project is None or (project.label_config, project.stamp) != (label_config, stamp or project.stamp):
            return None
        return project

    def get(self, project_id: int) -> Project:
        """The project with the store's own id, which jobs refer to. Raises UnknownProjectError."""
        with self.database.read() as session:
            project = session.get(Project, project_id)
        if project is None:
            raise UnknownProjectError(
                f"There is no project {project_id} in the store.", "Connect the backend in the project's settings."
            )
        return project

    def list(self) -> list[Project]:
        """All projects that trajseg knows, by Label Studio's id."""
        with self.database.read() as session:
            return list(session.scalars(select(Project).order_by(Project.label_studio_id, Project.id)))

    def swept(self, project_id: int, to: str) -> None:
        """Records the Label Studio time up to which a project's changes have been seen."""
        with self.database.write() as session:
            # Only this column: the project's own modification time stays the same.
            values = {"swept_to": to, "updated_at": Project.updated_at}
            session.execute(update(Project).where(Project.id == project_id).values(**values))

    def of_label_studio(self, label_studio_id: int, stamp: str = "") -> Project:
        """The project with Label Studio's id; the newest one if no stamp is given.

        Raises UnknownProjectError.
        """
        with self.database.read() as session:
            project = _find_project(session, label_studio_id, stamp)
        if project is None:
            raise UnknownProjectError(
                f"Label Studio project {label_studio_id} is not connected to trajseg.",
                "Connect the backend in the project's settings, or use `trajseg project create`.",
            )
        return project


def _find_project(session: Session, label_studio_id: int, stamp: str) -> Project | None:
    if stamp:
        return session.scalars(_OF_STAMP, {"number": label_studio_id, "stamp": stamp}).first()
    return session.scalars(_NEWEST, {"number": label_studio_id}).first()


# Built once, since each /predict runs one of them.
_OF_ID = select(Project).where(Project.label_studio_id == bindparam("number")).limit(1)
_NEWEST = _OF_ID.order_by(Project.id.desc())
# A project with this stamp before one without a stamp.
_OF_STAMP = _OF_ID.where(Project.stamp.in_((bindparam("stamp"), ""))).order_by(Project.stamp.desc())
