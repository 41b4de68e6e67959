"""The trajectory encoder against the paper's steps written as loops, and its full-size parameter count."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trajseg.errors import CheckpointError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.config import TrajectoryEncoderShape
from trajseg.model.trajectory_encoder import TrajectoryEncoder

SHAPE = TrajectoryEncoderShape(levels=(-3, -2, -1), channels=8, rounds=2, groups=2, roi=3, width=10, box_width=5)
VISION, LANGUAGE, FRAMES, GRID = 6, 7, 3, 4
NORM_EPS = 1e-5


@pytest.fixture(scope="module")
def encoder() -> TrajectoryEncoder:
    torch.manual_seed(0)
    encoder = TrajectoryEncoder(SHAPE, VISION, LANGUAGE).double()
    for module in encoder.modules():  # norms start as the identity, which would hide a mistake in them
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return encoder


@pytest.fixture(scope="module")
def levels() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(FRAMES, GRID * GRID, VISION, dtype=torch.float64) for _ in SHAPE.levels]


@pytest.fixture(scope="module")
def boxes() -> Tensor:
    """Two trajectories: an ordinary one, and one that is absent, cut by the edge, and the whole picture."""
    return torch.tensor(
        [
            [[0.1, 0.2, 0.5, 0.9], [0.3, 0.3, 0.4, 0.45], [0.0, 0.55, 0.3, 1.0]],
            [[0.0, 0.0, 0.0, 0.0], [0.7, 0.1, 1.0, 0.2], [0.0, 0.0, 1.0, 1.0]],
        ],
        dtype=torch.float64,
    )


def at(picture: Tensor, y: float, x: float) -> Tensor:
    """The picture (C, h, w) between its cells' centres, with cell (i, j) at y = i, x = j."""
    height, width = picture.shape[1:]
    top, left = min(math.floor(y), height - 1), min(math.floor(x), width - 1)
    down, right = y - top, x - left
    below, beside = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = picture[:, top, left] * (1 - right) + picture[:, top, beside] * right
    lower = picture[:, below, left] * (1 - right) + picture[:, below, beside] * right
    return upper * (1 - down) + lower * down


def slow_resize(picture: Tensor, side: int) -> Tensor:
    """Corners stay corners."""
    scale = (picture.shape[-1] - 1) / (side - 1)
    result = torch.zeros(picture.shape[0], side, side, dtype=picture.dtype)
    for y in range(side):
        for x in range(side):
            result[:, y, x] = at(picture, y * scale, x * scale)
    return result


def slow_roi_align(picture: Tensor, box: Tensor, cells: int) -> Tensor:
    """Mean of 2 x 2 points in each of cells x cells parts of the box; points a cell outside the picture count as 0."""
    side = picture.shape[-1]
    x1, y1, x2, y2 = (value * side - 0.5 for value in box.tolist())
    result = torch.zeros(picture.shape[0], cells, cells, dtype=picture.dtype)
    for i in range(cells):
        for j in range(cells):
            for part_y in (0.25, 0.75):
                for part_x in (0.25, 0.75):
                    y = y1 + (i + part_y) * (y2 - y1) / cells
                    x = x1 + (j + part_x) * (x2 - x1) / cells
                    if -1 <= y <= side and -1 <= x <= side:
                        result[:, i, j] += at(picture, min(max(y, 0), side - 1), min(max(x, 0), side - 1)) / 4
    return result


def slow_token(encoder: TrajectoryEncoder, levels: list[Tensor], box: Tensor) -> Tensor:
    """Steps 1 to 7 of the paper's SPI module for one frame, levels (P, V) and box (4,), to a token (D,)."""
    w = encoder.state_dict()
    maps = []
    for number, tokens in enumerate(levels):
        side = GRID * 2 ** (len(levels) - 1 - number)
        picture = slow_resize(tokens.T.reshape(VISION, GRID, GRID), side)
        conv = f"mlvl_fuse.input_conv.{number}"
        out = torch.zeros(SHAPE.channels, side, side, dtype=picture.dtype)
        for y in range(side):
            for x in range(side):
                place = torch.tensor([-1 + 2 * x / (side - 1), -1 + 2 * y / (side - 1)], dtype=picture.dtype)
                out[:, y, x] = (
                    w[f"{conv}.weight"][:, :, 0, 0] @ torch.cat([picture[:, y, x], place]) + w[f"{conv}.bias"]
                )
        maps.append(out)
    for number in range(SHAPE.rounds):
        mixing = f"mlvl_fuse.fuse_convs.{number}"
        new = []
        for number, own in enumerate(maps):
            up, down = maps[min(number + 1, len(maps) - 1)], maps[max(number - 1, 0)]
            parts = [own[0:4], slow_resize(up, own.shape[-1])[6:8], slow_resize(down, own.shape[-1])[4:6]]
            out = F.conv2d(torch.cat(parts)[None], w[f"{mixing}.conv.weight"], padding=1)[0]
            for group in (slice(0, 4), slice(4, 8)):
                values = out[group]
                deviation = (values.var(unbiased=False) + NORM_EPS).sqrt()
                normal = (values - values.mean()) / deviation
                weight, bias = w[f"{mixing}.gn.weight"][group, None, None], w[f"{mixing}.gn.bias"][group, None, None]
                out[group] = normal * weight + bias
            new.append(out.clamp(min=0))
        maps = new
    total = torch.zeros(SHAPE.channels, SHAPE.roi, SHAPE.roi, dtype=box.dtype)
    for number, level in enumerate(maps):
        conv = f"roi_align.pconvs.{number}"
        cut = slow_roi_align(level, box, SHAPE.roi)[None]
        total += F.conv2d(cut, w[f"{conv}.weight"], w[f"{conv}.bias"], padding=1)[0]

    def linear(name: str, x: Tensor) -> Tensor:
        return w[f"roi_align.{name}.weight"] @ x + w[f"roi_align.{name}.bias"]

    flat = linear("flatten_linear", total.clamp(min=0).flatten())
    place = box
    for first in (0, 3):
        place = linear(f"pos_embedd.{first}", place).clamp(min=0)
        normal = (place - place.mean()) / (place.var(unbiased=False) + NORM_EPS).sqrt()
        norm = f"roi_align.pos_embedd.{first + 2}"
        place = normal * w[f"{norm}.weight"] + w[f"{norm}.bias"]
    return linear("updims", flat + place)


