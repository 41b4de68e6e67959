"""The shapes world: clips of moving shapes, with instructions and captions that are known to be true."""
