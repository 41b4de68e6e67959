"""Every setting of the service, read from the environment; docs/settings.md is generated from this class."""

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
from backend.limits import MOST_STEPS
from backend.private import private_folder
from trajseg.engines.registry import FACTORY, engine_spec
from trajseg.errors import CheckpointError, InputError, redact_with
from trajseg.video.decoding import MAX_FRAME_PIXELS

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
HEARTBEAT_SECONDS = 5.0
"""Interval of a run's heartbeats, whatever its engine is doing meanwhile."""
SHORTEST_SECRET = 6
"""Shortest secret that is redacted, characters."""


class Settings(BaseSettings):
    """All settings, from environment variables or keywords.

    Variables have the prefix TRAJSEG_, except for four with conventional names. Durations are in seconds, sizes in
    bytes. Lists are comma-separated.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRAJSEG_", env_ignore_empty=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    label_studio_url: str = Field(
        default="http://127.0.0.1:8080",
        validation_alias="LABEL_STUDIO_URL",
        description="Label Studio's address as seen from the backend and the worker.",
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
        description="Further engines, named as TRAJSEG_MODEL is, that a project or request may choose; "
        "set the same for backend and workers.",
    )
    engine_memory_gb: float = Field(
        default=0.0,
        ge=0,
        description="GB of memory for the engines that a worker keeps loaded. If they do not fit, the least recently "
        "used one is unloaded. 0: 0.9 of the GPU's memory, or half of the machine's without a GPU.",
    )
    marks_model: str = Field(
        default="",
        description="Segments boxed or clicked objects: `mobile-sam`, or a folder with its encoder.onnx and sam.onnx. "
        "Unset: the engine does, or colour segmentation if it cannot.",
    )
    device: str = Field(default="", description="`cpu`, `cuda`, `cuda:1` ...; unset: a GPU if there is one.")
    dtype: Literal["", "float32", "bfloat16", "float16"] = Field(
        default="", description="Number format of the worker's weights; unset: the checkpoint's own."
    )
    four_bit: bool = Field(
        default=False,
        description="Load the language model's layers in 4 bits; needs bitsandbytes.",
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
        description="Address that the backend listens on. Any but a loopback address needs Basic authentication.",
    )
    port: int = Field(default=9090, ge=0, le=65535, description="Port that the backend listens on.")
    threads: int = Field(
        default=16,
        ge=2,
        le=256,
        description="Threads that answer requests; an interactive request occupies one.",
    )
    public_url: str = Field(
        default="",
        description="URL under which browsers and Label Studio reach the backend, written into links to "
        "shown frames. Unset: http://127.0.0.1 and the port.",
    )
    allowed_hosts: CommaSeparated = Field(
        default=(),
        description="Host names, besides those of TRAJSEG_PUBLIC_URL and LABEL_STUDIO_URL, under which the backend is "
        "reached, such as its service name in Docker; `*.example.com` allowed. IP addresses are always allowed.",
    )
    proxies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Reverse proxies in front of the backend: that many X-Forwarded-For entries are trusted, and "
        "wrong passwords are counted per client address.",
    )
    basic_auth_user: str = Field(
        default="", description="User name for Basic authentication; unset: no password is required."
    )
    basic_auth_password: SecretStr = Field(default=SecretStr(""), description="Password for Basic authentication.")
    api_token: SecretStr = Field(
        default=SecretStr(""),
        description="Token that lets programs cancel and retry jobs (`Authorization: Bearer`). Unset: created once and "
        "kept in the data folder; `trajseg token` prints it.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Webhooks from Label Studio must carry it in the header X-Trajseg-Secret; `trajseg project create` "
        "sets that up. Unset: not required; every notice is verified in Label Studio in any case.",
    )
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs the links to shown frames. Unset: created once and kept in the data folder. Set it "
        "if backend and worker do not share that folder.",
    )
    data_dir: Path = Field(
        default=Path(".trajseg"), description="Folder for the store's file, shown frames and downloads."
    )
    max_request_bytes: int = Field(
        default=128 * 2**20,
        ge=2**16,
        description="Largest accepted request. Label Studio sends a task's whole content, including masks.",
    )

    interactive_wait_seconds: float = Field(
        default=20.0,
        ge=0,
        le=90,
        description="How long an instruction typed on the page waits for its result before it is delivered as a "
        "prediction instead. Label Studio gives up after 100.",
    )
    media_link_hours: float = Field(
        default=24 * 30,
        gt=0,
        description="Hours that a link to a shown frame stays valid. Links in tasks are re-signed after half of it, "
        "as long as the task exists.",
    )
    deleted_task_days: float = Field(
        default=7.0,
        gt=0,
        description="Days after which the shown frames of a task deleted in Label Studio are deleted here.",
    )
    cors_origins: str = Field(
        default="*", description="Access-Control-Allow-Origin on shown frames; Label Studio's address, or `*`."
    )

    replay_data: str = Field(
        default="",
        description="Data set that fine-tuning mixes with corrections, as `--data` names it. Unset: what the "
        "checkpoint names (`shapes:turned` for trajseg-tiny).",
    )
    base_data: str = Field(
        default="",
        description="Data set on which a fine-tuned version must not get worse, as in `--data`. Unset: the one that "
        "the checkpoint names (`shapes:val` for trajseg-tiny).",
    )
    finetune_steps: int = Field(
        default=0,
        ge=0,
        le=MOST_STEPS,
        description="Default number of training steps; 0: by the size of the base.",
    )
    finetune_after: int = Field(
        default=0,
        ge=0,
        description="Train a project once this many tracks have been corrected since its last training; 0: only "
        "on request.",
    )
    relabel_after_promotion: bool = Field(
        default=True,
        description="Have a promoted version pre-label the unannotated tasks again, the most doubtful first.",
    )

    older_predictions: Literal["keep", "replace"] = Field(
        default="keep",
        description="What happens to an earlier version's predictions once a newer one has relabelled the task: "
        "`keep` them alongside, or `replace` them, which deletes them after TRAJSEG_SUPERSEDED_HOURS.",
    )

    view: Literal["mask", "box"] = Field(
        default="mask",
        description="View for projects that trajseg creates; otherwise determined by the labelling configuration.",
    )
    review_strategy: str = Field(
        default="doubt",
        description="Strategy for frames to review: `doubt`, `even`, or an entry point of `trajseg.strategies`.",
    )
    max_key_frames: int = Field(default=60, ge=2, le=300, description="Most frames of a clip shown for painting.")
    key_frame_quality: int = Field(default=90, ge=30, le=100, description="JPEG quality of shown frames.")
    key_frame_numbers: bool = Field(
        default=True, description="Draw each shown frame's number into the lower left corner of its picture."
    )

    media_hosts: CommaSeparated = Field(
        default=(),
        description="Hosts, besides Label Studio, that videos may be fetched from; `*.example.com` allowed.",
    )
    media_dirs: CommaSeparated = Field(
        default=(), description="Folders in which a task's video may be a local path; unset: no local paths."
    )
    download_max_bytes: int = Field(default=4 * 2**30, gt=0, description="Largest accepted video.")
    download_days: float = Field(
        default=30.0,
        gt=0,
        description="Days after which an unused fetched video is deleted; it is fetched again when "
        "needed. All fetched videos together take at most five times TRAJSEG_DOWNLOAD_MAX_BYTES.",
    )
    download_timeout_seconds: float = Field(default=600.0, gt=0, description="Time limit for one download.")
    max_frame_pixels: int = Field(
        default=MAX_FRAME_PIXELS,
        gt=0,
        description="Most pixels in a frame: larger videos are rejected before decoding, and so are larger masks. "
        "Read from the environment only.",
    )
    max_frames: int = Field(default=20_000, gt=0, description="Longest accepted clip, in frames.")
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="`json`: each log line is one object with time, level, logger, message and job.",
    )
    decoder_memory_bytes: int = Field(default=4 * 2**30, ge=2**26, description="Memory limit for decoding a video.")
    decoder_silence_seconds: float = Field(
        default=60.0, ge=1.0, description="A decoder that returns no frame for this long is stopped, and the job fails."
    )

    job_timeout_seconds: int = Field(default=4 * 3600, gt=0, description="A longer run is stopped and fails.")
    stale_after_seconds: float = Field(
        default=15.0,
        ge=2 * HEARTBEAT_SECONDS,
        description="A running job without a heartbeat for this long is lost: another worker resumes it. "
        f"At least {2 * HEARTBEAT_SECONDS:g}, since workers send a heartbeat every {HEARTBEAT_SECONDS:g} s.",
    )
    reconcile_seconds: float = Field(
        default=10.0,
        gt=0,
        description="How often the store is compared with the queue, and due deliveries are sent.",
    )
    annotation_sweep_seconds: float = Field(
        default=60.0,
        gt=0,
        description="How often Label Studio is searched for annotations that no webhook announced.",
    )
    retry_failed_seconds: float = Field(
        default=30.0,
        ge=0,
        description="A failed job is retried when Label Studio requests it again, but no sooner than this.",
    )
    max_runs: int = Field(default=3, ge=1, description="A job whose worker has died this many times is failed.")
    delivery_attempts: int = Field(
        default=12,
        ge=1,
        description="After this many refused attempts a delivery becomes a dead letter, to be retried by a person "
        "(`/jobs/<id>/retry`). While Label Studio is down, deliveries wait without limit; then all are sent, "
        "including dead letters.",
    )

    fetch_patience_hours: float = Field(
        default=24.0,
        gt=0,
        description="Hours that a job waits if Label Studio does not serve its video, before it fails.",
    )
    adopt_refined: bool = Field(
        default=False,
        description="Write refined tracks into the corrected annotation as soon as they are ready. Masks "
        "painted by a person are kept, and drafts are never overwritten; the job's page has an undo.",
    )
    job_days: float = Field(
        default=0.0,
        ge=0,
        description="Days after which failed, rejected and cancelled jobs are deleted, and all jobs of tasks that "
        "were deleted in Label Studio without annotations; 0: never. Always kept: predictions of existing "
        "tasks, corrections, model versions, and jobs that these refer to.",
    )
    most_failed_jobs: int = Field(
        default=100_000,
        ge=0,
        description="Most failed, rejected and cancelled jobs kept; beyond that the oldest are deleted, whatever "
        "TRAJSEG_JOB_DAYS says. 0: all.",
    )
    superseded_hours: float = Field(
        default=12.0,
        gt=0,
        description="Hours that a prediction stays in Label Studio after a newer one has replaced it: someone may "
        "have it open, and their annotation would be rejected if it were gone.",
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
        # A secret read from a file ends in a line break, which no header may contain.
        return value.strip("\r\n") if isinstance(value, str) else value

    @field_validator("label_studio_api_key")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        token = value.get_secret_value().strip()
        if not re.fullmatch(r"[!-~]*", token) or re.search(r"[\"'`\\]", token):
            raise ValueError(
                "it contains a blank, a quotation mark, a line break or another invalid character; copy it again"
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
            raise ValueError("it must not contain a user name or password; the token belongs in LABEL_STUDIO_API_KEY")
        if value and (parts.scheme.lower() not in ("http", "https") or not parts.hostname):
            raise ValueError(f"{shown_address(value)!r} does not start with http:// or https://, or has no host")
        if parts.query or parts.fragment:
            raise ValueError(f"{shown_address(value)!r} must not have a query or a fragment")
        if re.search(r"[\s\\<>\"'\u200b-\u200f\ufeff]", value):
            raise ValueError(
                f"{shown_address(value)!r} contains a blank, a quotation mark or another invalid character"
            )
        # On a page, `//labelstudio/data` would name another host.
        path = posixpath.normpath(f"/{parts.path.strip('/')}") if parts.path.strip("/") else ""
        return f"{parts.scheme.lower()}://{parts.netloc.rstrip(':')}{path}" if value else ""

    @field_validator("redis_url", "database_url")
    @classmethod
    def _server_url(cls, value: str) -> str:
        return value.strip()

    @property
    def external_url(self) -> str:
        """The backend's URL for browsers, without a trailing slash."""
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
        """The version that /setup answers and predictions carry, determined without loading the model."""
        return model_version_of(self.model)

    def redact(self, text: str) -> str:
        """A text that is safe to show or log: without these settings' secrets, addresses without credentials."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return shown_text(text)

    def _secrets(self) -> list[str]:
        """Every secret, longest first; very short ones are skipped, since they would redact ordinary words."""
        secrets_ = {
            self.label_studio_api_key.get_secret_value(),
            self.basic_auth_password.get_secret_value(),
            self.secret_key.get_secret_value(),
            self.webhook_secret.get_secret_value(),
            self.api_token.get_secret_value(),
            *self._kept_secrets.values(),
        }
        for url in (self.redis_url, self.database_url):
            # Not with a URL parser, so that an unparsable address is covered too.
            match = re.match(r"[^:/]+://[^:/@]*:(.*)@", url)
            secrets_ |= {match[1], unquote(match[1])} if match else set()
            named = re.search(r"[?&]password=([^&]+)", url)
            secrets_ |= {named[1], unquote(named[1])} if named else set()
        return sorted((secret for secret in secrets_ if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)

    def signing_key(self) -> str:
        """The secret that signs links, created on first use and stored in `data_dir/secret_key`."""
        return self.secret_key.get_secret_value() or self._kept_secret("secret_key")

    def job_token(self) -> str:
        """The token of the job API, created on first use and stored in `data_dir/api_token`."""
        return self.api_token.get_secret_value() or self._kept_secret("api_token")

    def _kept_secret(self, name: str) -> str:
        """A secret stored in a file of the data folder that only its owner may read."""
        if name not in self._kept_secrets:
            path = self.data_dir / name
            if not path.exists():
                private_folder(self.data_dir)
                # Written to a temporary file and linked, so that two processes starting together agree on one secret.
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


def variable_names() -> list[str]:
    """The names of all variables; trajseg finds this function through the entry point group `trajseg.settings`."""
    prefix = str(Settings.model_config["env_prefix"])
    return [str(field.validation_alias or f"{prefix}{name.upper()}") for name, field in Settings.model_fields.items()]


def load_settings(**given: Any) -> Settings:
    """The settings from the environment, overridden by the caller's. Raises InputError for an invalid one."""
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
    """The model version of an engine, without loading it; see trajseg.engines.registry.

    If this machine lacks a checkpoint that its workers have, it is the name of the checkpoint's folder.

    Raises:
        CheckpointError: an engine's factory cannot be imported here, or has no spec.
        InputError: the name is not a valid model version.
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
