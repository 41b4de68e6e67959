"""Which base an adapter fits: the one that it was trained on, by configuration and weights. Loads no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajseg.checkpoints.folders import OWN_DATA, checkpoint_config
from trajseg.checkpoints.manifest import AdapterManifest
from trajseg.errors import CheckpointError
from trajseg.files import content_hash

SAMPLE = 4096
"""Bytes of a tensor, at its start and at its end, that count for the hash."""
MAX_HEADER = 100 * 1024**2
"""Bytes; the limit of the safetensors library."""


@dataclass(frozen=True)
class BaseIdentity:
    """What tells one base from another.

    Args:
        configs: hashes of its config.json by which an adapter may name it; a new one names the first.
        weights: see `weights_hash`.
    """

    configs: tuple[str, ...] = ()
    weights: str = ""

    @classmethod
    def of(cls, folder: Path) -> BaseIdentity:
        """The identity of the checkpoint in this folder; raises CheckpointError if it cannot be read."""
        return cls(config_hashes(folder), weights_hash(folder))

    def fits(self, adapter: AdapterManifest) -> bool:
        """Whether the adapter was trained on this base. One that does not name its base's weights is older."""
        return adapter.base_config in self.configs and adapter.base_weights in ("", self.weights)

    def check(self, adapter: AdapterManifest) -> None:
        """Raises CheckpointError if the adapter was trained on another base."""
        if not self.fits(adapter):
            raise CheckpointError(
                f"{adapter.model_version} was trained on another {adapter.base}.",
                "Use the checkpoint it was trained on, roll back, or train the project again.",
            )


def config_hashes(folder: Path) -> tuple[str, ...]:
    """By which hashes of its config.json an adapter may name its base; a new one names the first.

    The names of its data sets, `replay_data` and `base_set`, do not count: they may be added later.
    """
    config, as_it_is = checkpoint_config(folder), content_hash(folder / "config.json")
    rest = {key: value for key, value in config.items() if key not in OWN_DATA}
    # In transformers' form, so that it is the hash of a file to which the names were added.
    without = hashlib.sha256(f"{json.dumps(rest, indent=2, sort_keys=True)}\n".encode()).hexdigest()
    return (as_it_is, without) if len(rest) == len(config) else (without, as_it_is)


def weights_hash(folder: Path) -> str:
    """SHA-256 of each tensor's name, type and shape and its first and last SAMPLE bytes, however they are sharded.

    Reading all of a large checkpoint takes minutes; training changes a tensor's numbers everywhere.

    Raises:
        CheckpointError: a file is not in the safetensors format.
    """
    tensors = sorted(tensor for path in folder.glob("model*.safetensors") for tensor in _tensors(path))
    return hashlib.sha256(json.dumps(tensors).encode()).hexdigest()


def _tensors(path: Path) -> Iterator[tuple[str, str, list[int], str]]:
    """Name, type, shape and a hash of the sampled bytes of every tensor in a safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"its header would have {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, tensor in header.items():
                begin, end = tensor["data_offsets"]
                sampled = hashlib.sha256()
                for start in sorted({begin, max(begin, end - SAMPLE)}):
                    file.seek(8 + length + start)
                    sampled.update(file.read(min(SAMPLE, end - start)))
                yield name, tensor["dtype"], tensor["shape"], sampled.hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({type(error).__name__}: {error}).", "Copy the checkpoint again."
        ) from error
