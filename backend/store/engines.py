"""Project engines: which engine each project has chosen."""

from __future__ import annotations

from backend.store.database import Database
from backend.store.models import Project
from trajseg.errors import UnknownProjectError


class ProjectEngines:
    """Engines of projects. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def choose(self, project_id: int, engine: str, second: str = "") -> Project:
        """Have a project's next jobs done by this engine; empty: by the default one. Raises UnknownProjectError.

        Args:
            project_id: the store's own.
            engine: a name that backend.engines.OfferedEngines has checked.
            second: likewise, of the engine to compare it with; empty: none.
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
