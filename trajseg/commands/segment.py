"""`trajseg segment`: runs an engine on one video, or on a file of jobs, and writes the results."""

from __future__ import annotations

import codecs
import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from trajseg.bars import bars
from trajseg.commands.loading import EngineChoice, engine_options
from trajseg.engines.base import Engine, RunContext, check_instruction
from trajseg.engines.registry import nothing_found
from trajseg.errors import CancelledError, InputError, TrajSegError
from trajseg.files import printable, whole_file
from trajseg.pictures import contact_sheet
from trajseg.pictures.overlay import overlay_frames
from trajseg.tracks import Result
from trajseg.video import Clip, open_clip, write_video
from trajseg.words import counted

LONGEST_ID = 100
"""Longest id in a file's name, characters."""
LONGEST_ID_BYTES = 200
"""The same in UTF-8 bytes: file systems allow 255 in a name, suffixes included."""
ERROR_SUFFIX = ".error"


@click.command("segment")
@click.argument("video", required=False, type=click.Path(path_type=Path))
@click.argument("instruction", required=False)
@click.option("--jobs", type=click.Path(path_type=Path), help="Many videos: JSONL with {id, video, instruction}.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--ray", "ray", metavar="ADDRESS", help="Run --jobs on a Ray cluster; `local`: on this machine.")
@click.option("--workers", type=click.IntRange(1), help="Engines in the cluster.  [default: one per GPU, else one]")
@engine_options
def command(
    engine: EngineChoice,
    video: Path | None,
    instruction: str | None,
    jobs: Path | None,
    out: Path,
    ray: str | None,
    workers: int | None,
) -> None:
    """Segment INSTRUCTION in VIDEO.

    Writes tracks.json, overlay.mp4 and sheet.png into the folder --out.

    With --jobs, the model is loaded once, and each line of the file, a JSON object with "id", "video" and
    "instruction", produces ID.json. A failing line is reported, ID.error.json says why, the others continue, and the
    exit code is 2.

    With --ray, the machines of a Ray cluster process the lines; they must see the videos under the same paths.
    Existing results of the same engine are kept.
    """
    if (ray is not None and jobs is None) or (workers is not None and ray is None):
        raise click.UsageError("--ray requires --jobs, and --workers requires --ray.")
    if jobs is not None:
        if video is not None:
            raise click.UsageError("Give either VIDEO and INSTRUCTION or --jobs, not both.")
        if ray is not None:
            from trajseg.commands.cluster import Cluster, segment_on_cluster

            segment_on_cluster(engine, jobs, out, Cluster(ray, workers or 0))
            return
        segment_jobs(engine.load, jobs, out)
    elif video is None or instruction is None:
        raise click.UsageError("Give VIDEO and INSTRUCTION, or --jobs.")
    else:
        segment_one(engine.load, video, instruction, out)


def segment_one(load: Callable[[], Engine], video: Path, instruction: str, out: Path) -> Result:
    """Segments one video; writes tracks.json, overlay.mp4 and sheet.png into `out` and prints a table of the tracks.

    Video and instruction are checked before the model is loaded.

    Raises:
        InputError: the video or the instruction cannot be used.
    """
    instruction = check_instruction(instruction)
    seconds: dict[str, float] = {}
    with bars() as bar:
        with _timed(seconds, "open video"):
            clip = open_clip(video)
        with _timed(seconds, "load model"):
            bar.add_task("loading the model", total=None)
            engine = load()
        result = _run(engine, clip, instruction, bar)
        result.video = printable(str(video))
        seconds |= result.timings
        result.save(out / "tracks.json")
        with _timed(seconds, "overlay and sheet"):
            _write_pictures(clip, result, out, bar)
    _print_result(result, clip, out, seconds)
    return result


def segment_jobs(load: Callable[[], Engine], jobs: Path, out: Path) -> None:
    """Segments every line of a file of jobs with one engine; writes `<id>.json`, or `<id>.error.json`.

    An invalid line fails on its own.

    Raises:
        InputError: the file cannot be read or, at the end, some lines have failed.
    """
    engine: Engine | None = None
    done = failed = 0
    taken: set[str] = set()
    with bars() as bar:
        for number, line in job_lines(jobs):
            name = f"line {number}"
            try:
                data = parse_line(line)
                # Anything else that is wrong with the line is reported under its name.
                name = free_name(data, taken)
                job = BatchJob.parse(name, data)
                instruction = check_instruction(job.instruction)
                clip = open_clip(job.video)
            except Exception as error:
                failed += 1
                report_failure(bar.console, out, name, error)
                continue
            # A model that cannot be loaded ends the run: no line could be processed.
            engine = engine or load()
            try:
                result = _run(engine, clip, instruction, bar, name)
                result.video = printable(job.video)
                result.save(out / f"{name}.json")
                (out / f"{name}{ERROR_SUFFIX}.json").unlink(missing_ok=True)
            except CancelledError:
                raise
            except Exception as error:
                failed += 1
                report_failure(bar.console, out, name, error)
                continue
            done += 1
            took = sum(result.timings.values())
            found = f"{counted(len(result.tracks), 'track')}, {counted(result.frame_count, 'frame')}"
            bar.console.print(f"{escape(name)}: {found}, {took:.1f} s")
    if failed:
        raise InputError(f"{failed} of {done + failed} jobs failed in {jobs}.", "The lines above say which and why.")
    Console().print(f"{counted(done, 'job')} done, results in {escape(printable(str(out)))}")


