"""Weight files: reads them tensor by tensor, loads them strictly into a model, and writes shards.

A whole checkpoint is never in memory beside the model: safetensors files are read tensor by tensor, PyTorch's are
memory-mapped.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trajseg.errors import CheckpointError

Shape = tuple[int, ...]

INDEX = "model.safetensors.index.json"
FOLDER_FILES = (INDEX, "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
"""Weight files of a folder in Hugging Face's format, in order of preference."""
SHARD_BYTES = 2 * 1024**3
NAMED_AT_MOST = 4
"""Number of tensors that an error names individually."""


def empty_weights() -> AbstractContextManager[None]:
    """A context in which modules are built with parameters on the meta device: without memory or random numbers.

    Everything that is not a parameter (SAM 2's rotary tables, Hiera's drop rates, CLIP's position numbers) is real,
    unlike with `torch.device("meta")`.
    """
    context: AbstractContextManager[None] = init_empty_weights(include_buffers=False)
    return context


class Weights:
    """The tensors of a checkpoint by name, read on first use.

    Args:
        path: a folder in Hugging Face's format (one file, or an index of several; safetensors are preferred), or one
            safetensors or PyTorch file (.pt, .pth, .bin: only tensors are unpickled; the keys "model", "state_dict" and
            "module" of a dictionary are opened).

    Raises:
        CheckpointError: the file or a shard is missing, or a file is damaged or has more than tensors.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: dict[str, Any] = {}
        for file in _files(self.path):
            opened = _open(file)
            self._files |= dict.fromkeys(opened.keys(), opened)
        self._names = {name: name for name in self._files}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        """The tensor as it is in the file, on the CPU."""
        name = self._names[name]
        file = self._files[name]
        tensor: Tensor = file[name] if isinstance(file, dict) else file.get_tensor(name)
        return tensor

    def under(self, prefix: str) -> Weights:
        """The tensors whose names start with `prefix`, by name without it."""
        part = copy(self)
        part._names = {
            name.removeprefix(prefix): whole for name, whole in self._names.items() if name.startswith(prefix)
        }
        return part

    def shape(self, name: str) -> Shape:
        """Shape of a tensor, without reading it."""
        name = self._names[name]
        file = self._files[name]
        return tuple(file[name].shape) if isinstance(file, dict) else tuple(file.get_slice(name).get_shape())

    def shapes(self) -> dict[str, Shape]:
        """Shape of every tensor."""
        return {name: self.shape(name) for name in self}


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """Names and shapes of the tensors in a checkpoint of the model, which may be on the meta device."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check(expected: Mapping[str, Shape], found: Mapping[str, Shape], source: object, remedy: str = "") -> None:
    """Checks that exactly the expected tensors exist, with the expected shapes.

    Raises:
        CheckpointError: lists the wrong tensors.
    """
    wrong = [
        f"{name} is {list(found[name])} and should be {list(expected[name])}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    problems = [
        f"{kind} {_listed(names)}"
        for kind, names in (
            ("missing:", [name for name in expected if name not in found]),
            ("unexpected:", [name for name in found if name not in expected]),
            ("of another shape:", wrong),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit its config.json; {'; '.join(problems)}.", remedy)


def fill(model: nn.Module, weights: Weights, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
    """Loads every tensor of a checkpoint into a model built with `empty_weights`, one at a time.

    Parameters get `dtype`, regardless of the file's. Buffers stay in float32: the frequencies of SAM 2's position
    encoding and of rotary embeddings lose too much precision otherwise.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or has another shape.
    """
    check(shapes_of(model), weights.shapes(), weights.path, "Copy the whole folder again, config.json included.")
    for name in weights:
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        tensor = weights[name]
        if leaf in module._buffers:
            module._buffers[leaf] = tensor.float().to(device)
            continue
        place = module._parameters[leaf]
        assert place is not None
        tensor = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        if type(place) is nn.Parameter:
            module._parameters[leaf] = nn.Parameter(tensor, place.requires_grad)
        else:
            # A parameter of bitsandbytes packs itself when it is moved, even to its own device.
            packed: Any = type(place)(tensor, requires_grad=False, **vars(place)).to(device)
            module._parameters[leaf] = packed
    model.to(device)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file with the mode of any new file; safetensors itself lets only its owner read it."""
    probe = path.with_name(f".{path.name}.mode")
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)


def write(folder: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES) -> int:
    """Writes tensors as safetensors with an index, in shards of at most `shard_bytes` (or of one tensor).

    Only one shard is in memory. A single shard becomes model.safetensors without an index.

    Returns:
        bytes written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shard: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    held = total = number = 0

    def flush() -> None:
        nonlocal held, number
        number += 1
        file = f"model-{number:05d}.safetensors"
        save_tensors(shard, folder / file)
        where.update(dict.fromkeys(shard, file))
        shard.clear()
        held = 0

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if shard and held + size > shard_bytes:
            flush()
        shard[name] = tensor.contiguous()
        held += size
        total += size
    flush()
    if number == 1:
        (folder / "model-00001.safetensors").rename(folder / "model.safetensors")
        (folder / INDEX).unlink(missing_ok=True)
    else:
        (folder / "model.safetensors").unlink(missing_ok=True)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return total


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for name in FOLDER_FILES:
        if not (path / name).is_file():
            continue
        if not name.endswith(".json"):
            return [path / name]
        shards = sorted(set(json.loads((path / name).read_text())["weight_map"].values()))
        if gone := [shard for shard in shards if not (path / shard).is_file()]:
            raise CheckpointError(
                f"{path} lacks {_listed(gone)}, which its {name} names.", "Copy or download the missing files."
            )
        return [path / shard for shard in shards]
    raise CheckpointError(
        f"{path} holds no weights: model.safetensors is missing, and so are {', '.join(FOLDER_FILES[2:])}.",
        "Name a checkpoint's folder, or its file of weights.",
    )


def _open(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return safe_open(file, framework="pt")
        return _torch_tensors(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than tensors; it is not loaded, since it could execute arbitrary code.",
            "Take the safetensors file, or save its state_dict alone.",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", "It may be cut off: copy it again.") from error


def _torch_tensors(file: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        # Files written by torch before 1.6 cannot be memory-mapped.
        held = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict", "module"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise CheckpointError(f"{file} is not a dictionary of tensors.", "Save the model's state_dict.")
    return held


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
