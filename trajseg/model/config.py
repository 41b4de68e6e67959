"""Configuration of a TrajSeg checkpoint: a LLaVA, a SAM 2, and the parts between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig, PretrainedConfig

SPECIAL_TOKENS = ("<im_start>", "<im_end>", "<vd_start>", "<vd_end>", "<traj_start>", "<traj_end>")


class Sam2Config(PretrainedConfig):
    """Sizes of SAM 2 in Meta's package; the defaults are those of SAM 2.0 Hiera-large.

    `trunk` is "hiera", or "conv" for a convolutional trunk that learns from little data (tiny).
    Widths are in channels, `image_size` in pixels (square, letterboxed), `stride` in pixels a cell.
    SAM 2.1 adds `no_obj_embed_spatial`, the memory of an absent object, and `pointer_times`, the age of each object
    pointer.
    """

    model_type = "trajseg_sam2"

    def __init__(
        self,
        trunk: str = "hiera",
        trunk_kwargs: dict[str, Any] | None = None,
        channel_list: tuple[int, ...] = (1152, 576, 288, 144),
        d_model: int = 256,
        image_size: int = 1024,
        stride: int = 16,
        memory_dim: int = 64,
        memory_layers: int = 4,
        memory_feedforward: int = 2048,
        num_maskmem: int = 7,
        max_obj_ptrs: int = 16,
        no_obj_embed_spatial: bool = False,
        pointer_times: bool = False,
        **kwargs: Any,
    ) -> None:
        self.trunk = trunk
        self.trunk_kwargs = trunk_kwargs or {
            "embed_dim": 144,
            "num_heads": 2,
            "stages": [2, 6, 36, 4],
            "global_att_blocks": [23, 33, 43],
            "window_pos_embed_bkg_spatial_size": [7, 7],
            "window_spec": [8, 4, 16, 8],
        }
        self.channel_list = list(channel_list)
        self.d_model = d_model
        self.image_size = image_size
        self.stride = stride
        self.memory_dim = memory_dim
        self.memory_layers = memory_layers
        self.memory_feedforward = memory_feedforward
        self.num_maskmem = num_maskmem
        self.max_obj_ptrs = max_obj_ptrs
        self.no_obj_embed_spatial = no_obj_embed_spatial
        self.pointer_times = pointer_times
        super().__init__(**kwargs)


@dataclass(frozen=True)
class TrajectoryEncoderShape:
    """Sizes of the trajectory encoder; the defaults are those of the paper's SPI module (299 M parameters).

    `levels` are the hidden states of the vision tower that it reads, shallowest first. Its maps have `channels` and are
    mixed with their neighbours in `rounds` rounds (`groups` of GroupNorm). A box is read as roi x roi cells and becomes
    `width` numbers, to which the embedding of the box's position (with a hidden layer of `box_width`) is added.
    """

    levels: tuple[int, ...] = (-11, -8, -5, -2)
    channels: int = 1024
    rounds: int = 5
    groups: int = 64
    roi: int = 14
    width: int = 1024
    box_width: int = 256


class TrajSegConfig(PretrainedConfig):
    """A TrajSeg model; the defaults are those of the 7B model, `TrajSegConfig.tiny()` those of trajseg-tiny.

    Args:
        llava_config: of a LLaVA, or of a family in `qwen.py`, whose own vision tower then replaces CLIP.
        sam2_config: of SAM 2.
        llm_frames: N, the frames that the language model sees.
        integration_layers, integration_heads: of content integration; with 0 layers there is none, and a trajectory
            token is itself the prompt of every key frame.
        vision_stem: "patch" (CLIP's own) or "conv".
        object_tokens: keep only the patch tokens at objects' centres, at most so many per frame; 0 keeps all (the
            paper).
        frame_embedding: add a learned embedding of the frame's number to its tokens (ours).
        key_frame_memory: key frames read memory (ours).
        prompt_every_frame: frames between key frames get a prompt, too, in addition to memory (ours).
        start_score: hysteresis: an object appears above this object score, and stays above 0 (ours; 0 in the paper).
        released_behaviour: treat frame 0 as the authors' code does (without the no-memory embedding, its memory made
            from its mask); set for their checkpoints.
        trajectory_encoder: fields of TrajectoryEncoderShape that differ from the paper's ({} for none); None: a model
            without captioning.
        prompted_by_boxes: the weights were trained with boxes and clicks on a frame.
        mark_reader: has the part that a SAM 2 needs for them if it was not pre-trained on millions of them (ours; see
            marks.py).
        seg_token_id: id of [SEG].
        max_new_tokens: of an answer.
        model_name: identifies the weights; part of the model version.
    """

    model_type = "trajseg"
    sub_configs = {"llava_config": AutoConfig, "sam2_config": Sam2Config}  # noqa: RUF012 (transformers' protocol)

    def __init__(
        self,
        llava_config: PretrainedConfig | dict[str, Any] | None = None,
        sam2_config: Sam2Config | dict[str, Any] | None = None,
        llm_frames: int = 10,
        integration_layers: int = 6,
        integration_heads: int = 4,
        vision_stem: str = "patch",
        object_tokens: int = 0,
        frame_embedding: bool = False,
        key_frame_memory: bool = False,
        prompt_every_frame: bool = False,
        start_score: float = 0.0,
        released_behaviour: bool = False,
        trajectory_encoder: dict[str, Any] | None = None,
        prompted_by_boxes: bool = False,
        mark_reader: bool = False,
        seg_token_id: int = 32003,
        max_new_tokens: int = 512,
        model_name: str = "trajseg-7b",
        **kwargs: Any,
    ) -> None:
        if isinstance(llava_config, dict):
            family = llava_config.get("model_type", LlavaConfig.model_type)
            llava_config = AutoConfig.for_model(family, **{k: v for k, v in llava_config.items() if k != "model_type"})
        if isinstance(sam2_config, dict):
            sam2_config = Sam2Config(**sam2_config)
        self.llava_config: PretrainedConfig = llava_config or _llava_7b()
        self.sam2_config: Sam2Config = sam2_config or Sam2Config()
        self.llm_frames = llm_frames
        self.integration_layers = integration_layers
        self.integration_heads = integration_heads
        self.vision_stem = vision_stem
        self.object_tokens = object_tokens
        self.frame_embedding = frame_embedding
        self.key_frame_memory = key_frame_memory
        self.prompt_every_frame = prompt_every_frame
        self.start_score = start_score
        self.released_behaviour = released_behaviour
        self.trajectory_encoder: dict[str, Any] | None = None
        if trajectory_encoder is not None:
            shape = asdict(TrajectoryEncoderShape(**trajectory_encoder))
            self.trajectory_encoder = shape | {"levels": list(shape["levels"])}
        self.prompted_by_boxes = prompted_by_boxes
        self.mark_reader = mark_reader
        self.seg_token_id = seg_token_id
        self.max_new_tokens = max_new_tokens
        self.model_name = model_name
        super().__init__(**kwargs)

    @classmethod
    def full_size(cls) -> TrajSegConfig:
        """The 7B model with the trajectory encoder."""
        return cls(trajectory_encoder={})

    @classmethod
    def tiny(cls, vocab_size: int, seg_token_id: int, bos: int = 1, eos: int = 2, pad: int = 0) -> TrajSegConfig:
        """trajseg-tiny: the same parts at about a thousandth of the size."""
        vision = CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=256,
            patch_size=16,
        )
        text = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
            tie_word_embeddings=False,
        )
        llava = LlavaConfig(  # type: ignore[call-arg]
            vision_config=vision,
            text_config=text,
            image_token_id=pad,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
        sam2 = Sam2Config(
            trunk="conv",
            trunk_kwargs={"widths": [16, 32, 64, 128, 128], "blocks": [0, 1, 1, 2, 1]},
            channel_list=(128, 128, 64, 32),
            d_model=128,
            image_size=256,
            memory_dim=64,
            memory_layers=2,
            memory_feedforward=256,
        )
        return cls(
            llava_config=llava,
            sam2_config=sam2,
            llm_frames=8,
            integration_layers=3,
            vision_stem="conv",
            object_tokens=10,
            frame_embedding=True,
            prompt_every_frame=True,
            start_score=1.0,
            trajectory_encoder={
                "levels": (-2, -1),
                "channels": 64,
                "rounds": 2,
                "groups": 4,
                "roi": 4,
                "width": 128,
                "box_width": 64,
            },
            seg_token_id=seg_token_id,
            max_new_tokens=96,
            model_name="trajseg-tiny",
        )


# AutoTokenizer reads a checkpoint's config.json and must know the type "trajseg".
AutoConfig.register(TrajSegConfig.model_type, TrajSegConfig)


def _llava_7b() -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    text = LlamaConfig(vocab_size=32008, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
    # A key of the original LLaVA: its first releases have one Linear, transformers' LLaVA an MLP with two.
    return LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-2,
        image_seq_length=256,
        mm_projector_type="linear",
    )
