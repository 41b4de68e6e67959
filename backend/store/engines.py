"""Project engines: the engine chosen for each project."""

from __future__ import annotations

from backend.store.database import Database
from backend.store.models import Project
from trajseg.errors import UnknownProjectError


class ProjectEngines:
    """Engines of projects. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def choose(self, project_id: int, engine: str, second: str = "") -> Project:
        """Sets the engine for a project's next jobs; empty: the default engine. Raises UnknownProjectError.

        Args:
            project_id: the store's own.
            engine: a name validated by backend.engines.OfferedEngines.
            second: likewise, the engine to compare with; empty: none.
        """
        with self.database.write() as session:
            project = session.get(Project, project_id)
            if project is None:
                raise UnknownProjectError(
                    f"There is no project {project_id} in the store.", "Connect the backend in the project's settings."
                )
            if (project.engine, project.second_engine) != (engine, second):
                project.engine, project.second_engine = engine, second
            return project
