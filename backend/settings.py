"""Every setting of the service, read from the environment; docs/settings.md is made from this class."""

from __future__ import annotations

import os
import posixpath
import re
import secrets
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.addresses import shown_address, shown_text
from backend.private import private_folder
from trajseg.engines.registry import FACTORY, engine_spec
from trajseg.errors import CheckpointError, InputError, redact_with
from trajseg.video.decoding import MAX_FRAME_PIXELS

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
HEARTBEAT_SECONDS = 5.0
"""How often a run says that it is alive, whatever its engine does meanwhile."""
SHORTEST_SECRET = 6
"""Characters of the shortest secret that is blotted out of texts."""


class Settings(BaseSettings):
    """What can be set, by environment variable or keyword.

    Variables have the prefix TRAJSEG_, but for the four that everybody spells the same way. Durations are
    seconds, sizes are bytes. A list is written with commas between its members.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRAJSEG_", env_ignore_empty=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    label_studio_url: str = Field(
        default="http://127.0.0.1:8080",
        validation_alias="LABEL_STUDIO_URL",
        description="Where the backend and the worker reach Label Studio.",
    )
    label_studio_api_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="LABEL_STUDIO_API_KEY",
        description="Personal access token or legacy token of a Label Studio user who may write to the "
        "projects. The token that Label Studio sends to /setup is never used.",
    )
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        validation_alias="REDIS_URL",
        description="Redis or Valkey, transport only. `trajseg serve` starts its own when this is unset.",
    )
    database_url: str = Field(
        default="",
        validation_alias="DATABASE_URL",
        description="The store: an SQLAlchemy URL, `sqlite:///file` or `postgresql://...`. "
        "Unset: the file `trajseg.db` in the data folder.",
    )

    model: str = Field(default="trajseg-tiny", description="Name of a shipped model, or a checkpoint folder.")
    engines: CommaSeparated = Field(
        default=(),
        description="Further engines, named as TRAJSEG_MODEL is, that a project or a request may choose; "
        "the same for backend and workers.",
    )
    engine_memory_gb: float = Field(
        default=0.0,
        ge=0,
        description="GB of memory for the engines that a worker holds at once: where they do not fit, the one not used "
        "for longest leaves. 0: 0.9 of the GPU's memory, or half of the machine's where there is none.",
    )
    marks_model: str = Field(
        default="",
        description="Draws what a box or a click marks: `mobile-sam`, or a folder with its encoder.onnx and sam.onnx. "
        "Unset: the engine draws it, or colours where it cannot.",
    )
    device: str = Field(default="", description="`cpu`, `cuda`, `cuda:1` ...; unset: a GPU where there is one.")
    dtype: Literal["", "float32", "bfloat16", "float16"] = Field(
        default="", description="Number format of the worker's weights; unset: the checkpoint's own."
    )
    four_bit: bool = Field(
        default=False,
        description="The worker keeps the language model's layers in 4 bits; needs bitsandbytes.",
    )

    worker_nice: int = Field(
        default=10,
        ge=0,
        le=19,
        description="Added to the worker's nice value: an answer of the backend takes milliseconds and a job minutes, "
        "so on a machine that both share the backend goes first. 0: both are equal.",
    )

    host: str = Field(
        default="127.0.0.1",
        description="Address that the backend listens on. Any but this machine's own needs Basic authentication.",
    )
    port: int = Field(default=9090, ge=0, le=65535, description="Port that the backend listens on.")
    threads: int = Field(
        default=16,
        ge=2,
        le=256,
        description="Threads that answer requests; an interactive request holds one.",
    )
    public_url: str = Field(
        default="",
        description="URL under which browsers and Label Studio reach the backend, written into links to key "
        "frames. Unset: http://127.0.0.1 and the port.",
    )
    allowed_hosts: CommaSeparated = Field(
        default=(),
        description="Host names, beside those of TRAJSEG_PUBLIC_URL and LABEL_STUDIO_URL, under which the backend is "
        "reached, such as its service name in Docker; `*.example.com` allowed. IP addresses always are.",
    )
    proxies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Reverse proxies in front of the backend: so many entries of X-Forwarded-For are believed, and "
        "wrong passwords are counted by the client's address.",
    )
    basic_auth_user: str = Field(
        default="", description="User name for Basic authentication; unset: no password is needed."
    )
    basic_auth_password: SecretStr = Field(default=SecretStr(""), description="Password for Basic authentication.")
    api_token: SecretStr = Field(
        default=SecretStr(""),
        description="Token with which programs cancel and retry jobs (`Authorization: Bearer`). Unset: made once and "
        "kept in the data folder; `trajseg token` prints it.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Notices of Label Studio must carry it in the header X-Trajseg-Secret; `trajseg project create` "
        "sets that up. Unset: none is needed, and notices are looked up in Label Studio all the same.",
    )
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs the links to key frames. Unset: made once and kept in the data folder; to be set "
        "where backend and worker do not share that folder.",
    )
    data_dir: Path = Field(
        default=Path(".trajseg"), description="Folder for the store's file, key frames and downloads."
    )
    max_request_bytes: int = Field(
        default=128 * 2**20,
        ge=2**16,
        description="A larger request is refused. Label Studio sends all that a task has, masks too.",
    )

    interactive_wait_seconds: float = Field(
        default=20.0,
        ge=0,
        le=90,
        description="How long a request typed in the page waits for its result before it is delivered as a "
        "prediction instead. Label Studio gives up after 100.",
    )
    media_link_hours: float = Field(
        default=24 * 30,
        gt=0,
        description="Hours that a link to a key frame stays valid. Links in tasks are signed again after half of it, "
        "as long as Label Studio has the task.",
    )
    deleted_task_days: float = Field(
        default=7.0,
        gt=0,
        description="Days after which a task that Label Studio has no more loses its key frames here.",
    )
    cors_origins: str = Field(
        default="*", description="Access-Control-Allow-Origin on key frames; Label Studio's address, or `*`."
    )

    replay_data: str = Field(
        default="",
        description="Data set that fine-tuning mixes with corrections, as `--data` names it. Unset: what the "
        "checkpoint names (`shapes:turned` for trajseg-tiny).",
    )
    base_data: str = Field(
        default="",
        description="Data set on which a fine-tuned version must not get worse, as `--data` names it. Unset: what "
        "the checkpoint names (`shapes:val` for trajseg-tiny).",
    )
    finetune_steps: int = Field(
        default=0, ge=0, description="Steps of a training that names no number itself; 0: by the size of the base."
    )
    finetune_after: int = Field(
        default=0,
        ge=0,
        description="A project is trained when so many tracks have been corrected since its last training; 0: only "
        "when somebody asks.",
    )
    relabel_after_promotion: bool = Field(
        default=True,
        description="Tasks that nobody has annotated are pre-labelled again by a promoted version, the most doubtful "
        "first.",
    )

    older_predictions: Literal["keep", "replace"] = Field(
        default="keep",
        description="Predictions of a project's earlier model version, once a newer one has labelled the task again: "
        "`keep` them beside it, or `replace` them: they are deleted after TRAJSEG_SUPERSEDED_HOURS.",
    )

    view: Literal["mask", "box"] = Field(
        default="mask",
        description="View for projects that trajseg creates; otherwise the label configuration tells.",
    )
    review_strategy: str = Field(
        default="doubt",
        description="What chooses the frames to look at: `doubt`, `even`, or an entry point of `trajseg.strategies`.",
    )
    max_key_frames: int = Field(default=60, ge=2, le=300, description="Most frames of a clip shown for painting.")
    key_frame_quality: int = Field(default=90, ge=30, le=100, description="JPEG quality of key frames.")
    key_frame_numbers: bool = Field(
        default=True, description="Write each key frame's number into the lower left corner of its picture."
    )

    media_hosts: CommaSeparated = Field(
        default=(),
        description="Hosts, beside Label Studio, that videos may be fetched from; `*.example.com` allowed.",
    )
    media_dirs: CommaSeparated = Field(
        default=(), description="Folders that a task's video may be a local path in; unset: no local paths."
    )
    download_max_bytes: int = Field(default=4 * 2**30, gt=0, description="A larger video is refused.")
    download_days: float = Field(
        default=30.0,
        gt=0,
        description="Days after which a fetched video that no job has used is deleted; it is fetched again when it is "
        "needed. All of them together take at most five times TRAJSEG_DOWNLOAD_MAX_BYTES.",
    )
    download_timeout_seconds: float = Field(default=600.0, gt=0, description="A slower download is given up.")
    max_frame_pixels: int = Field(
        default=MAX_FRAME_PIXELS,
        gt=0,
        description="A video whose pictures have more pixels is refused before they are decoded; so are larger masks. "
        "Read from the environment alone.",
    )
    max_frames: int = Field(default=20_000, gt=0, description="A clip of more frames is refused while it is scanned.")
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="`json`: each line of the log is one object with time, level, logger, message and job.",
    )
    decoder_memory_bytes: int = Field(
        default=4 * 2**30, ge=2**26, description="A video that takes more memory to decode is refused."
    )
    decoder_silence_seconds: float = Field(
        default=60.0, ge=1.0, description="A decoder that gives no frame for so long is stopped, and the job fails."
    )

    job_timeout_seconds: int = Field(default=4 * 3600, gt=0, description="A longer run is stopped and fails.")
    stale_after_seconds: float = Field(
        default=15.0,
        ge=2 * HEARTBEAT_SECONDS,
        description="A running job without a heartbeat for so long is lost: another worker goes on with it. "
        f"At least {2 * HEARTBEAT_SECONDS:g}, since workers send a heartbeat every {HEARTBEAT_SECONDS:g} s.",
    )
    reconcile_seconds: float = Field(
        default=10.0,
        gt=0,
        description="How often the store is compared with the queue, and due deliveries are made.",
    )
    annotation_sweep_seconds: float = Field(
        default=60.0,
        gt=0,
        description="How often Label Studio's annotations are read in search of those that no webhook announced.",
    )
    retry_failed_seconds: float = Field(
        default=30.0,
        ge=0,
        description="A failed job is run again when Label Studio asks again, but not sooner than this.",
    )
    max_runs: int = Field(default=3, ge=1, description="A job whose worker died so many times is failed.")
    delivery_attempts: int = Field(
        default=12,
        ge=1,
        description="A delivery that Label Studio refuses after so many tries is a dead letter: it waits for a person "
        "(`/jobs/<id>/retry`). While Label Studio is away deliveries wait without limit; when it is back all go, "
        "dead letters too.",
    )

    fetch_patience_hours: float = Field(
        default=24.0,
        gt=0,
        description="Hours that a job waits for a Label Studio that does not serve its video, before it fails.",
    )
    adopt_refined: bool = Field(
        default=False,
        description="Write refined tracks into the annotation that was corrected, as soon as they are there. Masks "
        "that somebody painted stay, and nothing is written over a draft; the job's page undoes it.",
    )
    job_days: float = Field(
        default=0.0,
        ge=0,
        description="Days after which failed, rejected and cancelled jobs are deleted, and all jobs of tasks that "
        "Label Studio has no more and nobody annotated; 0: they stay. Never deleted: predictions of tasks that are "
        "there, corrections, model versions, and jobs that these refer to.",
    )
    most_failed_jobs: int = Field(
        default=100_000,
        ge=0,
        description="Failed, rejected and cancelled jobs that are kept; the oldest beyond that are deleted, whatever "
        "TRAJSEG_JOB_DAYS says. 0: all.",
    )
    superseded_hours: float = Field(
        default=12.0,
        gt=0,
        description="Hours that a prediction stays in Label Studio once a newer one has replaced it: somebody may "
        "have it open, and their annotation is refused when it is gone.",
    )

    _kept_secrets: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return cls._split(value.lower()) if isinstance(value, str) else value

    @field_validator("media_hosts", "media_dirs", "engines", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _without_line_ends(cls, value: object) -> object:
        # A secret read from a file ends in a line break, which no header may hold.
        return value.strip("\r\n") if isinstance(value, str) else value

    @field_validator("label_studio_api_key")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        token = value.get_secret_value().strip()
        if not re.fullmatch(r"[!-~]*", token) or re.search(r"[\"'`\\]", token):
            raise ValueError(
                "it has a blank, a quotation mark, a line break or a letter that no token has; copy it again"
            )
        return SecretStr(token)

    @field_validator("label_studio_url", "public_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        value = value.strip()
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError:
            raise ValueError("it is not an http(s) address such as http://127.0.0.1:8080") from None
        if parts.username is not None:
            raise ValueError("it must not hold a user name or password; the token goes into LABEL_STUDIO_API_KEY")
        if value and (parts.scheme.lower() not in ("http", "https") or not parts.hostname):
            raise ValueError(f"{shown_address(value)!r} does not begin with http:// or https://, or names no host")
        if parts.query or parts.fragment:
            raise ValueError(f"{shown_address(value)!r} must not have a query or a fragment")
        if re.search(r"[\s\\<>\"'\u200b-\u200f\ufeff]", value):
            raise ValueError(
                f"{shown_address(value)!r} has a blank, a quotation mark or another letter that no address has"
            )
        # In a page `//labelstudio/data` would be another host.
        path = posixpath.normpath(f"/{parts.path.strip('/')}") if parts.path.strip("/") else ""
        return f"{parts.scheme.lower()}://{parts.netloc.rstrip(':')}{path}" if value else ""

    @field_validator("redis_url", "database_url")
    @classmethod
    def _server_url(cls, value: str) -> str:
        return value.strip()

    @property
    def external_url(self) -> str:
        """The backend's URL for browsers, without a slash at the end."""
        return self.public_url or f"http://127.0.0.1:{self.port}"

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the store."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'trajseg.db').resolve()}"

    @property
    def media_dir(self) -> Path:
        """Folder of the files that signed links may serve."""
        return self.data_dir / "media"

    def model_version(self) -> str:
        """What /setup answers and predictions carry, read without loading the model."""
        return model_version_of(self.model)

    def redact(self, text: str) -> str:
        """A text fit to be shown or logged: without these settings' secrets, and addresses without credentials."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return shown_text(text)

    def _secrets(self) -> list[str]:
        """Every secret, the longest first; one of a few letters would blot out words."""
        secrets_ = {
            self.label_studio_api_key.get_secret_value(),
            self.basic_auth_password.get_secret_value(),
            self.secret_key.get_secret_value(),
            self.webhook_secret.get_secret_value(),
            self.api_token.get_secret_value(),
            *self._kept_secrets.values(),
        }
        for url in (self.redis_url, self.database_url):
            # Not by a parser of URLs, so that one that cannot be parsed is covered too.
            match = re.match(r"[^:/]+://[^:/@]*:(.*)@", url)
            secrets_ |= {match[1], unquote(match[1])} if match else set()
            named = re.search(r"[?&]password=([^&]+)", url)
            secrets_ |= {named[1], unquote(named[1])} if named else set()
        return sorted((secret for secret in secrets_ if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)

    def signing_key(self) -> str:
        """The secret that signs links, made on first use and then kept in `data_dir/secret_key`."""
        return self.secret_key.get_secret_value() or self._kept_secret("secret_key")

    def job_token(self) -> str:
        """The token of the job API, made on first use and then kept in `data_dir/api_token`."""
        return self.api_token.get_secret_value() or self._kept_secret("api_token")

    def _kept_secret(self, name: str) -> str:
        """A secret that lies in a file of the data folder, which only its owner may read."""
        if name not in self._kept_secrets:
            path = self.data_dir / name
            if not path.exists():
                private_folder(self.data_dir)
                # Written beside and linked, so that two processes starting together agree on one secret.
                handle, temporary = tempfile.mkstemp(dir=self.data_dir, prefix=f".{name}")
                with os.fdopen(handle, "w") as file:
                    file.write(secrets.token_urlsafe(48))
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    pass
                finally:
                    os.unlink(temporary)
            self._kept_secrets[name] = path.read_text().strip()
        return self._kept_secrets[name]


def load_settings(**given: Any) -> Settings:
    """The settings of the environment, with what the caller gives. Raises InputError for an invalid one."""
    try:
        settings = Settings(**given)
        redact_with(settings.redact)
        return settings
    except ValidationError as error:
        problems = []
        for one in error.errors(include_input=False, include_url=False, include_context=False):
            name = str(one["loc"][0]) if one["loc"] else ""
            field = Settings.model_fields.get(name)
            variable = (field.validation_alias if field else name) or f"TRAJSEG_{name.upper()}"
            problems.append(f"{variable}: {one['msg'].removeprefix('Value error, ')}")
        raise InputError(f"Invalid setting: {'; '.join(problems)}.", "docs/settings.md lists them all.") from None


def model_version_of(model: str) -> str:
    """Model version of an engine, without loading it; see trajseg.engines.registry.

    Where this machine lacks a checkpoint that its workers have, it is the name of the checkpoint's folder.

    Raises:
        CheckpointError: an engine's factory cannot be imported here, or has no spec.
        InputError: the name cannot be a model version.
    """
    try:
        return engine_spec(model).model_version
    except CheckpointError:
        if FACTORY.fullmatch(model):
            raise
        return Path(model).name


def documentation() -> str:
    """The page docs/settings.md; `python scripts/write_docs.py` writes it."""
    lines = [
        "# Settings",
        "",
        "Everything is set by environment variables. This page is generated from `backend.settings.Settings` by",
        "`python scripts/write_docs.py`. Durations are seconds and sizes bytes unless the",
        "name says otherwise.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"TRAJSEG_{name.upper()}"
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = ",".join(default) if isinstance(default, tuple) else str(default)
        description = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{variable}` | {f'`{shown}`' if shown else 'unset'} | {description} |")
    return "\n".join(lines) + "\n"
