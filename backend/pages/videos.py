"""Where a browser gets a job's video: from this backend when the file lies here, else from its own address."""

from __future__ import annotations

import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlunsplit

from flask import redirect, send_file, url_for
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.exceptions import Forbidden, NotFound
from werkzeug.wrappers.response import Response as BaseResponse

from backend.addresses import absolute, is_link, is_own_path, shown_address, split, video_name
from backend.fetch import FetchPolicy, cached_file, is_video
from backend.http.media import media_url
from backend.label_studio.outgoing.pictures import key_frame_path
from backend.settings import Settings
from backend.store import Job

SALT = "trajseg video"
LINK_SECONDS = 12 * 3600
"""A video may be played for so long after its page was opened."""
HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9A-Fa-f:]+\](:\d+)?")
"""What may stand in the page's policy as a host; an address comes from a task, and so from anybody."""


@dataclass(frozen=True)
class Source:
    """A video for the browser.

    Attributes:
        url: what the player opens; empty where the browser can get at nothing.
        origin: scheme and host that the page must allow; empty for this backend.
    """

    url: str
    origin: str = ""


def source(job: Job, settings: Settings, label_studio: str) -> Source:
    """The video of a job: its file by a signed link where it lies here, else the address that the task names.

    Args:
        label_studio: where a browser reaches Label Studio, for videos that it keeps.
    """
    if local_file(job.video, settings) is not None:
        return Source(url_for("pages.video", token=_serializer(settings).dumps(job.id), name=video_name(job.video)))
    address = absolute(job.video, label_studio)
    parts = split(address)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https") or not HOST.fullmatch(host):
        return Source("")
    allowed = f"{parts.scheme}://{host}"
    if is_own_path(job.video, label_studio):
        return Source(address, allowed)
    if parts.query:
        # The query may be a signature, which is not for the page's text: a signed link leads on to it.
        token = _serializer(settings).dumps(job.id)
        return Source(url_for("pages.video", token=token, name=video_name(job.video)), allowed)
    return Source(shown_address(address), allowed)


def job_of(token: str, settings: Settings) -> str:
    """The id of the job whose video a signed link names. Raises Forbidden."""
    try:
        return str(_serializer(settings).loads(token, max_age=LINK_SECONDS))
    except BadSignature as error:
        raise Forbidden("This link has expired, or was not signed by this backend. Load the page again.") from error


def send(job: Job, settings: Settings) -> BaseResponse:
    """The file of a job's video, with ranges, or a redirect to its address.

    Raises NotFound where the file is gone or is not a video.
    """
    path = local_file(job.video, settings)
    if path is None and is_link(job.video):
        parts = split(job.video)
        answer = redirect(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cache-Control"] = "no-store"
        return answer
    # A task may name any file of an allowed folder: by its content it is a video, or it is not served.
    if path is None or not is_video(path):
        raise NotFound("The video is not on this machine.")
    kind = mimetypes.guess_type(path.name)[0] or ""
    answer = send_file(path, mimetype=kind if kind.startswith("video/") else "video/mp4", conditional=True)
    answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return answer


def local_file(video: str, settings: Settings) -> Path | None:
    """The file of a video on this machine: in an allowed folder, or as a worker has fetched it; None where none is."""
    return cached_file(video, settings.data_dir.resolve() / "downloads", FetchPolicy.from_settings(settings))


def stills(job_id: str, frame_count: int, settings: Settings) -> dict[int, str]:
    """Links to a job's key frames by 0-based index: what there is to see where no video can be played."""
    found = {}
    for path in sorted((settings.media_dir / job_id).glob("*.jpg")):
        if path.stem.isdecimal() and int(path.stem) < frame_count:
            index = int(path.stem)
            found[index] = media_url(settings, key_frame_path(job_id, index)).removeprefix(settings.external_url)
    return found


def _serializer(settings: Settings) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(settings.signing_key(), salt=SALT)
