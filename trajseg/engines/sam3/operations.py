"""Mask operations for which SAM 3's code in transformers would otherwise download a compiled kernel at run time.

Without that kernel, transformers skips non-maximum suppression and the removal of holes and specks. With it, code is
downloaded and run. So the same two operations are provided here, written with torch and OpenCV.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from transformers.models.sam3_video import modeling_sam3_video


class MaskOperations:
    """The two operations of the kernel `cv-utils` that SAM 3 uses, under the kernel's names."""

    def generic_nms(self, ious: Tensor, scores: Tensor, iou_threshold: float, use_iou_matrix: bool = True) -> Tensor:
        """The indices of the masks that are kept, best first: each overlaps no better one by more than the threshold.

        Args:
            ious: (n, n), of every mask with every other.
            scores: (n,).
        """
        overlaps = (ious > iou_threshold).cpu().numpy()
        kept: list[int] = []
        for index in scores.argsort(descending=True, stable=True).tolist():
            if not overlaps[index, kept].any():
                kept.append(index)
        return torch.tensor(kept, dtype=torch.long, device=scores.device)

    def cc_2d(self, masks: Tensor, get_counts: bool = True) -> tuple[Tensor, Tensor]:
        """8-connected components: their labels from 1 (0 is background), and the area of each pixel's component.

        Args:
            masks: uint8 (n, 1, H, W), nonzero inside a mask.

        Returns:
            Two int32 tensors of the masks' shape.
        """
        labels, counts = [], []
        for plane in masks[:, 0].cpu().numpy():
            _, label, stats, _ = cv2.connectedComponentsWithStats((plane > 0).astype(np.uint8), connectivity=8)
            areas = stats[:, cv2.CC_STAT_AREA].astype(np.int32)
            areas[0] = 0
            labels.append(label.astype(np.int32))
            counts.append(areas[label])
        stacked = (torch.from_numpy(np.stack(rows)[:, None]).to(masks.device) for rows in (labels, counts))
        return next(stacked), next(stacked)


def install() -> None:
    """Makes SAM 3 use these operations, so that it neither skips nor downloads them."""
    modeling_sam3_video.cv_utils_kernel = MaskOperations()  # type: ignore[assignment]
