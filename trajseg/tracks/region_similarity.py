"""J, the overlap of two masks (davis2017-evaluation)."""

from __future__ import annotations

import numpy as np


def region_similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """J of one frame: intersection over union; 1 if both masks are empty."""
    union = int(np.count_nonzero(prediction | truth))
    return int(np.count_nonzero(prediction & truth)) / union if union else 1.0
