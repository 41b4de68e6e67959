"""A project's export over HTTP: a zip that is streamed while it is written, one clip at a time."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Blueprint, Response, current_app, request

from backend.exporting import ProjectExport, Videos
from backend.label_studio.incoming.payloads import MAX_ID
from backend.pages import guard
from backend.pages.videos import local_file
from backend.service.service import Service
from backend.settings import Settings
from trajseg.errors import InputError, VideoError
from trajseg.tracks.formats import TrackFormat, format_names, load_format

blueprint = Blueprint("exports", __name__)
STORED = frozenset({".jpg", ".png", ".mp4", ".webm", ".mkv", ".mov", ".avi"})
"""Formats that a zip cannot compress further."""
CHUNK_BYTES = 1 << 18
SKIPPED = "skipped.txt"
"""In the zip if something was left out: one line for each, with the reason."""


@blueprint.get(f"/projects/<int(max={MAX_ID}):project>/export")
def export(project: int) -> Response:
    """A zip of a project (Label Studio's id): `?format=`, `&pictures=1` for frames, `&annotated=1`.

    Pictures are included for videos on this machine: in an allowed folder, or fetched by a worker. Others are left
    out and listed in skipped.txt.
    """
    # Another site's page could not read the answer, but could keep the backend busy.
    guard.refuse_strangers("POST", request.headers.get("Sec-Fetch-Site"))
    service: Service = current_app.extensions["trajseg"]
    name, pictures = request.args.get("format", ""), _flag("pictures")
    if name not in format_names():
        # Only built-in names: a module's path would be imported.
        raise InputError(f"There is no export format {name[:40]!r}.", f"Use one of {', '.join(format_names())}.")
    project_id = service.store.projects.of_label_studio(project).id
    exported = ProjectExport(
        service.store, project_id, local_videos(service.settings) if pictures else None, _flag("annotated")
    )
    answer = Response(zipped(exported, load_format(name), pictures), mimetype="application/zip")
    answer.headers["Content-Disposition"] = f'attachment; filename="project-{project}-{name}.zip"'
    answer.headers["Cache-Control"] = "no-store"
    return guard.seal(answer)


def local_videos(settings: Settings) -> Videos:
    """Videos that are on this machine: the backend fetches nothing."""

    @contextmanager
    def opened(video: str) -> Iterator[Path]:
        path = local_file(video, settings)
        if path is None:
            raise VideoError(
                "the video is not on this machine.",
                "Export with `trajseg export --project` on a worker's machine, which fetches it.",
            )
        yield path

    return opened


def zipped(exported: ProjectExport, kind: type[TrackFormat], pictures: bool) -> Iterator[bytes]:
    """The export as chunks of a zip. The disk holds one clip's files at a time, memory less than a megabyte."""
    sink = _Sink()
    with tempfile.TemporaryDirectory(prefix="trajseg-export-") as folder, zipfile.ZipFile(sink, "w") as archive:
        out = Path(folder) / "export"
        writer = kind(out, pictures)
        for _ in exported.write(writer):
            yield from _moved(out, archive, sink)
        writer.finish()
        yield from _moved(out, archive, sink)
        if exported.report.skipped:
            archive.writestr(SKIPPED, exported.report.skipped_text())
        archive.close()
        yield sink.taken()


def _moved(out: Path, archive: zipfile.ZipFile, sink: _Sink) -> Iterator[bytes]:
    """Moves all files of a folder into the archive."""
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
        info.compress_type = zipfile.ZIP_STORED if path.suffix in STORED else zipfile.ZIP_DEFLATED
        with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
            while block := source.read(CHUNK_BYTES):
                target.write(block)
                if piece := sink.taken():
                    yield piece
        path.unlink()
    if piece := sink.taken():
        yield piece


class _Sink(io.RawIOBase):
    """The buffer that ZipFile writes to, emptied by `taken`. It cannot seek, so sizes follow each file."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last call."""
        piece = b"".join(self._parts)
        self._parts.clear()
        return piece


def _flag(name: str) -> bool:
    value = request.args.get(name, "")
    if value not in ("", "0", "1"):
        raise InputError(f"`{name}` is {value[:40]!r}.", "Use 0 or 1.")
    return value == "1"
