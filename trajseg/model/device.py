"""Selection of device and dtype."""

from __future__ import annotations

import gc

import torch

from trajseg.errors import InputError


def chosen(name: str | None) -> str:
    """torch's name of an available device: `name`; default: the first GPU, or "cpu".

    Raises:
        InputError: the device is not available.
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


def free_unused() -> None:
    """Returns memory that nothing uses any more to the device; modules are freed late, being in reference cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def chosen_dtype(dtype: torch.dtype | str | None, device: str) -> torch.dtype | None:
    """A dtype for weights on a device; None stays None.

    Raises:
        InputError: invalid name, or float16 on a CPU.
    """
    if isinstance(dtype, str):
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise InputError(f"{dtype} is not a dtype for weights.", "Use float32, bfloat16 or float16.")
        dtype = found
    if dtype is torch.float16 and torch.device(device).type == "cpu":
        # It is slow: trajseg-tiny needs 157 s instead of 7 s for a clip of 24 frames.
        raise InputError(
            "On a CPU float16 is about twenty times slower than other dtypes.",
            "Use bfloat16, or leave the dtype out.",
        )
    return dtype