@torch.no_grad()
def test_tokens_equal_the_paper_s_steps_in_loops(
    encoder: TrajectoryEncoder, levels: list[Tensor], boxes: Tensor
) -> None:
    tokens = encoder(encoder.pyramid(levels), boxes)
    assert tokens.shape == (2, FRAMES, LANGUAGE)
    for k in range(2):
        for n in range(FRAMES):
            expected = slow_token(encoder, [level[n] for level in levels], boxes[k, n])
            torch.testing.assert_close(tokens[k, n], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_trajectories_of_one_clip_do_not_see_each_other(
    encoder: TrajectoryEncoder, levels: list[Tensor], boxes: Tensor
) -> None:
    pyramid = encoder.pyramid(levels)
    together = encoder(pyramid, boxes)
    for k in range(2):
        torch.testing.assert_close(encoder(pyramid, boxes[k : k + 1])[0], together[k])


def test_the_full_size_encoder_has_the_paper_s_parameters_under_their_published_names() -> None:
    config = TrajSegConfig.full_size()
    assert config.trajectory_encoder
    shape = TrajectoryEncoderShape(**config.trajectory_encoder)
    with torch.device("meta"):
        encoder = TrajectoryEncoder(shape, 1024, 4096)
    shapes = {name: tuple(p.shape) for name, p in encoder.named_parameters()}
    assert sum(p.numel() for p in encoder.parameters()) == 299_142_912
    assert shapes["mlvl_fuse.input_conv.3.weight"] == (1024, 1026, 1, 1)
    assert shapes["mlvl_fuse.fuse_convs.4.conv.weight"] == (1024, 1024, 3, 3)
    assert shapes["mlvl_fuse.fuse_convs.4.gn.bias"] == (1024,)
    assert shapes["roi_align.pconvs.3.bias"] == (1024,)
    assert shapes["roi_align.pos_embedd.0.weight"] == (256, 4)
    assert shapes["roi_align.pos_embedd.3.weight"] == (1024, 256)
    assert shapes["roi_align.pos_embedd.5.weight"] == (1024,)
    assert shapes["roi_align.flatten_linear.weight"] == (1024, 200704)
    assert shapes["roi_align.updims.weight"] == (4096, 1024)
    assert len(shapes) == 4 * 2 + 5 * 3 + 4 * 2 + 8 + 2 + 2


@torch.no_grad()
def test_the_model_reads_its_vision_tower_for_one_trajectory_or_many(boxes: Tensor) -> None:
    torch.manual_seed(0)
    config = TrajSegConfig.tiny(vocab_size=60, seg_token_id=4)
    model = TrajSegModel(config).eval()
    assert sum(p.numel() for p in model.spi_module.parameters()) < 400_000
    states = model.vision_tower(pixel_values=torch.randn(3, 3, 256, 256), output_hidden_states=True).hidden_states
    many = model.trajectory_embeddings(states, boxes.float())
    one = model.trajectory_embeddings(states, boxes[1].float())
    assert many.shape == (2, 3, 128)
    torch.testing.assert_close(one, many[1], atol=1e-5, rtol=1e-4)


def test_a_checkpoint_without_the_encoder_loads_and_says_that_it_cannot(tmp_path: Path, boxes: Tensor) -> None:
    config = TrajSegConfig.tiny(vocab_size=60, seg_token_id=4)
    config.trajectory_encoder = None
    TrajSegModel(config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["trajectory_encoder"]  # as in checkpoints of the first release
    (tmp_path / "config.json").write_text(json.dumps(saved))
    model = TrajSegModel.from_pretrained(tmp_path)
    assert not any(name.startswith("spi_module") for name in model.state_dict())
    with pytest.raises(CheckpointError, match="without a trajectory encoder"):
        model.trajectory_embeddings([], boxes)


def test_a_configuration_keeps_the_encoder_s_shape(tmp_path: Path) -> None:
    for config in (TrajSegConfig.full_size(), TrajSegConfig.tiny(60, 4)):
        config.save_pretrained(tmp_path)
        assert TrajSegConfig.from_pretrained(tmp_path).trajectory_encoder == config.trajectory_encoder
