"""The shapes world: clips of moving shapes, with instructions and captions that are known to be true."""

from trajseg.data.shapes.cli import data as command

__all__ = ["command"]
