"""The TrajSeg model: configuration, parts, processor. Loads torch."""

from trajseg.model.config import Sam2Config, TrajSegConfig
from trajseg.model.modeling import TrajSegModel
from trajseg.model.processor import TrajSegProcessor

__all__ = ["Sam2Config", "TrajSegConfig", "TrajSegModel", "TrajSegProcessor"]
