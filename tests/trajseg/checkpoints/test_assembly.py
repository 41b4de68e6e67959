"""Published checkpoints, written here with small dimensions in their own layouts, become TrajSeg checkpoints."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel as ByteLevelSplit
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tests.tiny_clip import TinyClip
from trajseg import VideoSegmenter
from trajseg.checkpoints.assembly import Assembled, assemble
from trajseg.checkpoints.manifest import AdapterManifest, publish
from trajseg.cli import main
from trajseg.data.samples import Mixture
from trajseg.errors import CheckpointError
from trajseg.files import content_hash
from trajseg.model import Sam2Config, TrajSegModel
from trajseg.model.config import SPECIAL_TOKENS, TrajectoryEncoderShape
from trajseg.model.mask_decoder import Tracker
from trajseg.model.processor import TrajSegProcessor, middle, word_tokenizer
from trajseg.model.sam2 import build_sam2
from trajseg.model.trajectory_encoder import TrajectoryEncoder
from trajseg.model.weights import Weights
from trajseg.shapes.samples import ShapesSamples
from trajseg.tracks import MaskTrack
from trajseg.training.adapter_folder import merge_adapter
from trajseg.training.recipes import JointRecipe, train_jointly
from trajseg.training.run import Schedule

State = dict[str, torch.Tensor]
"""Tensors by name."""
TRAJECTORY: dict[str, Any] = {
    "levels": (-3, -2),
    "channels": 16,
    "rounds": 1,
    "groups": 2,
    "roi": 2,
    "width": 16,
    "box_width": 8,
}
HEAD = {"0.weight": (48, 48), "0.bias": (48,), "2.weight": (64, 48), "2.bias": (64,)}
INTEGRATION = {
    "0.in_proj_weight": (192, 64),
    "0.in_proj_bias": (192,),
    "0.out_proj.weight": (64, 64),
    "0.out_proj.bias": (64,),
    "1.weight": (64,),
    "1.bias": (64,),
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def small_sam2(version: str = "2.1") -> Sam2Config:
    return Sam2Config(
        trunk_kwargs={"embed_dim": 16, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
        channel_list=(128, 64, 32, 16),
        d_model=64,
        image_size=128,
        memory_dim=32,
        memory_layers=1,
        memory_feedforward=64,
        no_obj_embed_spatial=version == "2.1",
        pointer_times=version == "2.1",
    )


def tokenizer(folder: Path, more: Sequence[str] = ()) -> None:
    """A byte-level BPE without merges: it can read any sentence."""
    specials = ["<unk>", "<s>", "</s>", *more]
    letters = ByteLevelSplit.alphabet()
    backend = Tokenizer(BPE({token: number for number, token in enumerate([*specials, *sorted(letters)])}, []))
    backend.pre_tokenizer = ByteLevelSplit(add_prefix_space=False)
    backend.decoder = ByteLevel()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)


def hugging_face(folder: Path, sharded: bool = False) -> LlavaForConditionalGeneration:
    """A LLaVA as the llava-hf checkpoints are: language_model.model.…, vision_tower.vision_model.…"""
    torch.manual_seed(1)
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT))
    model = LlavaForConditionalGeneration(config)
    folder.mkdir()
    weights = {_published(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    if sharded:
        half = len(weights) // 2
        parts = {"model-00001-of-00002.safetensors": dict(list(weights.items())[:half])}
        parts["model-00002-of-00002.safetensors"] = dict(list(weights.items())[half:])
        for file, tensors in parts.items():
            save_file(tensors, folder / file)
        where = {name: file for file, tensors in parts.items() for name in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    else:
        save_file(weights, folder / "model.safetensors")
    config.save_pretrained(folder)
    tokenizer(folder)
    return model


def _published(name: str) -> str:
    name = name.replace("model.language_model.", "language_model.model.", 1)
    name = name.replace("model.vision_tower.", "vision_tower.vision_model.", 1)
    name = name.replace("model.multi_modal_projector.", "multi_modal_projector.", 1)
    return name.replace("lm_head.", "language_model.lm_head.", 1)


def authors(
    folder: Path,
    parts: State | None = None,
    vocab_size: int = 262,
    tokens: tuple[str, ...] = ("<im_patch>", "<im_start>", "<im_end>"),
) -> State:
    """A LLaVA in its authors' layout (two .bin shards), with TrajSeg's parts if given."""
    torch.manual_seed(2)
    text = TEXT | {"vocab_size": vocab_size}
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**text))
    weights = {
        name.replace("model.language_model.", "model.", 1): tensor
        for name, tensor in LlavaForConditionalGeneration(config).state_dict().items()
        if "language_model" in name or name == "lm_head.weight"
    }
    weights |= {"model.mm_projector.weight": torch.randn(48, 32), "model.mm_projector.bias": torch.randn(48)}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(12)
    weights |= parts or {}
    folder.mkdir()
    names = list(weights)
    where: dict[str, str] = {}
    for number, chosen in enumerate((names[::2], names[1::2])):
        file = f"pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({name: weights[name] for name in chosen}, folder / file)
        where |= dict.fromkeys(chosen, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    settings = {**text, "model_type": "llava", "mm_vision_tower": "openai/clip", "mm_vision_select_layer": [-3, -2]}
    (folder / "config.json").write_text(json.dumps(settings))
    tokenizer(folder, tokens)
    return weights


def clip(folder: Path) -> CLIPModel:
    torch.manual_seed(3)
    text = CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=VISION))
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    model.config.save_pretrained(folder)
    return model


def meta_file(file: Path, version: str = "2.1") -> State:
    torch.manual_seed(4)
    sam2 = build_sam2(small_sam2(version))
    for name, parameter in sam2.named_parameters():
        if name.endswith("gamma"):
            parameter.data.normal_()
    torch.save({"model": sam2.state_dict()}, file)
    return sam2.state_dict()


def trajseg_parts(sam2: State) -> State:
    """The tensors that TrajSeg's authors add to a LLaVA, with their names."""
    torch.manual_seed(5)
    shapes = {f"text_hidden_fcs.0.{name}": shape for name, shape in HEAD.items()}
    shapes |= {f"fusion_layers.{number}.{name}": shape for number in range(6) for name, shape in INTEGRATION.items()}
    encoder = TrajectoryEncoder(TrajectoryEncoderShape(**TRAJECTORY), vision_width=32, language_width=48)
    return (
        {f"model.visual_model.{name}": tensor for name, tensor in sam2.items()}
        | {f"model.spi_module.{name}": tensor for name, tensor in encoder.state_dict().items()}
        | {f"model.{name}": torch.randn(shape) for name, shape in shapes.items()}
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, State]]:
    """A folder of published checkpoints, and their content."""
    folder = tmp_path_factory.mktemp("published")
    made = {
        "llava": hugging_face(folder / "llava", sharded=True).state_dict(),
        "authors": authors(folder / "authors"),
        "clip": clip(folder / "clip").state_dict(),
        "sam2.1": meta_file(folder / "sam2.1.pt"),
        "sam2.0": meta_file(folder / "sam2.0.pt", "2.0"),
    }
    every = ("<im_patch>", "<im_start>", "<im_end>", "[SEG]", *SPECIAL_TOKENS[2:])
    made["trajseg"] = authors(folder / "trajseg", trajseg_parts(made["sam2.0"]), vocab_size=267, tokens=every)
    return folder, made


