"""Writes the layouts of published checkpoints (name and shape of every tensor) into tests/trajseg/checkpoints/layouts.

Nothing here imports trajseg: the tables come from other people's code, and tests hold our model against them.

- sam2_hiera_*, sam2.1_hiera_*: Meta's own YAML files, instantiated with Meta's package. Meta loads its .pt files
  strictly into exactly these modules (sam2.build_sam), so the files have exactly these tensors.
- llava-1.5-7b-hf: transformers' LLaVA with the sizes of that checkpoint's config.json, its names turned back by
  transformers' own table of renamings; `vision_model` is put where CLIP had it when the checkpoint was published.
- llava-lightning-7b-v1-1: LLaMA-7B from transformers under its own names, with a vocabulary of 32,003 and the single
  projector; as the index file of a public checkpoint made from it lists them.
- clip-vit-large-patch14: transformers' CLIPModel.
- trajseg-7b-merged: the above, and TrajSeg's own parts from the description of its authors' code, written out below.

Run: .venv/bin/python scripts/write_layouts.py
"""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.core_model_loading import revert_weight_conversion

FOLDER = Path(__file__).parents[1] / "tests/trajseg/checkpoints/layouts"
Layout = dict[str, tuple[int, ...]]

VISION_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def _layout(module: nn.Module) -> Layout:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def sam2(version: str, size: str) -> Layout:
    """Meta's SAM 2 ("2" or "2.1"; "t", "s", "b+", "l")."""
    yaml = files("sam2") / f"configs/sam{version}/sam{version}_hiera_{size}.yaml"
    with init_empty_weights(include_buffers=False):
        return _layout(instantiate(OmegaConf.create(yaml.read_text()).model))


def llava_hugging_face() -> Layout:
    """llava-hf/llava-1.5-7b-hf."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION_LARGE, image_size=336), text_config=LlamaConfig(vocab_size=32064)
    )
    with init_empty_weights(include_buffers=False):
        model = LlavaForConditionalGeneration(config)
    published = revert_weight_conversion(model, model.state_dict())
    return {
        re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name): tuple(tensor.shape)
        for name, tensor in published.items()
    }


def llava_authors(vocabulary: int = 32003) -> Layout:
    """liuhaotian/LLaVA-Lightning-7B-v1-1, without the constants that older releases of transformers saved."""
    with init_empty_weights(include_buffers=False):
        layout = _layout(LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary)))
    return layout | {"model.mm_projector.weight": (4096, 1024), "model.mm_projector.bias": (4096,)}


def clip() -> Layout:
    """openai/clip-vit-large-patch14."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = VISION_LARGE | {"image_size": 224}
    with init_empty_weights(include_buffers=False):
        return _layout(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)))


