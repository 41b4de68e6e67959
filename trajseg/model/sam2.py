"""Builds Meta's SAM 2 from a Sam2Config (the package's own YAML files describe fixed sizes only)."""

from __future__ import annotations

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from trajseg.model.config import Sam2Config
from trajseg.model.conv import ConvTrunk


def build_sam2(config: Sam2Config) -> SAM2Base:
    """SAM 2 with random weights and the parameter names of Meta's checkpoints."""
    dim, memory_dim = config.d_model, config.memory_dim
    grid = [config.image_size // config.stride] * 2
    trunk = {"hiera": Hiera, "conv": ConvTrunk}[config.trunk](**config.trunk_kwargs)
    neck = FpnNeck(
        position_encoding=_sine(dim),
        d_model=dim,
        backbone_channel_list=list(config.channel_list),
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )

    # Attention dropout is 0: the paper's code forces it (shared by training and inference).
    def attention(**kwargs: object) -> RoPEAttention:
        return RoPEAttention(
            rope_theta=10000.0,
            feat_sizes=grid,
            embedding_dim=dim,
            num_heads=1,
            downsample_rate=1,
            dropout=0.0,
            **kwargs,
        )

    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=config.memory_feedforward,
        dropout=0.1,
        pos_enc_at_attn=False,
        self_attention=attention(),
        d_model=dim,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=attention(rope_k_repeat=True, kv_in_dim=memory_dim),
    )
    fuser_block = CXBlock(dim=dim, kernel_size=7, padding=3, layer_scale_init_value=1e-6, use_dwconv=True)
    sam2 = SAM2Base(
        image_encoder=ImageEncoder(trunk=trunk, neck=neck, scalp=1),
        memory_attention=MemoryAttention(
            d_model=dim, pos_enc_at_input=True, layer=layer, num_layers=config.memory_layers
        ),
        memory_encoder=MemoryEncoder(
            out_dim=memory_dim,
            in_dim=dim,
            position_encoding=_sine(memory_dim),
            mask_downsampler=MaskDownSampler(embed_dim=dim, kernel_size=3, stride=2, padding=1),
            fuser=Fuser(layer=fuser_block, num_layers=2),
        ),
        num_maskmem=config.num_maskmem,
        image_size=config.image_size,
        backbone_stride=config.stride,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        multimask_output_for_tracking=True,
        use_multimask_token_for_obj_ptr=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        max_obj_ptrs_in_encoder=config.max_obj_ptrs,
        add_tpos_enc_to_obj_ptrs=config.pointer_times,
        proj_tpos_enc_in_obj_ptrs=config.pointer_times,
        use_signed_tpos_enc_to_obj_ptrs=config.pointer_times,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        use_mlp_for_obj_ptr_proj=True,
        no_obj_embed_spatial=config.no_obj_embed_spatial,
    )
    if config.pointer_times:
        sam2.obj_ptr_tpos_proj = _CastingLinear(dim, memory_dim)
    return sam2


class _CastingLinear(nn.Linear):
    """Accepts SAM 2's float32 intermediate results, whatever its own precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def _sine(features: int) -> PositionEmbeddingSine:
    return PositionEmbeddingSine(num_pos_feats=features, normalize=True, scale=None, temperature=10000)
