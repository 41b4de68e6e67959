"""Adapters on one base: removal restores the base bit for bit, and a modified folder is not loaded."""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from trajseg import VideoSegmenter
from trajseg.checkpoints.base_identity import BaseIdentity
from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.checkpoints.manifest import AdapterManifest, publish, read_manifest
from trajseg.engines.adapters import AdaptedModel, Adapter
from trajseg.errors import CheckpointError
from trajseg.model import TrajSegModel
from trajseg.training.adapter_folder import blend_adapter, merge_adapter, save_adapter
from trajseg.training.adapters import HEADS, LoraSettings, prepare

LORA = LoraSettings(dropout=0.0)
TINY = BaseIdentity(("tiny",))


@pytest.fixture(scope="module")
def base() -> VideoSegmenter:
    return VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu")


def published(model: TrajSegModel, seed: int, folder: Path, base_config: str = "tiny") -> Path:
    """A published adapter in which every trained tensor has changed."""
    moved = copy.deepcopy(model)
    torch.manual_seed(seed)
    for parameters in prepare(moved, LORA, HEADS).values():
        for parameter in parameters:
            parameter.data += 0.02 * torch.randn_like(parameter)
    save_adapter(moved, LORA, "trajseg-tiny", folder / f"work-{seed}", HEADS)
    target = folder / "models" / f"{seed}"
    publish(
        AdapterManifest(f"trajseg-tiny/project-1@{seed}", "trajseg-tiny", base_config), folder / f"work-{seed}", target
    )
    return target


