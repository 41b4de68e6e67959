"""The unified mask decoder against the paper's frame rules, written out frame by frame and object by object."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.nn import functional as F

from tests.tiny_clip import TinyClip
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.mask_decoder import FrameFeatures, Tracker
from trajseg.model.processor import TrajSegProcessor
from trajseg.shapes.recipe.texts import shapes_processor

FRAMES, KEYS = 18, (0, 9)
"""Long enough for a frame to leave the six memories and the fifteen pointers, across a key frame."""


@pytest.fixture(scope="module")
def processor() -> TrajSegProcessor:
    return shapes_processor(256)


@pytest.fixture(scope="module")
def model(processor: TrajSegProcessor) -> TrajSegModel:
    """Untrained, but with time and absence embeddings as large as what they are added to."""
    torch.manual_seed(0)
    model = TrajSegModel(TrajSegConfig.tiny(len(processor.tokenizer), processor.seg_id)).eval()
    sam2 = model.visual_model
    with torch.no_grad():
        for parameter in (sam2.maskmem_tpos_enc, sam2.no_mem_embed, sam2.no_obj_ptr):
            parameter.normal_()
    return model


def slow_masks(sam2: SAM2Base, pixels: Tensor, prompts: dict[int, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Gated mask logits (64, 64) and object score (1,) of one object on every frame; prompts (C,) on key frames."""
    memories: dict[int, tuple[Tensor, Tensor]] = {}
    pointers: dict[int, Tensor] = {}
    found = []
    for j, picture in enumerate(pixels):
        s0, s1, top = sam2.image_encoder(picture[None])["backbone_fpn"]
        width, side = top.shape[1:3]
        prompt_encoder, decoder = sam2.sam_prompt_encoder, sam2.sam_mask_decoder
        if j in prompts:
            feature = top + sam2.no_mem_embed.view(1, width, 1, 1)
            sparse = prompts[j].view(1, 1, width)
        else:
            feature = slow_read(sam2, j, top, prompts, memories, pointers)
            sparse = prompt_encoder.not_a_point_embed.weight.expand(2, width)[None]
        low, _, tokens, score = decoder(
            image_embeddings=feature,
            image_pe=prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=prompt_encoder.no_mask_embed.weight.view(1, width, 1, 1).repeat(1, 1, side, side),
            multimask_output=False,
            repeat_image=False,
            high_res_features=[decoder.conv_s0(s0), decoder.conv_s1(s1)],
        )
        pointers[j] = sam2.obj_ptr_proj(tokens[0, :1])
        if score.item() <= 0:
            low = torch.full_like(low, -1024.0)
            pointers[j] = sam2.no_obj_ptr
        large = F.interpolate(low, scale_factor=4, mode="bilinear", align_corners=False)
        encoded = sam2.memory_encoder(top, 20 * large.sigmoid() - 10, skip_mask_sigmoid=True)
        memories[j] = (encoded["vision_features"], encoded["vision_pos_enc"][0])
        found.append((low[0, 0], score[0]))
    return found


def slow_read(
    sam2: SAM2Base,
    j: int,
    top: Tensor,
    prompts: dict[int, Tensor],
    memories: dict[int, tuple[Tensor, Tensor]],
    pointers: dict[int, Tensor],
) -> Tensor:
    """Frame j's feature after reading all earlier key frames, six other frames and the pointers of fifteen."""
    keys = [i for i in prompts if i < j]
    others = [i for i in range(j) if i not in prompts]
    tokens, places = [], []
    for i in keys + [i for i in others if j - i <= 6]:
        memory, place = (rows.flatten(2)[0].T for rows in memories[i])
        time = sam2.maskmem_tpos_enc[6 if i in keys else j - i - 1].view(1, -1)
        tokens.append(memory)
        places.append(place + time)
    named = keys + [i for i in others if j - i <= min(FRAMES, 16) - 1]
    split = torch.cat([pointers[i].view(-1, 64) for i in named])
    here = sam2.image_encoder.neck.position_encoding(top)
    read = sam2.memory_attention(
        curr=top.flatten(2).permute(2, 0, 1),
        curr_pos=here.flatten(2).permute(2, 0, 1),
        memory=torch.cat([*tokens, split])[:, None],
        memory_pos=torch.cat([*places, torch.zeros_like(split)])[:, None],
        num_obj_ptr_tokens=len(split),
    )
    return read.permute(1, 2, 0).view_as(top)


@torch.inference_mode()
def test_a_batch_of_objects_equals_the_frame_rules_object_by_object(model: TrajSegModel) -> None:
    sam2 = model.visual_model
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(FRAMES, 3, 256, 256, generator=generator)
    prompts = {key: torch.randn(2, 128, generator=generator) for key in KEYS}
    first = [slow_masks(sam2, pixels[:1], {0: prompts[0][row]})[0][1] for row in range(2)]
    # The gate is set between the two objects' scores on frame 0, so that one of them is absent there.
    bias = sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    kept = bias.clone()
    bias -= torch.stack(first).mean()
    try:
        slow = [slow_masks(sam2, pixels, {key: prompts[key][row] for key in KEYS}) for row in range(2)]
        tracker = Tracker(sam2, FRAMES)
        features = model.encode_frames(pixels)
        rows = torch.zeros(2, dtype=torch.long)
        absent = 0
        for j in range(FRAMES):
            decoded = tracker.step(j, features[rows + j], prompts.get(j))
            for row in range(2):
                low, score = slow[row][j]
                torch.testing.assert_close(decoded.score[row : row + 1], score, atol=1e-4, rtol=1e-3)
                torch.testing.assert_close(decoded.gated()[row], low, atol=1e-3, rtol=1e-3)
                absent += int(score.item() <= 0)
    finally:
        bias.copy_(kept)
    assert 0 < absent < 2 * FRAMES


def answering(model: TrajSegModel, processor: TrajSegProcessor, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the language model answer `text`, with random trajectory tokens for its [SEG]s."""
    from trajseg.model.modeling import Answer

    tokens = torch.randn(text.count("[SEG]"), 128, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(model, "answer", lambda prompt, end_id: Answer(processor.ids(text), tokens))


def test_objects_of_an_answer_share_the_features_of_every_frame(
    model: TrajSegModel, processor: TrajSegProcessor, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = VideoSegmenter(model, processor, "random")
    encode, frames = model.encode_frames, []

    def counted(pixels: Tensor) -> FrameFeatures:
        frames.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(model, "encode_frames", counted)
    counts = []
    for answer in ("a red square [SEG] .", "a red square [SEG] ; a blue square [SEG] ; a ring [SEG] ."):
        answering(model, processor, answer, monkeypatch)
        frames.clear()
        segmentation = segmenter.segment(tiny_clip.path, "everything")
        assert [len(frame.masks) for frame in segmentation] == [answer.count("[SEG]")] * 12
        counts.append(sum(frames))
    assert counts[0] == counts[1], "three objects cost no more encoded frames than one"


def test_where_nothing_is_meant_no_mask_is_made_and_no_frame_encoded(
    model: TrajSegModel, processor: TrajSegProcessor, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(model, processor, "there is no such object .", monkeypatch)
    monkeypatch.delattr(TrajSegModel, "encode_frames")
    steps: list[tuple[int, int]] = []
    segmenter = VideoSegmenter(model, processor, "random")
    result = segmenter.segment(tiny_clip.path, "the green ring").result(lambda done, total: steps.append((done, total)))
    assert result.tracks == []
    assert result.answer == "there is no such object ."
    assert steps == [(12, 12)]
