"""Trains a tiny MM-Grounding-DINO on the shapes world, from scratch.

Two stages, as in the real model's pre-training. `backbone`: a ResNet learns to name the colour, shape and size of the
object in each cell. `detector`: the whole model learns boxes for phrases. The encoder's proposals get a dense loss in
every cell, because from scratch the decoder's sparse loss alone learns far too slowly.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    ResNetBackbone,
    ResNetConfig,
)

from trajseg.shapes.engines.pictures import Picture, PictureStream
from trajseg.shapes.engines.teaching import Stage, Step
from trajseg.shapes.world.phrases import vocabulary
from trajseg.shapes.world.scenes import COLOURS, SHAPES, SIZES

LONGEST = 224
"""Pixels of the longer side of a picture."""
STRIDES = (16, 32)
Examples = Iterator[tuple[dict[str, Tensor], list[dict[str, Tensor]], list[Picture], list[float]]]
"""Inputs of the model, targets of each picture, the pictures, and the scale of their boxes."""
PRIOR = -4.0
"""Initial bias of the contrastive logits: hardly any cell contains an object."""


def tokenizer() -> BertTokenizer:
    """Whole words, with the special tokens at BERT's ids, which are hard-coded in MM-Grounding-DINO."""
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    free = iter(index for index in range(104, 1029) if index != 1012)
    vocab = dict(fixed)
    for word in vocabulary():
        if word not in vocab:
            vocab[word] = next(free)
    taken = set(vocab.values())
    vocab |= {f"[unused{index}]": index for index in range(1030) if index not in taken}
    return BertTokenizer(vocab=dict(sorted(vocab.items(), key=lambda item: item[1])), do_lower_case=True)


def processor() -> GroundingDinoProcessor:
    """Resizes pictures so that the longer side is LONGEST."""
    images = GroundingDinoImageProcessor(size={"shortest_edge": LONGEST, "longest_edge": LONGEST})
    return GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer())


def backbone_config() -> ResNetConfig:
    return ResNetConfig(  # type: ignore[call-arg]
        embedding_size=24,
        hidden_sizes=[24, 64, 128, 160],
        depths=[1, 2, 2, 1],
        layer_type="basic",
        out_features=["stage3", "stage4"],
    )


