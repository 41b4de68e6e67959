"""Offered engines: TRAJSEG_MODEL and TRAJSEG_ENGINES; projects and requests can choose only from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.settings import Settings, model_version_of
from backend.store import Project, Store
from trajseg.engines.registry import engine_spec
from trajseg.errors import CheckpointError, InputError


@dataclass(frozen=True)
class ChosenEngine:
    """The engine of a job: its name (empty: TRAJSEG_MODEL), and the model version that its predictions carry.

    Args:
        second: the name of the engine to compare with when pre-labelling; empty: none.
    """

    name: str
    model_version: str
    second: str = ""

    @property
    def params(self) -> dict[str, Any]:
        """The corresponding job params."""
        return {"engine": self.name} if self.name else {}


@dataclass(frozen=True)
class OfferedEngines:
    """Model versions of the offered engines by name, the default one first.

    A request can never cause an import or a file read that the operator has not listed.
    """

    default: str
    versions: Mapping[str, str]

    @classmethod
    def from_settings(cls, settings: Settings) -> OfferedEngines:
        """Raises CheckpointError if an engine cannot be imported, InputError if two share a model version."""
        names = dict.fromkeys((settings.model, *settings.engines))
        versions = {name: model_version_of(name) for name in names}
        for name, version in versions.items():
            twin = next(other for other, same in versions.items() if same == version)
            if twin != name:
                raise InputError(
                    f"The engines {twin} and {name} both have the model version {version}.",
                    "Remove one of them from TRAJSEG_ENGINES: their predictions would be indistinguishable.",
                )
        return cls(settings.model, versions)

    def checked(self, name: str) -> str:
        """The name, empty for the default engine; raises InputError if it is not offered."""
        name = name.strip()
        if name and name not in self.versions:
            raise InputError(
                f"The engine {name[:100]!r} is not offered here; available: {', '.join(self.versions)}.",
                "Choose one of them, or add it to TRAJSEG_ENGINES of backend and workers.",
            )
        return "" if name == self.default else name

    def base(self, name: str) -> str:
        """The model version of an engine without a project's adapter; raises as `checked` does."""
        return self.versions[self.checked(name) or self.default]

    def check_trainable(self, name: str) -> None:
        """Raises InputError if an engine cannot be fine-tuned, as far as this machine knows; also as `checked` does."""
        try:
            spec = engine_spec(self.checked(name) or self.default)
        except CheckpointError:
            # Only the workers have this checkpoint.
            return
        if not spec.adapts:
            raise InputError(
                f"{spec.model_version} cannot be fine-tuned.",
                "Choose an engine that can for this project: a TrajSeg checkpoint, such as trajseg-tiny.",
            )

    def chosen(self, store: Store, project: Project | None, name: str = "") -> ChosenEngine:
        """The engine for a job: the requested one, else the project's, else the default; raises as `checked` does.

        Its model version includes the adapter that serves the project now.
        """
        second = project.second_engine if project and not name else ""
        name = self.checked(name or (project.engine if project else ""))
        served = store.versions.served_name(project.id if project else None, self.base(name))
        return ChosenEngine(name, served, self.second(name, second))

    def second(self, name: str, second: str) -> str:
        """The full name of the engine to compare another one with; empty for none.

        Raises:
            InputError: it is not offered, or it is the same engine.
        """
        if not second:
            return ""
        full = self.checked(second) or self.default
        if full == (name or self.default):
            raise InputError(
                f"The engine {full} would be compared with itself.", "Choose another offered engine to compare with."
            )
        return full
