"""The paper's questions, answered on the shapes world: key frames, frames seen, time, ambiguity, and training."""
