"""Request bodies from Label Studio, reduced to what trajseg reads; other keys, including access tokens, are dropped."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from trajseg.errors import InputError
from trajseg.files import printable

LabelConfigText = Annotated[str, StringConstraints(max_length=2**20), AfterValidator(lambda text: storable(text))]
MAX_TASKS = 20_000
"""Most tasks in one request; Label Studio sends all selected tasks."""


MAX_ADDRESS_LENGTH = 8192
"""Characters of a video's address; pages show it. Signed links have up to about 2000."""
MAX_ID = 2**31 - 1
"""Label Studio's ids are 32-bit integers, and so are the store's columns."""
Id = Annotated[int, Field(ge=0, le=MAX_ID)]


def storable(value: Any) -> Any:
    """JSON whose text can be encoded and stored: no lone surrogates, no NUL."""
    if isinstance(value, str):
        return printable(value).replace("\0", "\\x00")
    if isinstance(value, list):
        return [storable(member) for member in value]
    if isinstance(value, dict):
        return {storable(key): storable(member) for key, member in value.items()}
    return value


class Payload(BaseModel):
    """Base class: keys that trajseg does not read are dropped, so they are neither stored nor logged."""

    model_config = ConfigDict(extra="ignore")


class ProjectReference(Payload):
    """ "6.1795422572": a project's id and creation time, which distinguishes it from an older one."""

    label_studio_id: Id
    stamp: str = ""

    @classmethod
    def read(cls, text: str | int) -> ProjectReference:
        """Raises InputError if there is no id."""
        number, _, stamp = str(text).partition(".")
        if not re.fullmatch(r"[0-9]{1,15}", number) or int(number) > MAX_ID or not re.fullmatch(r"[0-9]{0,40}", stamp):
            raise InputError(
                f"`project` is {printable(str(text)[:60])!r}, not a project id.",
                'Label Studio writes it as "6.1795422572".',
            )
        return cls(label_studio_id=int(number), stamp=stamp)


class ExtraParams(Payload):
    """What a person entered as extra params of the backend's connection in Label Studio."""

    engine: str = Field(default="", max_length=400)
    compare: str = Field(default="", max_length=400)


