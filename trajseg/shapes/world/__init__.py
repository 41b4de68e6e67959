"""The shapes world: clips of moving shapes, with instructions and captions that are known to be true."""

from trajseg.shapes.world.command import data as command

__all__ = ["command"]