def put_together(folder: Path, out: Path, **kwargs: Any) -> Assembled:
    options = {"sam2_config": small_sam2(), "trajectory_encoder": TRAJECTORY} | kwargs
    return assemble(folder, out, **options)


def test_a_hugging_face_llava_and_meta_s_sam2_become_a_checkpoint(
    sources: tuple[Path, dict[str, State]], tmp_path: Path
) -> None:
    folder, made = sources
    out = tmp_path / "trajseg-small"
    report = put_together(folder / "llava", out, sam2=folder / "sam2.1.pt", dtype=torch.float32, shard_bytes=200_000)
    assert report.fresh == ["text_hidden_fcs", "fusion_layers", "spi_module"]
    shards = list(out.glob("model-*.safetensors"))
    assert len(shards) > 3, "of at most 200 kB"
    usual = (out / "config.json").stat().st_mode
    assert {shard.stat().st_mode for shard in shards} == {usual}, "another user, such as a service's, can read them"
    assert json.loads((out / "assembled.json").read_text())["never_trained"] == report.fresh

    ours = TrajSegModel.from_pretrained(out).state_dict()
    for name, tensor in made["llava"].items():
        assert torch.equal(ours[f"llava.{name}"], tensor), name
    for name, tensor in made["sam2.1"].items():
        assert torch.equal(ours[f"visual_model.{name}"], tensor), name
    assert not any(tensor.isnan().any() for tensor in ours.values())