def trajseg_merged() -> Layout:
    """The authors' merged checkpoint: everything but the vision tower."""
    ours: Layout = {
        "text_hidden_fcs.0.0.weight": (4096, 4096),
        "text_hidden_fcs.0.0.bias": (4096,),
        "text_hidden_fcs.0.2.weight": (256, 4096),
        "text_hidden_fcs.0.2.bias": (256,),
        "spi_module.roi_align.flatten_linear.weight": (1024, 200704),
        "spi_module.roi_align.flatten_linear.bias": (1024,),
        "spi_module.roi_align.updims.weight": (4096, 1024),
        "spi_module.roi_align.updims.bias": (4096,),
        "spi_module.roi_align.pos_embedd.0.weight": (256, 4),
        "spi_module.roi_align.pos_embedd.0.bias": (256,),
        "spi_module.roi_align.pos_embedd.2.weight": (256,),
        "spi_module.roi_align.pos_embedd.2.bias": (256,),
        "spi_module.roi_align.pos_embedd.3.weight": (1024, 256),
        "spi_module.roi_align.pos_embedd.3.bias": (1024,),
        "spi_module.roi_align.pos_embedd.5.weight": (1024,),
        "spi_module.roi_align.pos_embedd.5.bias": (1024,),
    }
    for layer in range(6):
        ours |= {
            f"fusion_layers.{layer}.0.in_proj_weight": (768, 256),
            f"fusion_layers.{layer}.0.in_proj_bias": (768,),
            f"fusion_layers.{layer}.0.out_proj.weight": (256, 256),
            f"fusion_layers.{layer}.0.out_proj.bias": (256,),
            f"fusion_layers.{layer}.1.weight": (256,),
            f"fusion_layers.{layer}.1.bias": (256,),
        }
    for level in range(4):
        ours |= {
            f"spi_module.mlvl_fuse.input_conv.{level}.weight": (1024, 1026, 1, 1),
            f"spi_module.mlvl_fuse.input_conv.{level}.bias": (1024,),
            f"spi_module.roi_align.pconvs.{level}.weight": (1024, 1024, 3, 3),
            f"spi_module.roi_align.pconvs.{level}.bias": (1024,),
        }
    for step in range(5):
        ours |= {
            f"spi_module.mlvl_fuse.fuse_convs.{step}.conv.weight": (1024, 1024, 3, 3),
            f"spi_module.mlvl_fuse.fuse_convs.{step}.gn.weight": (1024,),
            f"spi_module.mlvl_fuse.fuse_convs.{step}.gn.bias": (1024,),
        }
    ours |= {f"visual_model.{name}": shape for name, shape in sam2("2", "l").items()}
    return llava_authors(32008) | {f"model.{name}": shape for name, shape in ours.items()}


LAYOUTS = {
    "sam2_hiera_large": lambda: sam2("2", "l"),
    "sam2.1_hiera_large": lambda: sam2("2.1", "l"),
    "sam2.1_hiera_base_plus": lambda: sam2("2.1", "b+"),
    "sam2.1_hiera_small": lambda: sam2("2.1", "s"),
    "sam2.1_hiera_tiny": lambda: sam2("2.1", "t"),
    "llava-1.5-7b-hf": llava_hugging_face,
    "llava-lightning-7b-v1-1": llava_authors,
    "clip-vit-large-patch14": clip,
    "trajseg-7b-merged": trajseg_merged,
}


def write(layout: Layout) -> str:
    """One line per group of tensors whose names differ in one number only: "shape name", with {first-last}."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for name, shape in layout.items():
        match = re.search(r"(?<=\.(?:layers|blocks)\.)\d+", name) or re.search(r"(?<=\.)\d+", name)
        template = name if match is None else f"{name[: match.start()]}{{}}{name[match.end() :]}"
        groups[template, shape].append(-1 if match is None else int(match[0]))
    lines = []
    for (template, shape), numbers in groups.items():
        size = "x".join(map(str, shape)) or "scalar"
        if numbers == [-1]:
            lines.append(f"{size} {template}")
            continue
        lines += [f"{size} {template.replace('{}', f'{{{run[0]}-{run[-1]}}}')}" for run in _runs(sorted(numbers))]
    return "\n".join(lines) + "\n"


def read(text: str) -> Layout:
    """The inverse of `write`, in another order."""
    layout: Layout = {}
    for line in text.splitlines():
        size, name = line.split()
        shape = () if size == "scalar" else tuple(map(int, size.split("x")))
        if match := re.search(r"\{(\d+)-(\d+)\}", name):
            for number in range(int(match[1]), int(match[2]) + 1):
                layout[f"{name[: match.start()]}{number}{name[match.end() :]}"] = shape
        else:
            layout[name] = shape
    return layout


def _runs(numbers: list[int]) -> list[list[int]]:
    runs = [[numbers[0]]]
    for number in numbers[1:]:
        if number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, derive in LAYOUTS.items():
        layout = derive()
        assert read(write(layout)) == layout, name
        (FOLDER / f"{name}.txt").write_text(write(layout))
        print(f"{name}: {len(layout)} tensors")