def hand_made(folder: Path, config: str = '{"lora_alpha": 1, "r": 1}', weights: bytes | None = None) -> Path:
    """A published folder of an adapter without tensors."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    (work / "adapter_config.json").write_text(config)
    (work / "adapter_model.safetensors").write_bytes(save({}) if weights is None else weights)
    (work / "config.json").write_text("{}")
    publish(AdapterManifest("m", "trajseg-tiny", "tiny"), work, folder / "models" / "1")
    return folder / "models" / "1"


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_adapters_take_turns_and_leave_nothing_behind(base: VideoSegmenter, tmp_path: Path) -> None:
    model = copy.deepcopy(base.model)
    before = tensors(model)
    first, second = (Adapter.load(published(model, seed, tmp_path)) for seed in (1, 2))
    host = AdaptedModel(model, TINY)
    host.put(first)
    with_first = tensors(model)
    assert not same(with_first, before)
    host.put(second)
    assert not same(tensors(model), with_first)
    host.put(first)
    assert same(tensors(model), with_first), "as before the second was served"
    host.put(None)
    assert same(tensors(model), before)


def test_an_adapter_in_place_is_the_merged_checkpoint(base: VideoSegmenter, tmp_path: Path) -> None:
    model = copy.deepcopy(base.model)
    folder = published(model, 3, tmp_path)
    host = AdaptedModel(model, TINY)
    host.put(Adapter.load(folder))
    merged = merge_adapter(copy.deepcopy(base.model), folder)
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_blended_adapter_lies_on_the_line_from_the_base(base: VideoSegmenter, tmp_path: Path) -> None:
    folder = published(base.model, 9, tmp_path)
    trained = merge_adapter(copy.deepcopy(base.model), folder).state_dict()
    before = tensors(base.model)
    blend_adapter(folder, before, 0.25)
    blended = merge_adapter(copy.deepcopy(base.model), folder).state_dict()
    moved = 0
    for name, tensor in blended.items():
        expected = before[name] + 0.25 * (trained[name] - before[name]) if tensor.is_floating_point() else before[name]
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=1e-4)
        moved += not torch.equal(tensor, before[name])
    assert moved > 100


def test_over_packed_weights_lora_runs_beside_the_layer(tmp_path: Path) -> None:
    class Packed(nn.Linear):
        """A substitute for a 4-bit layer: nothing can be added to its weight."""

        def __init__(self) -> None:
            super().__init__(4, 3, bias=False)
            self.kept = self.weight.detach().clone()
            self.weight = nn.Parameter(torch.zeros(6, dtype=torch.uint8), requires_grad=False)

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return given @ self.kept.T

    model = nn.ModuleDict({"q": Packed()})
    a, b, given = torch.randn(2, 4), torch.randn(3, 2), torch.randn(5, 4)
    plain = model["q"](given)
    host = AdaptedModel(model, TINY)
    host.put(Adapter(AdapterManifest("v", "tiny", "tiny"), {"q": (a, b)}, 2.0, {}))
    torch.testing.assert_close(model["q"](given), plain + 2 * given @ a.T @ b.T)
    host.put(None)
    assert torch.equal(model["q"](given), plain)


def test_over_4_bit_layers_adapters_take_turns_and_leave_nothing_behind(base: VideoSegmenter, tmp_path: Path) -> None:
    """The layers of bitsandbytes themselves, on the CPU."""
    pytest.importorskip("bitsandbytes")
    model = TrajSegModel.from_pretrained(checkpoint_folder("trajseg-tiny"), torch.bfloat16, four_bit=True)
    first, second = (Adapter.load(published(base.model, seed, tmp_path)) for seed in (1, 2))
    prompt, host = torch.randn(1, 20, 128, dtype=torch.bfloat16), AdaptedModel(model, TINY)

    @torch.inference_mode()
    def states(adapter: Adapter | None) -> torch.Tensor:
        host.put(adapter)
        hidden: torch.Tensor = model.language_model(inputs_embeds=prompt).last_hidden_state
        return torch.cat([hidden[0], model.embed_words(torch.arange(5))]).float()

    before, with_first = states(None), states(first)
    assert not torch.equal(before, with_first)
    assert not torch.equal(states(second), with_first)
    assert torch.equal(states(first), with_first)
    assert torch.equal(states(None), before)
    # 4 bits alone move the answer more than an adapter does, so the layer is compared, not the answer.
    name, (down, up) = next(iter(first.lora.items()))
    layer, given = model.get_submodule(name), torch.randn(4, down.shape[1], dtype=torch.bfloat16)
    with torch.inference_mode():
        plain = layer(given)
        host.put(first)
        expected = plain + (first.scale * (given.float() @ down.T @ up.T)).bfloat16()
        assert torch.equal(layer(given), expected)


def test_swapping_costs_nothing_to_speak_of(base: VideoSegmenter, tmp_path: Path) -> None:
    model = copy.deepcopy(base.model)
    adapters = [Adapter.load(published(model, seed, tmp_path)) for seed in (4, 5)]
    host = AdaptedModel(model, TINY)
    started = time.perf_counter()
    for turn in range(10):
        host.put(adapters[turn % 2])
    assert (time.perf_counter() - started) / 10 < 0.1


def test_what_does_not_fit_leaves_the_base_in_place(base: VideoSegmenter, tmp_path: Path) -> None:
    model = copy.deepcopy(base.model)
    before = tensors(model)
    folder = published(model, 6, tmp_path)
    with pytest.raises(CheckpointError, match="was trained on another trajseg-tiny"):
        AdaptedModel(model, BaseIdentity(("another",))).put(Adapter.load(folder))
    adapter = Adapter.load(folder)
    adapter.heads["fusion_layers.nowhere"] = torch.zeros(1)
    host = AdaptedModel(model, TINY)
    with pytest.raises(CheckpointError, match="does not fit the base"):
        host.put(adapter)
    assert same(tensors(model), before)
    assert host.current is None


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("step", ["_replace", "_take_out"])
def test_a_swap_that_is_interrupted_leaves_nothing_behind(
    base: VideoSegmenter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interruption: type[BaseException],
    step: str,
) -> None:
    """A job's timeout is raised wherever the worker is, and the worker goes on with the next job."""
    model = copy.deepcopy(base.model)
    before, host = tensors(model), AdaptedModel(model, TINY)
    first, second = (Adapter.load(published(model, seed, tmp_path)) for seed in (10, 11))
    host.put(first)
    with_first = tensors(model)

    def half(*given: object) -> None:
        if step == "_take_out":
            host._undo[-1]()
        raise interruption

    for wanted, expected in ((first, with_first), (None, before)):
        with monkeypatch.context() as patched:
            patched.setattr(host, step, half)
            with pytest.raises(interruption):
                host.put(second)
        host.put(wanted)
        assert same(tensors(model), expected)
        host.put(first)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shapes", [((2, 4), (1, 2)), ((2, 1), (3, 2)), ((2, 4), (3, 1)), ((8,), (3, 2))])