class SetupRequest(Payload):
    """POST /setup. Its `access_token` gives access to a whole account, so it is never read."""

    project: str | int
    label_config: LabelConfigText = Field(alias="schema")
    hostname: Annotated[str, AfterValidator(lambda text: storable(text))] = Field(default="", max_length=400)
    extra_params: ExtraParams = Field(default_factory=lambda: ExtraParams())

    @field_validator("extra_params", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        """Label Studio sends the connection's extra params as JSON, as JSON in a string, or as null."""
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.strip() else None
            except ValueError:
                raise ValueError('it is not a JSON object such as {"engine": "grounded"}') from None
        return storable(value) or {}

    @property
    def engine(self) -> str:
        """The engine that the connection names; empty: the default engine."""
        return self.extra_params.engine

    @property
    def compare(self) -> str:
        """The engine to compare it with; empty: none."""
        return self.extra_params.compare


class Held(Payload):
    """An annotation, draft or prediction that a task already has.

    Malformed parts are ignored: this is context, and no reason to reject the task.
    """

    id: int | None = None
    model_version: str | None = None
    result: list[dict[str, Any]] = Field(default_factory=list)

    @field_validator("id", mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        return value if _is_id(value) else None

    @field_validator("model_version", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return storable(value) if isinstance(value, str) else None

    @field_validator("result", mode="before")
    @classmethod
    def _regions(cls, value: object) -> object:
        return storable(_objects(value))

    def labels(self, apart_from_job: str) -> set[str]:
        """Labels of its regions, except those that came from this job."""
        found: set[str] = set()
        for region in self.result:
            value, meta = region.get("value"), region.get("meta")
            if isinstance(meta, dict) and meta.get("job_id") == apart_from_job:
                continue
            if isinstance(value, dict):
                for key in ("bitmasklabels", "labels"):
                    labels = value.get(key)
                    found.update(map(str, labels) if isinstance(labels, list) else ())
        return found


class Task(Payload):
    """A task to predict, with what it already has.

    Each task is validated on its own, so that a bad one does not affect the others; `problem` says what is wrong.
    """

    id: int | None = None
    data: dict[str, Any]
    problem: str = ""
    annotations: list[Held] = Field(default_factory=list)
    drafts: list[Held] = Field(default_factory=list)
    predictions: list[Held] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, form: object) -> object:
        if not isinstance(form, dict):
            return {"data": {}, "problem": "A task is not a JSON object."}
        task_id, data = form.get("id"), form.get("data")
        problem = ""
        if task_id is not None and not _is_id(task_id):
            problem = f"The id of a task is {printable(json.dumps(task_id))[:60]}, not a whole number up to {MAX_ID}."
        elif not isinstance(data, dict):
            problem = f"The data of task {task_id} is not a JSON object."
        return {
            "id": task_id if _is_id(task_id) else None,
            "data": data if isinstance(data, dict) else {},
            "problem": problem,
            **{key: _objects(form.get(key)) for key in ("annotations", "drafts", "predictions")},
        }


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID


def _objects(value: object) -> list[dict[str, Any]]:
    """The JSON objects of a list; empty if there is no list."""
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []


class ContextResult(Payload):
    """Something a person did on the page."""

    from_name: str = ""
    type: str = ""
    item_index: int | None = None
    original_width: int = 0
    original_height: int = 0
    value: dict[str, Any] = Field(default_factory=dict)


def _lines(result: ContextResult) -> list[str]:
    texts = result.value.get("text")
    texts = texts if isinstance(texts, list) else [texts]
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]


class Context(Payload):
    """What a person just did on the page."""

    result: list[ContextResult] = Field(default_factory=list)

    @field_validator("result", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return storable(value) or []

    def typed_text(self, *other_than: str) -> str:
        """The text last typed into a text area other than these; empty if there is none."""
        for result in reversed(self.result):
            if result.type == "textarea" and result.from_name not in other_than and (lines := _lines(result)):
                return lines[-1]
        return ""

    def lines_of(self, name: str) -> list[str]:
        """The lines in the text area of this name, newest last; empty if it is not in the context."""
        return next((_lines(result) for result in self.result if result.from_name == name), [])

    def rectangles(self, from_name: str | None) -> list[ContextResult]:
        """Rectangles just drawn with a tag of this name."""
        return self._of(from_name, ("rectanglelabels", "rectangle"))

    def points(self, from_name: str | None) -> list[ContextResult]:
        """Key points just set with a tag of this name."""
        return self._of(from_name, ("keypointlabels", "keypoint"))

    def _of(self, from_name: str | None, kinds: tuple[str, ...]) -> list[ContextResult]:
        return [result for result in self.result if result.from_name == from_name and result.type in kinds]


class Params(Payload):
    """Sent along with the tasks: what a person did, or null for batch predictions.

    Label Studio never sends `engine` here; other callers may.
    """

    context: Context | None = None
    engine: str = Field(default="", max_length=400)

    @field_validator("context", mode="before")
    @classmethod
    def _null(cls, value: object) -> object:
        # label-studio-ml 2.x turns a missing context into {}.
        return value or None


class PredictRequest(Payload):
    """POST /predict."""

    tasks: list[Task] = Field(max_length=MAX_TASKS)
    project: str | int
    label_config: LabelConfigText = ""
    params: Params = Field(default_factory=Params)

    @field_validator("params", mode="before")
    @classmethod
    def _null(cls, value: object) -> object:
        return value or {}


class WebhookProject(Payload):
    """The project of a webhook: an id to look up in Label Studio. Nothing else that the sender claims is read."""

    id: Id


class WebhookRequest(Payload):
    """POST /webhook: a claim, not to be trusted, that something has happened in a project."""

    action: str = Field(max_length=100)
    project: WebhookProject | None = None
