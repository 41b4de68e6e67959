"""The command line: files, output and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import trajseg
from trajseg.cli import main
from trajseg.commands.segment import file_name
from trajseg.tracks import Result as Found
from trajseg.video import open_clip


@pytest.fixture
def run(scripted_engine: Any) -> Any:
    """Run `trajseg ...` with the scripted engine; `run.loads` counts how often it was loaded."""

    loads: list[tuple[str, str | None]] = []

    def load(model: str, device: str | None) -> Any:
        loads.append((model, device))
        return scripted_engine

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], obj=load)

    call.loads = loads  # type: ignore[attr-defined]
    return call


def jobs_file(folder: Path, *jobs: object) -> Path:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(job if isinstance(job, str) else json.dumps(job) for job in jobs))
    return path


def test_segment_writes_tracks_overlay_and_sheet_and_prints_a_table(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    outcome = run("segment", tiny_clip.path, "the red and the blue square", "--out", tmp_path / "new" / "out")
    assert outcome.exit_code == 0, outcome.output
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        "overlay.mp4",
        "sheet.png",
        "tracks.json",
    ]
    found = Found.load(tmp_path / "new" / "out" / "tracks.json")
    assert [track.label for track in found.tracks] == ["track-1", "track-2"]
    assert found.video == str(tiny_clip.path)
    overlay = open_clip(tmp_path / "new" / "out" / "overlay.mp4")
    assert (len(overlay), overlay.browser_playable) == (12, True)
    for word in ("track-1", "12 of 12", "8 of 12", "0.90", "seconds", "overlay and sheet"):
        assert word in outcome.stdout


def test_no_object_is_said_in_words_and_written_as_no_tracks(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    outcome = run("segment", tiny_clip.path, "the yellow star", "--out", tmp_path)
    assert outcome.exit_code == 0
    assert "No such object" in outcome.stdout
    assert json.loads((tmp_path / "tracks.json").read_text())["tracks"] == []
    assert (tmp_path / "overlay.mp4").exists()


@pytest.mark.parametrize("instruction", ["", "   ", "a" * 1001, "x" * 10_000])
def test_bad_instruction_exits_with_2_before_the_model_is_loaded(
    run: Any, tiny_clip: Any, tmp_path: Path, instruction: str
) -> None:
    outcome = run("segment", tiny_clip.path, instruction, "--out", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "instruction" in outcome.stderr
    assert "Traceback" not in outcome.output
    assert run.loads == []
    assert not (tmp_path / "out").exists()


def test_missing_video_exits_with_2_and_names_the_file(run: Any, tmp_path: Path) -> None:
    outcome = run("segment", tmp_path / "no.mp4", "the red square", "--out", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "no.mp4" in outcome.stderr
    assert run.loads == []


def test_a_folder_that_cannot_be_made_exits_with_1(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = run("segment", tiny_clip.path, "the red square", "--out", tmp_path / "file" / "out")
    assert outcome.exit_code == 1
    assert "file" in outcome.stderr
    assert "Traceback" not in outcome.output


def test_unknown_model_exits_with_1(tiny_clip: Any, tmp_path: Path) -> None:
    from trajseg.errors import CheckpointError

    def load(model: str, device: str | None) -> Any:
        raise CheckpointError(f"There is no checkpoint {model}.", "Name a folder.")

    arguments = ["segment", str(tiny_clip.path), "the red square", "--out", str(tmp_path), "--model", "nope"]
    outcome = CliRunner().invoke(main, arguments, obj=load)
    assert outcome.exit_code == 1
    assert "nope" in outcome.stderr
    assert "Name a folder." in outcome.stderr


def test_model_and_device_reach_the_loader(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    run("segment", tiny_clip.path, "red", "--out", tmp_path, "--model", "folder", "--device", "cpu")
    assert run.loads == [("folder", "cpu")]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"video": 5}, '"video" must be text'),
        ({"video": None}, '"video" must be text'),
        ({"instruction": ["red"]}, '"instruction" must be text'),
        ({"instruction": ""}, "instruction"),
        ({"instruction": "x" * 2000}, "2000 characters"),
        ({"video": "nosuch.mp4"}, "There is no file"),
        ({"video": "a\0b"}, "There is no file"),
        ({"video": "a" * 300}, "There is no file"),
        ({"video": "\ud83d.mp4"}, "There is no file"),
        ({"video": "."}, "."),
        ({"video": ""}, "."),
    ],
)
def test_an_error_in_a_line_is_written_to_its_own_file(
    run: Any, tiny_clip: Any, tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    good = {"video": str(tiny_clip.path), "instruction": "the red square"}
    missing = [{"id": "lacks", "video": str(tiny_clip.path)}]
    jobs = jobs_file(tmp_path, {"id": "bad", **good, **wrong}, *missing, {"id": "good", **good})
    outcome = run("segment", "--jobs", jobs, "--out", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.stderr
    assert "The line lacks instruction" in json.loads((tmp_path / "out" / "lacks.error.json").read_text())["error"]
    assert words in json.loads((tmp_path / "out" / "bad.error.json").read_text())["error"]
    assert (tmp_path / "out" / "good.json").exists()


@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n", "\n \n", "\n\ufeff", "\n\0\n"])
def test_lines_may_be_parted_as_editors_part_them(run: Any, tiny_clip: Any, tmp_path: Path, between: str) -> None:
    good = {"video": str(tiny_clip.path), "instruction": "the\u2028red\x85square"}
    lines = [json.dumps({"id": name, **good}, ensure_ascii=False) for name in ("a", "b", "c")]
    (tmp_path / "jobs.jsonl").write_bytes(("\ufeff" + between.join(lines) + between.rstrip("\ufeff")).encode())
    outcome = run("segment", "--jobs", tmp_path / "jobs.jsonl", "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "b.json", "c.json"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_file_in_utf_16_is_called_that(run: Any, tmp_path: Path, encoding: str) -> None:
    text = '\ufeff{"id": "a", "video": "a.mp4", "instruction": "x"}\n' * 2
    (tmp_path / "jobs.jsonl").write_bytes(text.encode(encoding) if "-be" in encoding else text[1:].encode(encoding))
    outcome = run("segment", "--jobs", tmp_path / "jobs.jsonl", "--out", tmp_path / "out")
    assert (outcome.exit_code, "UTF-16" in outcome.stderr, "UTF-8" in outcome.stderr) == (2, True, True)


@pytest.mark.parametrize("arguments", [["clip.mp4"], [], ["a.mp4", "red", "--jobs", "j.jsonl"]])
def test_neither_video_nor_jobs_or_both_is_a_usage_error(run: Any, tmp_path: Path, arguments: list[str]) -> None:
    outcome = run("segment", *arguments, "--out", tmp_path)
    assert outcome.exit_code == 2
    assert "--jobs" in outcome.stderr


def test_jobs_load_the_model_once_and_write_a_file_each(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    video = str(tiny_clip.path)
    jobs = jobs_file(
        tmp_path,
        {"id": "one", "video": video, "instruction": "the red square"},
        "",
        {"id": 2, "video": video, "instruction": "the blue square"},
    )
    outcome = run("segment", "--jobs", jobs, "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    assert len(run.loads) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["2.json", "one.json"]
    assert Found.load(tmp_path / "out" / "2.json").tracks[0].caption == "something blue"


def test_jobs_continue_after_bad_lines_and_exit_with_2(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    video = str(tiny_clip.path)
    jobs = jobs_file(
        tmp_path,
        "{not json",
        "[1, 2]",
        {"id": "lacks-instruction", "video": video},
        {"id": "gone", "video": "/nowhere/x.mp4", "instruction": "red"},
        {"id": "empty", "video": video, "instruction": " "},
        {"id": "../../escape", "video": video, "instruction": "red"},
        {"id": "Same", "video": video, "instruction": "red"},
        {"id": "same", "video": video, "instruction": "blue"},
        {"id": "...", "video": video, "instruction": "red"},
        {"id": {"a": 1}, "video": video, "instruction": "red"},
        {"id": "number", "video": 7, "instruction": "red"},
        {"id": "last", "video": video, "instruction": "red"},
    )
    outcome = run("segment", "--jobs", jobs, "--out", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "9 of 12 jobs failed" in outcome.stderr
    assert "line 1 failed" in outcome.stderr
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json"))
    assert written == [
        "out/Same.json",
        "out/_.._escape.json",
        "out/empty.error.json",
        "out/gone.error.json",
        "out/lacks-instruction.error.json",
        "out/last.json",
        "out/number.error.json",
    ]
    assert "/nowhere/x.mp4" in json.loads((tmp_path / "out" / "gone.error.json").read_text())["error"]
    assert Found.load(tmp_path / "out" / "Same.json").instruction == "red"


def test_a_job_that_succeeds_later_takes_its_error_away(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    job = {"id": "a", "video": "/nowhere/x.mp4", "instruction": "red"}
    run("segment", "--jobs", jobs_file(tmp_path, job), "--out", tmp_path / "out")
    job["video"] = str(tiny_clip.path)
    run("segment", "--jobs", jobs_file(tmp_path, job), "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.json"]


def test_an_engine_that_breaks_fails_its_job_and_not_the_others(
    tiny_clip: Any, tmp_path: Path, scripted_engine: Any
) -> None:
    class BreaksOnGreen:
        spec = scripted_engine.spec

        def segment(self, clip: Any, instruction: str, context: Any = None) -> Any:
            if "green" in instruction:
                raise RuntimeError("out of memory")
            return scripted_engine.segment(clip, instruction)

    video = str(tiny_clip.path)
    jobs = jobs_file(
        tmp_path,
        {"id": "a", "video": video, "instruction": "green"},
        {"id": "b", "video": video, "instruction": "red"},
    )
    arguments = ["segment", "--jobs", str(jobs), "--out", str(tmp_path / "out")]
    outcome = CliRunner().invoke(main, arguments, obj=lambda model, device: BreaksOnGreen())
    assert outcome.exit_code == 2
    assert "out of memory" in json.loads((tmp_path / "out" / "a.error.json").read_text())["error"]
    assert (tmp_path / "out" / "b.json").exists()


@pytest.mark.parametrize(
    "job",
    [
        {"video": "/nowhere/" + "x" * 300 + ".mp4"},
        {"video": "/nowhere/" + "x/" * 3000},
        {"video": "half \ud83d.mp4"},
        {"video": "nul \x00.mp4"},
        {"instruction": "half of an emoji \ud83d"},
        {"id": "字" * 100, "instruction": " "},
        {"id": "half \udeb2", "video": "/nowhere/x.mp4"},
        '{"id": ' + "1" * 5000 + "}",
        "[" * 100_000,
    ],
    ids=("long name", "long path", "surrogate", "nul", "instruction", "CJK id", "surrogate id", "huge id", "nested"),
)
def test_no_line_of_jobs_ends_the_others(run: Any, tiny_clip: Any, tmp_path: Path, job: Any) -> None:
    good = {"id": "good", "video": str(tiny_clip.path), "instruction": "red"}
    if isinstance(job, dict):
        job = good | {"id": "bad"} | job
    outcome = run("segment", "--jobs", jobs_file(tmp_path, job, good), "--out", tmp_path / "out")
    assert outcome.exit_code == 2, outcome.output
    assert "1 of 2 jobs failed" in outcome.stderr
    assert "Traceback" not in outcome.output
    outcome.stderr.encode()
    assert Found.load(tmp_path / "out" / "good.json").video == str(tiny_clip.path)
    for path in (tmp_path / "out").glob("*.error.json"):
        assert json.loads(path.read_text("utf-8"))["error"]


def test_lines_in_other_encodings(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    good = json.dumps({"id": "good", "video": str(tiny_clip.path), "instruction": "red"}).encode()
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_bytes(
        b"\xef\xbb\xbf" + good.replace(b"good", b"first") + b"\r\n" + good.replace(b"red", b"\xe9") + b"\n" + good
    )
    outcome = run("segment", "--jobs", jobs, "--out", tmp_path / "out")
    assert "line 2 failed" in outcome.stderr
    assert "1 of 3 jobs failed" in outcome.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first.json", "good.json"]


def test_the_longest_id_names_a_result_and_its_error(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    jobs = jobs_file(
        tmp_path,
        {"id": "字" * 100, "video": str(tiny_clip.path), "instruction": "red"},
        {"id": "語" * 100, "video": str(tiny_clip.path), "instruction": ""},
    )
    run("segment", "--jobs", jobs, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "字" * 66 + ".json",
        "語" * 66 + ".error.json",
    ]


def test_a_result_that_cannot_be_written_fails_its_line_only(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    (tmp_path / "out" / "taken.json").mkdir(parents=True)
    good = {"id": "good", "video": str(tiny_clip.path), "instruction": "red"}
    outcome = run("segment", "--jobs", jobs_file(tmp_path, good | {"id": "taken"}, good), "--out", tmp_path / "out")
    assert "taken failed" in outcome.stderr
    assert "1 of 2 jobs failed" in outcome.stderr
    assert (tmp_path / "out" / "good.json").is_file()


def test_a_file_name_that_is_not_utf_8(tiny_clip: Any, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.scripted import ScriptedEngine\n"
        "from trajseg.cli import main\n"
        "main(obj=lambda model, device: ScriptedEngine())\n"
    )
    video = os.path.join(os.fsencode(tmp_path), b"caf\xe9 clip.mp4")
    shutil.copy(tiny_clip.path, video)
    out = os.path.join(os.fsencode(tmp_path), b"out \xff")
    command: list[str | bytes] = [sys.executable, "-c", code, "segment", video, "red", "--out", out]
    outcome = subprocess.run(command, capture_output=True, check=False)
    assert outcome.returncode == 0, outcome.stderr.decode(errors="replace")
    with open(os.path.join(out, b"tracks.json"), encoding="utf-8") as file:
        assert json.load(file)["video"].endswith("caf\\xe9 clip.mp4")
    missing = os.path.join(os.fsencode(tmp_path), b"\xe9 gone.mp4")
    outcome = subprocess.run([*command[:4], missing, *command[5:]], capture_output=True, check=False)
    assert outcome.returncode == 2
    assert b"\\xe9 gone.mp4" in outcome.stderr
    assert b"Traceback" not in outcome.stderr


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_unreadable_jobs_file_exits_with_2(run: Any, tmp_path: Path, content: bytes | None) -> None:
    jobs = tmp_path / "jobs.jsonl"
    if content is not None:
        jobs.write_bytes(content)
    outcome = run("segment", "--jobs", jobs, "--out", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "jobs.jsonl" in outcome.stderr


@pytest.mark.parametrize(
    ("job_id", "name"),
    [
        ("clip.v2", "clip.v2"),
        ("a/b\\c d", "a_b_c_d"),
        ("..hidden", "hidden"),
        ("x.error", "x_error"),
        ("ключ-1", "ключ-1"),
        ("l" * 300, "l" * 100),
        (7, "7"),
        ("nul\x00", "nul_"),
        ("字" * 100, "字" * 66),
        ("a" + "字" * 100, "a" + "字" * 66),
        ("half \ud83d", "half__"),
    ],
)
def test_ids_become_file_names_that_stay_in_the_folder(job_id: object, name: str) -> None:
    assert file_name(job_id) == name


def test_version_and_help_load_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from trajseg.cli import main\n"
        "for arguments in (['--help'], ['--version'], ['segment', '--help']):\n"
        "    main(arguments, standalone_mode=False, prog_name='trajseg')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    for word in ("segment", "train", "evaluate", "trajseg, version"):
        assert word in outcome.stdout


@pytest.fixture
def namesakes(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs code in a folder, also first on PYTHONPATH, that has packages named as those beside trajseg."""
    for package in ("backend", "worker"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("print('a namesake was imported')")
    (tmp_path / "label_config").mkdir()
    path = os.pathsep.join([str(tmp_path), str(Path(trajseg.__file__).parents[1])])

    def run(code: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": path, "TRAJSEG_DATA_DIR": str(tmp_path / "data")}
        command = [sys.executable, "-c", f"import sys\nfrom trajseg.cli import main\n{code}"]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_a_folder_with_packages_of_our_names_changes_no_command(namesakes: Any) -> None:
    done = namesakes(
        "for arguments in (['--help'], ['serve', '--help'], ['worker', '--help']):\n"
        "    main(arguments, standalone_mode=False, prog_name='trajseg')\n"
        "from worker.child import spawn\n"
        "assert spawn([sys.executable, '-c', '']).wait(60) == 0\n"
        "main(['doctor'])\n"
    )
    assert done.returncode == 1, done.stderr
    assert "namesake" not in done.stdout
    assert "left out" not in done.stderr
    for words in ("Usage: trajseg serve", "Usage: trajseg worker", "ok    Packages: Python", "FAIL  Label Studio"):
        assert words in done.stdout


def test_a_program_that_imported_a_package_of_our_name_gets_the_other_commands(namesakes: Any, tmp_path: Path) -> None:
    done = namesakes("import backend\nmain(['--help'])")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'backend'} was imported before trajseg's package" in done.stderr
    assert "segment" in done.stdout
    assert "serve" not in done.stdout