def test_the_authors_llava_takes_its_vision_tower_from_a_clip_folder_and_grows_by_new_tokens(
    sources: tuple[Path, dict[str, State]], tmp_path: Path
) -> None:
    folder, made = sources
    report = put_together(
        folder / "authors",
        tmp_path / "out",
        sam2=folder / "sam2.0.pt",
        clip=folder / "clip",
        sam2_config=small_sam2("2.0"),
        dtype=torch.float32,
    )
    assert report.tokens == ["[SEG]", "<vd_start>", "<vd_end>", "<traj_start>", "<traj_end>"]
    assert report.config.seg_token_id == 262, "right after <im_patch>, <im_start> and <im_end>, as in the paper's"
    ours = TrajSegModel.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in made["clip"].items():
        if name.startswith("vision_model."):
            assert torch.equal(ours[name.replace("vision_model.", "llava.model.vision_tower.")], tensor), name
    assert torch.equal(ours["llava.model.multi_modal_projector.weight"], made["authors"]["model.mm_projector.weight"])
    head, before = ours["llava.lm_head.weight"], made["authors"]["lm_head.weight"]
    assert len(head) == 267
    assert torch.equal(head[:262], before)
    assert not torch.equal(head[262], head[263])
    assert (head[262:] - before.mean(0)).abs().mean() < 0.2 * before.abs().mean()


def test_an_assembled_checkpoint_answers_segments_and_captions(
    sources: tuple[Path, dict[str, State]], tmp_path: Path, tiny_clip: TinyClip
) -> None:
    folder, _ = sources
    put_together(folder / "llava", tmp_path / "out", sam2=folder / "sam2.1.pt")
    segmenter = VideoSegmenter.from_pretrained(tmp_path / "out")
    assert segmenter.model.dtype == torch.bfloat16, "as it was written"
    _always_seg(segmenter)
    result = segmenter.segment(tiny_clip.path, "the red circle").result()
    assert len(result.tracks) == 2
    assert all(len(track.frames) == result.frame_count for track in result.tracks)
    drawn = [track for track in result.tracks if any(frame.rle for frame in track.frames)]
    assert segmenter.caption(tiny_clip.path, drawn) is not None


@pytest.mark.slow
def test_an_assembled_checkpoint_is_trained_and_its_adapter_served_removed_and_merged(
    sources: tuple[Path, dict[str, State]], tmp_path: Path, tiny_clip: TinyClip
) -> None:
    """In bf16, as it is written; trained in float32, all kinds of samples, with recomputed layers."""
    folder, _ = sources
    base, adapter = tmp_path / "base", tmp_path / "models" / "1"
    put_together(folder / "llava", base, sam2=folder / "sam2.1.pt")
    mixture = Mixture(images=0.25, pseudo_videos=0.25, propagation=0.25, captioning=0.5)
    recipe = JointRecipe(mixture, Schedule(steps=2, lr=0.01, warmup=1), batch=8, micro=4, frames=2, recompute=True)
    trained, finished = train_jointly(recipe, str(base), tmp_path / "run", ShapesSamples(size=64))
    assert finished
    publish(AdapterManifest("base/project-1@1", "base", content_hash(base / "config.json")), trained, adapter)

    def content(engine: VideoSegmenter) -> State:
        return {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}

    engine = VideoSegmenter.from_pretrained(base, "cpu")
    plain, said = content(engine), engine.answer(tiny_clip.path, "the red circle")
    adapted = engine.adapted(adapter)
    served, other = content(adapted), adapted.answer(tiny_clip.path, "the red circle")
    assert other != said
    assert engine.answer(tiny_clip.path, "the red circle") == said
    assert all(torch.equal(tensor, plain[name]) for name, tensor in content(engine).items())
    assert adapted.answer(tiny_clip.path, "the red circle") == other

    merging = ["--checkpoint", str(base), "--adapter", str(trained), "--out", str(tmp_path / "merged")]
    assert CliRunner().invoke(main, ["model", "merge", *merging]).exit_code == 0
    again = VideoSegmenter.from_pretrained(tmp_path / "merged", "cpu")
    assert {parameter.dtype for parameter in again.model.parameters()} == {torch.bfloat16}
    for name, tensor in content(again).items():
        torch.testing.assert_close(tensor, served[name], atol=1e-3, rtol=0.01)
    assert again.answer(tiny_clip.path, "the red circle").text == other.text
    # Otherwise its predictions could not be told from the base's, and it would take the base's adapters.
    assert again.spec.model_version == f"base-{content_hash(trained / 'adapter_model.safetensors')[:8]}"
    with pytest.raises(CheckpointError, match="was trained on another base"):
        again.adapted(adapter)
    into_another = ["--checkpoint", "trajseg-tiny", "--adapter", str(adapter), "--out", str(tmp_path / "mixed")]
    refused = CliRunner().invoke(main, ["model", "merge", *into_another])
    assert refused.exit_code != 0
    assert "was trained on another base" in refused.output