@dataclass(frozen=True)
class BatchJob:
    """One line of a file of jobs; `file_name` comes from its id."""

    file_name: str
    video: str
    instruction: str

    @classmethod
    def parse(cls, name: str, data: dict[str, Any]) -> BatchJob:
        """The job in a line's object, with the file name from its id. Raises InputError."""
        missing = [key for key in ("video", "instruction") if key not in data]
        if missing:
            raise InputError(f"The line lacks {', '.join(missing)}.", "Add the key with a text.")
        for key in ("video", "instruction"):
            if not isinstance(data[key], str):
                raise InputError(
                    f'"{key}" must be text, got {json.dumps(data[key])[:80]}.', "Put it in quotation marks."
                )
        return cls(name, data["video"], data["instruction"])


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of a line. Raises InputError."""
    try:
        data = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"The line is not UTF-8: {error}.", "Save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"The line is not JSON: {error}.", "Write one JSON object per line.") from error
    if not isinstance(data, dict):
        raise InputError(
            "The line is not a JSON object.", 'Write {"id": "1", "video": "clip.mp4", "instruction": "..."} on it.'
        )
    return data


def free_name(data: dict[str, Any], taken: set[str]) -> str:
    """The file name for a line's id; it is added to `taken`.

    Raises InputError if there is no id, it gives no file name, or an earlier line has the same file.
    """
    if "id" not in data:
        raise InputError("The line lacks id.", "Add the key with a text.")
    name = file_name(data["id"])
    # Some file systems ignore case.
    if name.casefold() in taken:
        raise InputError(f"An earlier line already writes {name}.json.", "Give every line its own id.")
    taken.add(name.casefold())
    return name


def file_name(job_id: Any) -> str:
    """A file name, without suffix, for a job's id (text or whole number).

    Letters, digits, dots, dashes and underscores are kept; anything else becomes an underscore, so that an id such as
    "../x" cannot leave the folder.

    Raises:
        InputError: nothing usable is left.
    """
    if isinstance(job_id, bool) or not isinstance(job_id, (str, int)):
        raise InputError(
            f"An id must be text or a whole number, got {json.dumps(job_id)[:80]}.", "Put it in quotation marks."
        )
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in str(job_id))
    name = kept.lstrip(".")[:LONGEST_ID].encode()[:LONGEST_ID_BYTES].decode(errors="ignore")
    if name.endswith(ERROR_SUFFIX):
        name = name.removesuffix(ERROR_SUFFIX) + "_error"
    if not name.strip("._-"):
        raise InputError(f"The id {json.dumps(job_id)[:80]} cannot name a file.", "Use letters or digits.")
    return name


def _run(engine: Engine, clip: Clip, instruction: str, bar: Progress, name: str = "segmenting") -> Result:
    for task in bar.task_ids:
        bar.remove_task(task)
    task = bar.add_task(name, total=len(clip))

    def progress(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return engine.segment(clip, instruction, RunContext(progress=progress)).result(progress)


def _write_pictures(clip: Clip, result: Result, out: Path, bar: Progress) -> None:
    task = bar.add_task("drawing", total=len(clip))

    def drawn() -> Iterator[Any]:
        for frame in overlay_frames(clip, result.tracks, result.instruction):
            yield frame
            bar.advance(task)

    write_video(out / "overlay.mp4", drawn(), clip.fps)
    contact_sheet(clip, result.tracks, out / "sheet.png", title=result.instruction)


def report_failure(console: Console, out: Path, name: str, error: Exception) -> None:
    """Reports on stderr why a job failed, and in `<id>.error.json` if it has an id."""
    expected = isinstance(error, TrajSegError | OSError)
    message = error.message if isinstance(error, TrajSegError) else f"{type(error).__name__}: {error}"
    message, remedy = printable(message), error.remedy if isinstance(error, TrajSegError) else ""
    console.print(f"[red]{escape(name)} failed:[/red] {escape(message)} {escape(remedy)}".rstrip())
    if not expected:
        console.print(escape(printable("".join(traceback.format_exception(error)))))
    if not name.startswith("line "):
        with whole_file(out / f"{name}{ERROR_SUFFIX}.json") as unfinished:
            unfinished.write_text(
                json.dumps({"id": name, "error": message, "remedy": remedy}, ensure_ascii=False), "utf-8"
            )


def job_lines(jobs: Path) -> Iterator[tuple[int, bytes]]:
    """(1-based line number, content) of each non-blank line.

    As bytes, so that a line that is not UTF-8 fails on its own.
    """
    try:
        with jobs.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in line:
                    raise InputError(f"The jobs in {jobs} are in UTF-16.", "Save the file as UTF-8.")
                # Concatenated files have it in the middle, too.
                content = line.removeprefix(codecs.BOM_UTF8)
                if content.strip(b" \t\r\n\v\f\0"):
                    yield number, content
    except OSError as error:
        raise InputError(f"The jobs in {jobs} cannot be read: {error}.", "Check the path given to --jobs.") from error


def _print_result(result: Result, clip: Clip, out: Path, seconds: dict[str, float]) -> None:
    console = Console()
    for note in clip.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}")
    if result.answer:
        console.print(f"[dim]answer:[/dim] {escape(result.plain_answer)}")
    if result.tracks:
        table = Table()
        table.add_column("track")
        table.add_column("caption")
        table.add_column("frames", justify="right")
        table.add_column("score", justify="right")
        for track in result.tracks:
            frames = f"{len(track.present)} of {len(track)}"
            table.add_row(escape(track.label), escape(track.caption), frames, f"{track.score:.2f}")
        console.print(table)
    else:
        console.print(nothing_found(result.model_version), soft_wrap=True)
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())
    console.print(f"[dim]seconds:[/dim] {stages}")
    console.print(f"{escape(printable(str(out)))}: tracks.json, overlay.mp4, sheet.png", soft_wrap=True)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
