"""What Label Studio's answers hold: tasks and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """A prediction as stored in Label Studio."""

    id: int
    model_version: str
    result: list[dict[str, Any]]
    score: float | None = None


@dataclass(frozen=True)
class Task:
    """A task as stored in Label Studio.

    Attributes:
        data: task data with storage addresses as written, not as resolved for a browser.
        annotations: with their results.
        has_draft: whether anyone has an unsubmitted draft on it.
        drafts: the drafts that Label Studio returns, with their results.
    """

    id: int
    project: int
    data: dict[str, Any]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    has_draft: bool = False
    drafts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def skipped(self) -> bool:
        """Whether everybody who opened it pressed Skip."""
        return bool(self.annotations) and all(each.get("was_cancelled") for each in self.annotations)

    @classmethod
    def from_json(cls, form: Mapping[str, Any], project_id: int) -> Task:
        """A task of an answer; `project_id` where the answer does not name its project."""
        return cls(
            id=int(form["id"]),
            project=int(form.get("project") or project_id),
            data=dict(form.get("data") or {}),
            annotations=[dict(annotation) for annotation in form.get("annotations") or []],
            has_draft=bool(form.get("draft_exists") or form.get("drafts")),
            drafts=[dict(draft) for draft in form.get("drafts") or [] if isinstance(draft, Mapping)],
        )


@dataclass(frozen=True)
class ChangedTask:
    """A task in which something has changed.

    Attributes:
        updated_at: when, as Label Studio writes it (ISO 8601 in UTC, so text order is time order).
        annotated: whether it has an annotation, including a skipped one.
    """

    id: int
    updated_at: str
    annotated: bool