def config() -> MMGroundingDinoConfig:
    """About 2 million parameters, with every part of the real model."""
    text = BertConfig(
        vocab_size=1030,
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return MMGroundingDinoConfig(
        backbone_config=backbone_config(),
        text_config=text,
        num_queries=30,
        encoder_layers=1,
        encoder_ffn_dim=192,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=192,
        decoder_attention_heads=4,
        d_model=128,
        dropout=0.0,
        fusion_droppath=0.0,
        num_feature_levels=len(STRIDES),
        max_text_len=64,
    )


class CellNamer(nn.Module):
    """Pre-trains a backbone: it names the colour, shape and size of the object in each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNetBackbone(backbone_config())
        widths = backbone_config().hidden_sizes[2:]  # type: ignore[index]
        self.names = (1, len(COLOURS), len(SHAPES), len(SIZES))
        self.heads = nn.ModuleList(nn.Conv2d(width, sum(self.names), 1) for width in widths)

    def loss(self, pixels: Tensor, pictures: list[Picture], scales: list[float]) -> tuple[Tensor, dict[str, float]]:
        maps = self.backbone(pixels).feature_maps
        total, figures = pixels.new_zeros(()), {}
        for head, stride, features in zip(self.heads, STRIDES, maps, strict=True):
            logits = head(features)
            target = cell_targets(pictures, scales, logits.shape[-2:], stride)
            there = target[:, 0] >= 0
            objectness = F.binary_cross_entropy_with_logits(logits[:, 0], there.float(), reduction="none")
            total = total + (objectness * torch.where(there, 1.0, 0.2)).mean()
            parts = logits[:, 1:].permute(0, 2, 3, 1)[there].split(self.names[1:], dim=1)
            for name, part, column in zip(("colour", "shape", "size"), parts, range(3), strict=True):
                truth = target[:, column][there]
                total = total + F.cross_entropy(part, truth) * (1.0 if len(truth) else 0.0)
                figures[f"{name}_{stride}"] = float((part.argmax(1) == truth).float().mean())
        return total, figures


def cell_targets(pictures: list[Picture], scales: list[float], grid: torch.Size, stride: int) -> Tensor:
    """(B, 3, h, w) int64: colour, shape and size of the object in the middle of whose box the cell lies, else -1."""
    target = torch.full((len(pictures), 3, *grid), -1, dtype=torch.int64)
    y, x = ((torch.arange(side) + 0.5) * stride for side in grid)
    for number, (picture, scale) in enumerate(zip(pictures, scales, strict=True)):
        boxes = torch.from_numpy(picture.boxes) * scale
        for box, names in zip(boxes, torch.from_numpy(picture.attributes), strict=True):
            middle, reach = (box[:2] + box[2:]) / 2, ((box[2:] - box[:2]) * 0.3).clamp(min=stride / 2)
            rows, columns = (y - middle[1]).abs() <= reach[1], (x - middle[0]).abs() <= reach[0]
            target[number, :, rows[:, None] & columns] = names[:, None]
    return target


def phrases_for(picture: Picture, rng: random.Random) -> list[tuple[str, list[int]]]:
    """One to three phrases with the objects that each refers to; some refer to none."""
    looks = [(COLOURS[c], SHAPES[s], SIZES[z]) for c, s, z in picture.attributes.tolist()]

    def of(colour: str, shape: str, size: str) -> str:
        kind = rng.random()
        if kind < 0.3:
            return shape
        if kind < 0.55:
            return "object"
        if kind < 0.8:
            return f"{colour} {shape}"
        return f"{colour} object" if kind < 0.9 else f"{size} {colour} {shape}"

    phrases: dict[str, list[int]] = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        if looks and rng.random() < 0.7:
            phrase = of(*rng.choice(looks))
        elif looks and rng.random() < 0.5:
            phrase = of(rng.choice(looks)[0], rng.choice(looks)[1], rng.choice(SIZES))
        else:
            phrase = of(rng.choice(COLOURS), rng.choice(SHAPES), rng.choice(SIZES))
        said = set(phrase.split()) - {"object"}
        phrases[phrase] = [k for k, look in enumerate(looks) if said <= set(look)]
    return list(phrases.items())


def token_owners(ids: list[int], special: tuple[int, ...] = (101, 102, 1012, 1029, 0)) -> list[int]:
    """For each token the 0-based number of the phrase it belongs to; -1 for special tokens."""
    owners, number = [], 0
    for token in ids:
        if token in special:
            owners.append(-1)
            number += token == 1012
        else:
            owners.append(number)
    return owners


def detection_loss(
    model: MMGroundingDinoForObjectDetection, batch: dict[str, Tensor], targets: list[dict[str, Tensor]]
) -> tuple[Tensor, dict[str, float]]:
    """Dense loss of the encoder's proposals and matched loss of each decoder layer."""
    outputs = model(**batch)
    mask = batch["attention_mask"].bool()
    length = mask.shape[1]
    dense = outputs.enc_outputs_class[..., :length], outputs.enc_outputs_coord_logits
    grids = [(-(-batch["pixel_values"].shape[2] // s), -(-batch["pixel_values"].shape[3] // s)) for s in STRIDES]
    total = batch["pixel_values"].new_zeros(())
    figures: dict[str, float] = {}
    classes, coords = dense
    cells = torch.cat([_centres(grid, stride) for grid, stride in zip(grids, STRIDES, strict=True)])
    strides = torch.cat([torch.full((h * w,), s) for (h, w), s in zip(grids, STRIDES, strict=True)])
    losses: dict[str, list[Tensor]] = {"dense": [], "dense_box": [], "match": [], "match_box": []}
    for b, target in enumerate(targets):
        boxes, tokens = (
            target["boxes"],
            target["tokens"],
        )  # cxcywh in shares of the picture without padding; (K, length)
        size = target["size"]
        centres = cells / size
        here = mask[b] & target["spoken"]
        valid = torch.isfinite(coords[b]).all(-1)
        goal = torch.zeros(len(centres), length)
        owner = torch.full((len(centres),), -1)
        if len(boxes):
            apart = (centres[:, None] - boxes[None, :, :2]).abs() * size
            reach = torch.maximum(boxes[None, :, 2:] * size * 0.2, (strides / 2)[:, None, None] * 1.01)
            inside = (apart <= reach).all(-1)
            distance = apart.sum(-1).masked_fill(~inside, float("inf"))
            near, owner = distance.min(1)
            owner = torch.where(torch.isfinite(near), owner, -1)
            goal[owner >= 0] = tokens[owner[owner >= 0]].float()
        # Padding cells count too: otherwise they would become proposals.
        goal[~valid] = 0
        losses["dense"].append(_focal(classes[b][:, here], goal[:, here], max(1, len(boxes)) * 6))
        chosen = (owner >= 0) & valid
        if chosen.any():
            predicted, truth = coords[b][chosen].sigmoid(), boxes[owner[chosen]]
            losses["dense_box"].append(_box_loss(predicted, truth).mean())
    hidden = outputs.intermediate_hidden_states
    text = outputs.encoder_last_hidden_state_text
    references = [outputs.init_reference_points, *outputs.intermediate_reference_points.unbind(1)]
    for level in range(hidden.shape[1]):
        logits = model.class_embed[level](hidden[:, level], text, mask)[..., :length]
        drawn = (model.bbox_embed[level](hidden[:, level]) + torch.special.logit(references[level], eps=1e-5)).sigmoid()
        right = []
        for b, target in enumerate(targets):
            wanted = target["tokens"].any(1)
            boxes, tokens = target["boxes"][wanted], target["tokens"][wanted]
            here = mask[b] & target["spoken"]
            goal = torch.zeros(logits.shape[1], length)
            if len(boxes):
                rows, columns = _match(logits[b], drawn[b], boxes, tokens)
                goal[rows] = tokens[columns].float()
                losses["match_box"].append(_box_loss(drawn[b][rows], boxes[columns]).mean())
                overlap = generalized_box_iou(_corners(drawn[b][rows]), _corners(boxes[columns])).diagonal()
                right += (overlap.detach() > 0.6).float().tolist()
            losses["match"].append(_focal(logits[b][:, here], goal[:, here], max(1, len(boxes))))
        if right:
            figures[f"boxes_{level}"] = sum(right) / len(right)
    for name, parts in losses.items():
        if parts:
            part = torch.stack(parts).mean()
            figures[name] = float(part.detach())
            total = total + part * (2.0 if "box" not in name else 1.0)
    return total, figures


def _centres(grid: tuple[int, int], stride: int) -> Tensor:
    y, x = torch.meshgrid(*((torch.arange(side) + 0.5) * stride for side in grid), indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def _corners(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def _box_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    overlap = generalized_box_iou(_corners(predicted), _corners(truth)).diagonal()
    return 5 * (predicted - truth).abs().sum(-1) + 2 * (1 - overlap)


def _focal(logits: Tensor, goal: Tensor, count: int) -> Tensor:
    p = logits.sigmoid()
    ce = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    weight = torch.where(goal > 0, 0.4 * (1 - p) ** 2, 0.6 * p**2)
    return (weight * ce).sum() / (count * max(1, logits.shape[-1]) ** 0.5)


@torch.no_grad()
def _match(logits: Tensor, drawn: Tensor, boxes: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Query and object indices of the best matching pairs, each used at most once (greedy)."""
    said = (logits.sigmoid() @ tokens.float().T) / tokens.sum(1).clamp(min=1)
    cost = 2 * (1 - said) + 5 * torch.cdist(drawn, boxes, p=1)
    cost = cost - 2 * generalized_box_iou(_corners(drawn), _corners(boxes))
    rows, columns = [], []
    for _ in range(min(cost.shape)):
        place = int(cost.argmin())
        row, column = divmod(place, cost.shape[1])
        rows.append(row)
        columns.append(column)
        cost[row], cost[:, column] = float("inf"), float("inf")
    return torch.tensor(rows), torch.tensor(columns)


def batches(stream: Iterator[Picture], size: int, prepare: GroundingDinoProcessor, rng: random.Random) -> Examples:
    """Endless batches of pictures, each with phrases drawn by `rng`."""
    while pictures := list(islice(stream, size)):
        asked = [phrases_for(picture, rng) for picture in pictures]
        for phrases in asked:
            rng.shuffle(phrases)
        inputs = prepare(
            images=[picture.rgb for picture in pictures],
            text=[[phrase for phrase, _ in phrases] for phrases in asked],
            return_tensors="pt",
            padding=True,
        )
        scales = [LONGEST / max(picture.rgb.shape[:2]) for picture in pictures]
        targets = []
        for picture, phrases, ids, scale in zip(pictures, asked, inputs["input_ids"].tolist(), scales, strict=True):
            whole = torch.tensor(picture.rgb.shape[1::-1]).float()
            boxes = torch.from_numpy(picture.boxes) / whole.repeat(2)
            owners = torch.tensor(token_owners(ids))
            meant = torch.zeros(len(boxes), len(phrases) + 1, dtype=torch.bool)
            for number, (_, members) in enumerate(phrases):
                meant[members, number] = True
            targets.append(
                {
                    "boxes": torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1),
                    "tokens": meant[:, owners] & (owners >= 0),
                    "spoken": owners >= 0,
                    "size": whole * scale,
                }
            )
        yield dict(inputs), targets, pictures, scales


def train(out: Path, minutes: dict[str, float], batch: int = 8, seed: int = 0) -> None:
    """Trains both stages, each for a number of minutes; resumes from the states in `out`."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    prepare, namer, model = processor(), CellNamer(), fresh()

    def examples(stage: str, done: int) -> Examples:
        rng = random.Random(f"{seed}/{stage}/{done}")
        return batches(iter(PictureStream(rng.getrandbits(40), LONGEST)), batch, prepare, rng)

    def name_cells(done: int) -> Step:
        drawn = examples("backbone", done)

        def step() -> tuple[Tensor, dict[str, float]]:
            inputs, _, pictures, scales = next(drawn)
            return namer.loss(inputs["pixel_values"], pictures, scales)

        return step

    def detect(done: int) -> Step:
        if not done:
            take_backbone(model, backbone.path(out))
        drawn = examples("detector", done)

        def step() -> tuple[Tensor, dict[str, float]]:
            inputs, targets, _, _ = next(drawn)
            return detection_loss(model, inputs, targets)

        return step

    backbone = Stage("backbone", 2e-3, minutes["backbone"], clip=5.0)
    backbone.run(out, namer, name_cells)
    Stage("detector", 6e-4, minutes["detector"]).run(out, model, detect)
    model.half().save_pretrained(out / "checkpoint")
    prepare.save_pretrained(out / "checkpoint")


def fresh() -> MMGroundingDinoForObjectDetection:
    torch.manual_seed(0)
    model = MMGroundingDinoForObjectDetection(config())
    model.model.backbone.requires_grad_(True)
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__ == "MMGroundingDinoContrastiveEmbedding":
                module.bias.fill_(PRIOR)  # type: ignore[operator]
    return model


def take_backbone(model: MMGroundingDinoForObjectDetection, path: Path) -> None:
    """Loads the pre-trained backbone into the model, where its batch statistics are frozen."""
    state = torch.load(path, weights_only=True)["model"]
    inner = model.model.backbone.conv_encoder.model
    own = inner.state_dict()
    taken = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    missing = [name for name in own if name not in taken]
    assert not missing, missing
    inner.load_state_dict({name: taken[name] for name in own})


def main() -> None:
    """Trains into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/engines/detector"))
    parser.add_argument("--backbone-minutes", type=float, default=8)
    parser.add_argument("--detector-minutes", type=float, default=30)
    given = parser.parse_args()
    train(given.out, {"backbone": given.backbone_minutes, "detector": given.detector_minutes})


if __name__ == "__main__":
    main()
