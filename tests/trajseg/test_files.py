"""Atomic writes: what is there after an error, a kill or a power cut, and on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from trajseg import files
from trajseg.checkpoints.manifest import NAME, WEIGHTS, AdapterManifest, checked_files, publish
from trajseg.files import copy_whole, not_writable, whole_file, whole_folder, write_json


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk, in order: "sync PATH" and "PATH -> PATH", below tmp_path; a temporary name is "*"."""
    made: list[str] = []
    fsync, replace = os.fsync, os.replace

    def named(path: str | os.PathLike[str]) -> str:
        parts = Path(path).relative_to(tmp_path).parts
        return "/".join("*" if ".part" in part else part for part in parts) or "."

    def noted_sync(number: int) -> None:
        made.append(f"sync {named(os.readlink(f'/proc/self/fd/{number}'))}")
        fsync(number)

    def noted_replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        made.append(f"{named(source)} -> {named(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return made


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_folder_afterwards(
    tmp_path: Path, steps: list[str]
) -> None:
    write_json(tmp_path / "new" / "folder" / "a.json", {"a": 1})
    assert steps == ["sync .", "sync new", "sync new/folder/*", "new/folder/* -> new/folder/a.json", "sync new/folder"]
    steps.clear()
    (tmp_path / "source").write_bytes(b"12")
    copy_whole(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"12"
    assert steps == ["sync *", "* -> copy", "sync ."]


def test_a_file_that_can_be_made_again_does_not_wait_for_the_disk(tmp_path: Path, steps: list[str]) -> None:
    write_json(tmp_path / "progress.json", {"done": 1}, durable=False)
    assert steps == ["* -> progress.json"]


def test_a_folder_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, steps: list[str]) -> None:
    for content in ("first", "second"):
        with whole_folder(tmp_path / "3") as folder:
            (folder / "inner").mkdir()
            (folder / "weights").write_text(content)
            (folder / "inner" / "more").write_text(content)
            assert not (tmp_path / "3").exists() or (tmp_path / "3" / "weights").read_text() == "first"
        assert (tmp_path / "3" / "weights").read_text() == content
        named = steps.index("* -> 3")
        assert {"sync */weights", "sync *", "sync */inner", "sync */inner/more"} <= set(steps[:named])
        assert steps[named + 1 :] == ["sync ."]
        steps.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_a_published_adapter_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, steps: list[str]) -> None:
    """A power cut must not leave empty files: no retry would repair such an adapter."""
    (tmp_path / "adapter").mkdir()
    for name in WEIGHTS:
        (tmp_path / "adapter" / name).write_text(f"content of {name}")
    publish(AdapterManifest("v", "base", ""), tmp_path / "adapter", tmp_path / "models" / "1")
    named = steps.index("models/* -> models/1")
    assert {"sync models/*", *(f"sync models/*/{name}" for name in (*WEIGHTS, NAME))} <= set(steps[:named])
    assert steps[named + 1 :] == ["sync models"]
    assert checked_files(tmp_path / "models" / "1")[1][WEIGHTS[0]] == b"content of adapter_config.json"


def test_an_error_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "3") as folder:
        (folder / "weights").write_text("first")

    def interrupted() -> None:
        with whole_folder(tmp_path / "3") as folder:
            (folder / "weights").write_text("sec")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        interrupted()
    assert (tmp_path / "3" / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_what_a_kill_left_of_a_folder_is_put_right_by_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two renames of a folder that replaces another one."""
    with whole_folder(tmp_path / "3") as folder:
        (folder / "weights").write_text("first")
    (tmp_path / "3").rename(tmp_path / ".3.old")
    (tmp_path / ".3.part").mkdir()
    (tmp_path / ".3.part" / "weights").write_text("second")
    with monkeypatch.context() as patched:
        patched.setattr(files, "_sync", lambda _path: pytest.fail("the disk is full again"))
        with pytest.raises(pytest.fail.Exception), whole_folder(tmp_path / "3") as folder:
            (folder / "weights").write_text("third")
    assert (tmp_path / "3" / "weights").read_text() == "first"
    with whole_folder(tmp_path / "3") as folder:
        (folder / "weights").write_text("third")
    assert (tmp_path / "3" / "weights").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_a_full_disk_is_recognised_behind_a_librarys_own_error(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def library() -> None:
        try:
            raise full
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    def write() -> None:
        with whole_file(tmp_path / "a") as unfinished:
            unfinished.write_text("half")
            library()

    with pytest.raises(RuntimeError) as hidden:
        write()
    assert list(tmp_path.iterdir()) == []
    for error in (hidden.value, full):
        assert not_writable(error) == "No space left on device"
    assert not_writable(FileNotFoundError(errno.ENOENT, "no such file")) == ""
