"""The command `trajseg export`: writes a project's tracks, or those of one result, in a data set format.

It lives in the backend because a project is read through the store and its videos through the backend's fetcher.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajseg.words import counted

if TYPE_CHECKING:
    from backend.exporting import ExportReport
    from trajseg.tracks import Result
    from trajseg.tracks.formats import TrackFormat


@click.command()
@click.argument("result", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--project", type=click.IntRange(1), help="Label Studio's id of a project to export.")
@click.option("--format", "name", help="See docs/export.md; --list names all.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to; new or empty.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Also write the videos' frames.")
@click.option("--annotated-only", is_flag=True, help="Only tasks that a person has annotated.")
@click.option("--video", type=click.Path(dir_okay=False, path_type=Path), help="RESULT's video, if it has moved.")
@click.option("--list", "listed", is_flag=True, help="List the formats and exit.")
@click.option("--adapter", hidden=True)
@click.option("--checkpoint", hidden=True)
@click.option("--half", is_flag=True, hidden=True)
def export(
    result: Path | None,
    project: int | None,
    name: str | None,
    out: Path | None,
    pictures: bool,
    annotated_only: bool,
    video: Path | None,
    listed: bool,
    adapter: str | None,
    checkpoint: str | None,
    half: bool,
) -> None:
    """Write mask tracks in a data set format: those of a project, or those of RESULT, a tracks.json.

    A project's tracks include people's corrections. Videos that cannot be fetched are listed and left out, and the
    exit code is then 1.
    """
    from trajseg.tracks.formats import format_names, load_format

    if adapter or checkpoint or half:
        raise click.UsageError("`trajseg export` writes data. To merge an adapter: trajseg model merge --adapter ...")
    if listed:
        for known in format_names():
            click.echo(f"{known:14} {load_format(known).summary}")
        return
    if (result is None) == (project is None):
        raise click.UsageError("Give either RESULT, a tracks.json, or --project.")
    if name is None or out is None:
        raise click.UsageError("Give --format and --out.")
    kind = load_format(name)
    if project is not None:
        if video is not None:
            raise click.UsageError("--video requires RESULT; a project's videos are those of its tasks.")
        report = _project(project, kind, out, pictures, annotated_only)
        _say(report, out)
    elif result is not None:
        _one(result, kind, out, pictures, video)
        click.echo(f"1 clip in {out}")


def _project(project: int, kind: type[TrackFormat], out: Path, pictures: bool, annotated_only: bool) -> ExportReport:
    from backend.exporting import ProjectExport, fetched_videos
    from backend.settings import load_settings
    from backend.store import Store
    from trajseg.bars import bars

    settings = load_settings()
    store = Store(settings.store_url)
    try:
        store.migrate()
        project_id = store.projects.of_label_studio(project).id
        exported = ProjectExport(store, project_id, fetched_videos(settings) if pictures else None, annotated_only)
        with bars() as bar:
            task, clip = bar.add_task("tasks", total=len(exported)), bar.add_task("frames", total=None)

            def progress(name: str, done: int, total: int) -> None:
                bar.update(clip, description=name, completed=done, total=total)

            with kind(out, pictures, progress) as writer:
                for done in exported.write(writer):
                    bar.update(task, completed=done)
        return exported.report
    finally:
        store.close()


def _one(path: Path, kind: type[TrackFormat], out: Path, pictures: bool, video: Path | None) -> None:
    from trajseg.bars import progress_bar
    from trajseg.tracks import Result
    from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack
    from trajseg.video import open_clip

    result = Result.load(path)
    with progress_bar("frames") as advance:
        labelled = LabelledClip(
            _name(result),
            result.width,
            result.height,
            result.fps,
            result.frame_count,
            tuple(LabelledTrack(track) for track in result.tracks),
            (Expression(result.instruction, tuple(track.uid for track in result.tracks)),),
            result.video,
            f"address:{result.video}",
            open_clip(video or result.video) if pictures else None,
        )
        with kind(out, pictures, lambda _, done, total: advance(done, total)) as writer:
            writer.add(labelled)


def _name(result: Result) -> str:
    stem = Path(result.video).stem or "clip"
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in stem)
    return kept.lstrip(".")[:100] or "clip"


def _say(report: ExportReport, out: Path) -> None:
    tracks = ", ".join(f"{count} {verdict}" for verdict, count in sorted(report.verdicts.items())) or "none"
    click.echo(f"{counted(report.clips, 'clip')} in {out}; tracks: {tracks}")
    for name, reason in report.skipped:
        click.echo(f"left out: {name}: {reason}", err=True)
    if report.skipped:
        raise SystemExit(1)