def test_a_merged_trajectory_encoder_has_the_precision_of_the_base(
    sources: tuple[Path, dict[str, State]], tmp_path: Path, tiny_clip: TinyClip
) -> None:
    """It was added by the training; in another precision than the base, captions failed before the model was saved."""
    folder, _ = sources
    put_together(folder / "llava", tmp_path / "whole", sam2=folder / "sam2.1.pt")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    without = tmp_path / "without"
    engine = VideoSegmenter.from_pretrained(tmp_path / "whole", "cpu")
    del engine.model.spi_module
    engine.model.config.trajectory_encoder = None
    engine.model.save_pretrained(without)
    engine.processor.save_pretrained(without)
    recipe = JointRecipe(Mixture(0.0, 0.0, 0.0, 1.0), Schedule(steps=1, warmup=1), batch=1, micro=1, frames=2)
    trained, _ = train_jointly(recipe, str(without), tmp_path / "run", ShapesSamples(size=64))
    merged = VideoSegmenter.from_pretrained(without, "cpu")
    assert config["dtype"] == "bfloat16"
    assert merged.model.config.trajectory_encoder is None
    model = merge_adapter(merged.model, trained)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    result = VideoSegmenter(model, merged.processor, "merged")
    track = MaskTrack.from_masks("a", tiny_clip.red, [0.0] * 12, [1.0] * 12)
    assert len(result.caption(tiny_clip.path, [track])) == 1


