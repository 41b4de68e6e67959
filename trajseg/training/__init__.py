"""Training: stages that each teach one part, a recipe that strings them together, and the command that runs them."""

from trajseg.training.command import command
from trajseg.training.joint_command import export

__all__ = ["command", "export"]