def test_lora_of_another_shape_is_refused_before_the_layer_is_used(
    packed: bool, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    model = nn.ModuleDict({"q": nn.Linear(4, 3, bias=False)})
    if packed:
        model["q"].weight = nn.Parameter(torch.zeros(6, dtype=torch.uint8), requires_grad=False)
    a, b = (torch.randn(shape) for shape in shapes)
    with pytest.raises(CheckpointError, match="the LoRA of q is"):
        AdaptedModel(model, TINY).put(Adapter(AdapterManifest("v", "tiny", "tiny"), {"q": (a, b)}, 2.0, {}))


def test_a_changed_or_missing_file_is_refused_at_load(base: VideoSegmenter, tmp_path: Path) -> None:
    folder = published(base.model, 7, tmp_path)
    assert read_manifest(folder).model_version == "trajseg-tiny/project-1@7"
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="its hash has changed"):
        Adapter.load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        Adapter.load(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
        Adapter.load(folder)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
def test_a_link_pipe_or_device_in_an_adapters_folder_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    """A pipe, or a link to /dev/zero, kept the worker reading without end."""
    folder = hand_made(tmp_path)
    held = folder / name
    if kind == "pipe":
        held.unlink()
        os.mkfifo(held)
    else:
        held.rename(tmp_path / name)
        held.symlink_to("/dev/zero" if kind == "device" else tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Adapter.load(folder)


def test_a_path_in_a_manifest_is_never_opened(tmp_path: Path) -> None:
    folder = hand_made(tmp_path)
    secret = tmp_path / "secret"
    os.mkfifo(secret)
    form = json.loads((folder / "manifest.json").read_text())
    form["files"] |= {"../../secret": "0" * 64, str(secret): "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(form))
    assert Adapter.load(folder).manifest.model_version == "m"
    form["files"] = {str(secret): "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(form))
    with pytest.raises(CheckpointError, match="its hash has changed"):
        Adapter.load(folder)


@pytest.mark.parametrize("change", [{"files": ["x"]}, {"model_version": 7}, {"base_config": None}, {"files": None}])
def test_a_manifest_of_another_form_is_refused_in_words(tmp_path: Path, change: dict[str, object]) -> None:
    folder = hand_made(tmp_path)
    form = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**form, **change}))
    with pytest.raises(CheckpointError, match="is not of type"):
        Adapter.load(folder)


@pytest.mark.parametrize("config", ["{}", "[]", "{", '{"lora_alpha": 1, "r": 0}', '{"lora_alpha": "x", "r": 2}'])
def test_an_adapters_configuration_of_another_form_is_refused_in_words(tmp_path: Path, config: str) -> None:
    with pytest.raises(CheckpointError, match="is not a LoRA adapter"):
        Adapter.load(hand_made(tmp_path, config=config))
    with pytest.raises(CheckpointError, match="is not a LoRA adapter"):
        Adapter.load(hand_made(tmp_path, weights=b"not safetensors"))


def test_a_version_that_is_published_again_replaces_the_older_files(base: VideoSegmenter, tmp_path: Path) -> None:
    folder = published(base.model, 8, tmp_path)
    before = read_manifest(folder)
    (tmp_path / "work-8" / "config.json").write_text("{}")
    publish(before, tmp_path / "work-8", folder)
    assert read_manifest(folder).files["config.json"] != before.files["config.json"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["8"], "no partial folder is left"