def test_a_tokenizer_of_sentencepiece_is_read_or_its_package_named(
    sources: tuple[Path, dict[str, State]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the folders of LLaVA's and TrajSeg's authors; transformers asked for tiktoken, which is of no use."""
    folder, _ = sources
    published = tmp_path / "published"
    shutil.copytree(folder / "authors", published)
    (published / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (published / "tokenizer_config.json").write_text(json.dumps(settings))
    pieces = io.BytesIO()
    sentences = iter(["the red circle moves left", "a box that jumps quickly over it"] * 20)
    pytest.importorskip("sentencepiece").SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=pieces, vocab_size=40, model_type="bpe", minloglevel=2
    )
    (published / "tokenizer.model").write_bytes(pieces.getvalue())
    rest: dict[str, Any] = {"sam2": folder / "sam2.0.pt", "clip": folder / "clip", "sam2_config": small_sam2("2.0")}
    with monkeypatch.context() as patched:
        patched.setattr("trajseg.checkpoints.assembly.find_spec", lambda _name: None)
        with pytest.raises(CheckpointError, match=r"needs the package sentencepiece") as refused:
            put_together(published, tmp_path / "out", **rest)
    assert "trajseg[model]" in refused.value.remedy
    report = put_together(published, tmp_path / "out", **rest)
    processor = TrajSegProcessor.from_pretrained(tmp_path / "out")
    assert processor.text(processor.ids("the red circle [SEG]")) == "the red circle [SEG]"
    assert report.config.seg_token_id == processor.seg_id


def _always_seg(segmenter: VideoSegmenter, times: int = 2) -> None:
    """Nothing is trained here, so the head is set to always say [SEG]."""
    model = segmenter.model
    head = torch.nn.Linear(48, model.config.llava_config.text_config.vocab_size).to(model.dtype)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[model.config.seg_token_id] = 1.0
    model.llava.lm_head = head
    model.config.max_new_tokens = times


def test_a_checkpoint_of_the_authors_is_taken_over_whole(
    sources: tuple[Path, dict[str, State]], tmp_path: Path, tiny_clip: TinyClip
) -> None:
    folder, made = sources
    report = put_together(
        folder / "trajseg", tmp_path / "out", clip=folder / "clip", sam2_config=small_sam2("2.0"), dtype=torch.float32
    )
    assert report.fresh == []
    assert report.tokens == []
    assert report.config.released_behaviour
    segmenter = VideoSegmenter.from_pretrained(tmp_path / "out")
    ours, theirs = segmenter.model.state_dict(), made["trajseg"]
    for name in ("text_hidden_fcs.0.2.weight", "spi_module.roi_align.updims.weight"):
        assert torch.equal(ours[name], theirs[f"model.{name}"]), name
    assert torch.equal(
        ours["fusion_layers.layers.5.0.in_proj_weight"], theirs["model.fusion_layers.5.0.in_proj_weight"]
    )
    assert segmenter.processor.centre_crop
    assert segmenter.processor.turns.user == "USER:"
    _always_seg(segmenter, times=1)
    assert len(segmenter.segment(tiny_clip.path, "the red circle").result().tracks) == 1


@torch.inference_mode()
def test_frame_0_of_the_authors_model_is_drawn_without_the_no_memory_embedding_and_remembered_from_its_mask(
    sources: tuple[Path, dict[str, State]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: TinyClip
) -> None:
    folder, _ = sources
    options = {"clip": folder / "clip", "sam2_config": small_sam2("2.0"), "dtype": torch.float32}
    put_together(folder / "trajseg", tmp_path / "out", **options)
    segmenter = VideoSegmenter.from_pretrained(tmp_path / "out")
    sam2 = segmenter.model.visual_model
    _always_seg(segmenter, times=1)
    painted: list[tuple[Any, ...]] = []
    paint = Tracker.paint

    def noted(self: Tracker, *given: Any) -> Any:
        painted.append(given)
        return paint(self, *given)

    monkeypatch.setattr(Tracker, "paint", noted)
    segmenter.segment(tiny_clip.path, "the red circle").result()
    [(index, frame, mask)] = painted
    assert index == 0
    assert set(mask.unique().tolist()) <= {0.0, 1.0}

    prompt = torch.randn(1, 64)
    first = Tracker(sam2, 4).draw_first(frame, prompt)
    usual = Tracker(sam2, 4).step(0, frame, prompt)
    assert not torch.allclose(first.logits, usual.logits)
    sam2.no_mem_embed.zero_()
    torch.testing.assert_close(first.logits, Tracker(sam2, 4).step(0, frame, prompt).logits)


def test_the_middle_of_a_picture_is_seen_and_boxes_are_cut_with_it() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    assert (middle(wide) == 255).all()
    processor = TrajSegProcessor(word_tokenizer([]), llm_size=16, mask_size=30, centre_crop=True)
    boxes = torch.tensor([[25.0, 5.0, 55.0, 10.0], [0.0, 0.0, 15.0, 20.0]]) / 60
    expected = torch.tensor([[0.25, 0.25, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(processor.seen_boxes(boxes, 20, 60), expected)
    mask = torch.zeros(1, 20, 60, dtype=torch.bool)
    mask[:, :, 30:] = True
    target = processor.mask_targets(mask)
    assert target[0, :10, 15:].all()
    assert target.sum() == 150


def test_adapters_of_a_training_checkpoint_are_merged(sources: tuple[Path, dict[str, State]], tmp_path: Path) -> None:
    folder, made = sources
    plain = "base_model.model.model.layers.1.self_attn.q_proj"
    down, up = torch.randn(8, 48), torch.randn(48, 8)
    weights = {f"base_model.model.{name}": tensor for name, tensor in made["trajseg"].items()}
    weights |= {f"{plain}.lora_A.default.weight": down, f"{plain}.lora_B.default.weight": up}
    training = tmp_path / "training"
    training.mkdir()
    torch.save(weights, training / "pytorch_model.bin")
    (training / "config.json").write_text((folder / "trajseg/config.json").read_text())
    tokenizer(training, ("<im_patch>", "<im_start>", "<im_end>", "[SEG]", *SPECIAL_TOKENS[2:]))

    put_together(training, tmp_path / "out", clip=folder / "clip", sam2_config=small_sam2("2.0"), dtype=torch.float32)
    ours = TrajSegModel.from_pretrained(tmp_path / "out").state_dict()
    expected = made["trajseg"]["model.layers.1.self_attn.q_proj.weight"] + 16 / 8 * up @ down
    torch.testing.assert_close(ours["llava.model.language_model.layers.1.self_attn.q_proj.weight"], expected)


def test_a_layer_scale_that_was_lost_is_noticed_and_taken_from_meta_s_file(
    sources: tuple[Path, dict[str, State]], tmp_path: Path
) -> None:
    folder, made = sources
    lost = dict(made["sam2.0"]) | {
        name: torch.full_like(tensor, 1e-6) for name, tensor in made["sam2.0"].items() if name.endswith("gamma")
    }
    authors(tmp_path / "lost", trajseg_parts(lost), vocab_size=267, tokens=("<a>", "<b>", "<c>"))
    options = {"clip": folder / "clip", "sam2_config": small_sam2("2.0"), "dtype": torch.float32}
    with pytest.raises(CheckpointError, match=r"gamma is untrained.*--sam2"):
        put_together(tmp_path / "lost", tmp_path / "out", **options)
    put_together(tmp_path / "lost", tmp_path / "out", sam2=folder / "sam2.0.pt", **options)
    ours = TrajSegModel.from_pretrained(tmp_path / "out").state_dict()
    name = "memory_encoder.fuser.layers.0.gamma"
    assert torch.equal(ours[f"visual_model.{name}"], made["sam2.0"][name])


def test_what_does_not_fit_is_named_with_what_to_do(sources: tuple[Path, dict[str, State]], tmp_path: Path) -> None:
    folder, _ = sources
    with pytest.raises(CheckpointError, match=r"vision tower is a separate checkpoint: openai/clip.*--clip"):
        put_together(folder / "authors", tmp_path / "out", sam2=folder / "sam2.1.pt")
    with pytest.raises(CheckpointError, match=r"no SAM 2.*--sam2"):
        put_together(folder / "llava", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"unexpected: visual_model\.no_obj_embed_spatial"):
        put_together(folder / "llava", tmp_path / "out", sam2=folder / "sam2.1.pt", sam2_config=small_sam2("2.0"))
    wide = small_sam2()
    wide.d_model = 96
    with pytest.raises(CheckpointError, match=r"no_mem_embed is \[1, 1, 64\] and should be \[1, 1, 96\]"):
        put_together(folder / "llava", tmp_path / "out", sam2=folder / "sam2.1.pt", sam2_config=wide)
    with pytest.raises(CheckpointError, match="not one of Meta's SAM 2"):
        assemble(folder / "llava", tmp_path / "out", sam2=folder / "sam2.1.pt")
    command = ["model", "assemble", "--llava", str(folder / "llava"), "--sam2", str(folder / "sam2.1.pt")]
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "not one of Meta's SAM 2" in result.output
    assert not (tmp_path / "out").exists(), "nothing is written before everything fits"


def test_damaged_incomplete_and_dangerous_files_are_refused(
    sources: tuple[Path, dict[str, State]], tmp_path: Path
) -> None:
    folder, _ = sources
    shards = tmp_path / "shards"
    shards.mkdir()
    index = (folder / "llava/model.safetensors.index.json").read_text()
    (shards / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"lacks model-00001-of-00002\.safetensors, model-00002"):
        Weights(shards)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((folder / "llava/model-00001-of-00002.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors cannot be read"):
        Weights(cut)
    (tmp_path / "cut.pt").write_bytes((folder / "sam2.1.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut\.pt cannot be read"):
        Weights(tmp_path / "cut.pt")
    torch.save({"model": _Payload()}, tmp_path / "payload.pt")
    with pytest.raises(CheckpointError, match="more than tensors"):
        Weights(tmp_path / "payload.pt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        Weights(tmp_path)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def test_a_file_that_old_torch_wrote_is_read_as_well(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(Weights(tmp_path / "old.pt")["w"], torch.ones(2))
