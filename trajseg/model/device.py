"""Which device a model runs on."""

from __future__ import annotations

import torch

from trajseg.errors import InputError


def chosen(name: str | None) -> str:
    """torch's name of a device that this machine has: `name`, by default the first GPU, else "cpu".

    Raises:
        InputError: there is no such device.
    """
    if not name:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"There is no device {name} here: {str(error).splitlines()[0]}",
            "Name cpu, or one of the GPUs that torch sees: cuda, cuda:1 ...",
        ) from error
    return name
