"""The manifest of an adapter: its sources, recipe, quality, and file hashes. Loads no torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trajseg.errors import CheckpointError
from trajseg.files import content_hash, whole_folder, write_json

NAME = "manifest.json"
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors", "config.json")
"""The files of a PEFT folder; the manifest contains the hash of each."""


@dataclass(frozen=True)
class AdapterManifest:
    """A version of a project's model.

    Args:
        model_version: engine, base and adapter: "trajseg-tiny/project-12@3".
        base: model version of the adapted checkpoint.
        base_config: hash of its config.json: an adapter fits only the base it was trained on (see BaseIdentity).
        data: "hash" of the corrections, and "clips", a list of {name, identity, side}.
        recipe: as stored by the training.
        seed: of the training.
        code_version: of trajseg.
        decision: of the gate; empty if there was none.
        files: SHA-256 of each file, by name.
        created: when, as ISO 8601.
        base_weights: hash of the adapted checkpoint's weights; empty in manifests of earlier releases.
    """

    model_version: str
    base: str
    base_config: str
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    code_version: str = ""
    decision: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    base_weights: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return asdict(self)


def publish(manifest: AdapterManifest, adapter: Path, target: Path) -> AdapterManifest:
    """Copies a PEFT folder to `target` with its manifest; the folder appears complete or not at all.

    An existing folder is replaced: if a job ran twice, the newer result wins.
    """
    with whole_folder(target) as partial:
        for name in WEIGHTS:
            shutil.copyfile(adapter / name, partial / name)
        whole = replace(manifest, files={name: content_hash(partial / name) for name in WEIGHTS})
        write_json(partial / NAME, whole.to_json())
    return whole


def record_decision(folder: Path, decision: Mapping[str, Any]) -> None:
    """Adds the gate's decision to the manifest of a published adapter."""
    write_json(folder / NAME, replace(read_manifest(folder), decision=decision).to_json())


def read_manifest(folder: Path) -> AdapterManifest:
    """The manifest of an adapter's folder, without checking the other files.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"There is no folder {folder} on this machine.",
            "Share TRAJSEG_DATA_DIR with the machine that trained this version, or copy the folder from there. Or "
            "promote another version, or roll back.",
        )
    try:
        form = json.loads(plain_bytes(folder / NAME))
        known = AdapterManifest.__dataclass_fields__
        manifest = AdapterManifest(**{name: value for name, value in form.items() if name in known})
        for name, kind in (
            ("model_version", str),
            ("base", str),
            ("base_config", str),
            ("base_weights", str),
            ("files", dict),
        ):
            if not isinstance(getattr(manifest, name), kind):
                raise TypeError(f"its `{name}` is not of type {kind.__name__}")
        return manifest
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / NAME} cannot be read ({type(error).__name__}: {error}).",
            "The folder is not a project's model version, or was copied incompletely. Copy it again, promote another "
            "version, or roll back.",
        ) from error


def checked_files(folder: Path) -> tuple[AdapterManifest, dict[str, bytes]]:
    """The manifest of an adapter's folder and the content of its WEIGHTS, each compared with its hash.

    Use this content, since a file may change after it was read. No path comes from the manifest.

    Raises:
        CheckpointError: a file is missing, has changed, or is a link, device or pipe.
    """
    manifest, contents = read_manifest(folder), {}
    for name in WEIGHTS:
        try:
            contents[name] = plain_bytes(folder / name)
            found = hashlib.sha256(contents[name]).hexdigest()
        except OSError as error:
            raise CheckpointError(f"{folder / name} cannot be read ({error}).", "Copy the whole folder again.") from (
                error
            )
        if manifest.files.get(name) != found:
            raise CheckpointError(
                f"{folder / name} is not the trained file: its hash has changed.",
                "Copy the folder again, promote another version, or roll back.",
            )
    return manifest, contents


def other_version(folder: Path, published: str, wanted: str) -> CheckpointError:
    """The error for a folder whose adapter is not the one that belongs there."""
    return CheckpointError(
        f"{folder} holds the adapter {published[:200]}, not {wanted}.",
        "Copy the folder again, promote another version, or roll back.",
    )


def plain_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises OSError for a link, and for a device or pipe, which may never end."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path.name} is no regular file")
        return file.read()
