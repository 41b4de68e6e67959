"""A job's video for the browser: from this backend if the file is on this machine, else from its own address."""

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
"""How long a video can be played after its page was opened."""
HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9A-Fa-f:]+\](:\d+)?")
"""Host names allowed in the page's policy; an address comes from a task, so it is untrusted."""


@dataclass(frozen=True)
class Source:
    """A video for the browser.

    Attributes:
        url: opened by the player; empty if the browser cannot reach any copy.
        origin: scheme and host that the page must allow; empty for this backend.
    """

    url: str
    origin: str = ""


def source(job: Job, settings: Settings, label_studio: str) -> Source:
    """A signed link to the job's video if its file is on this machine, else the address that the task names.

    Args:
        label_studio: Label Studio's address for a browser, for videos stored there.
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
        # The query may be a signature, which must not appear in the page: a signed link redirects to it.
        token = _serializer(settings).dumps(job.id)
        return Source(url_for("pages.video", token=token, name=video_name(job.video)), allowed)
    return Source(shown_address(address), allowed)


def job_of(token: str, settings: Settings) -> str:
    """The id of the job whose video a signed link names. Raises Forbidden."""
    try:
        return str(_serializer(settings).loads(token, max_age=LINK_SECONDS))
    except BadSignature as error:
        raise Forbidden("This link has expired, or was not signed by this backend. Reload the page.") from error


def send(job: Job, settings: Settings) -> BaseResponse:
    """The file of a job's video, with ranges, or a redirect to its address.

    Raises NotFound if the file is missing or is not a video.
    """
    path = local_file(job.video, settings)
    if path is None and is_link(job.video):
        parts = split(job.video)
        answer = redirect(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cache-Control"] = "no-store"
        return answer
    # A task may name any file in an allowed folder: it is served only if its content is a video.
    if path is None or not is_video(path):
        raise NotFound("The video is not on this machine.")
    kind = mimetypes.guess_type(path.name)[0] or ""
    answer = send_file(path, mimetype=kind if kind.startswith("video/") else "video/mp4", conditional=True)
    answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return answer


def local_file(video: str, settings: Settings) -> Path | None:
    """The local file of a video, in an allowed folder or fetched by a worker; None if there is none."""
    return cached_file(video, settings.data_dir.resolve() / "downloads", FetchPolicy.from_settings(settings))


def stills(job_id: str, frame_count: int, settings: Settings) -> dict[int, str]:
    """Links to a job's shown frames by 0-based index, for when no video can be played."""
    found = {}
    for path in sorted((settings.media_dir / job_id).glob("*.jpg")):
        if path.stem.isdecimal() and int(path.stem) < frame_count:
            index = int(path.stem)
            found[index] = media_url(settings, key_frame_path(job_id, index)).removeprefix(settings.external_url)
    return found


def _serializer(settings: Settings) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(settings.signing_key(), salt=SALT)
