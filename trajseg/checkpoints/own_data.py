"""A base's own data: what its fine-tuning replays, and what no version may get worse on. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trajseg.checkpoints.folders import checkpoint_config, checkpoint_folder
from trajseg.errors import InputError

DEFAULT_REPLAY: Mapping[str, str] = {"trajseg-tiny": "shapes:turned"}
"""Replay data of the checkpoints that ship, by model name; others name theirs in config.json, as `replay_data`."""
DEFAULT_BASE_SET: Mapping[str, str] = {"trajseg-tiny": "shapes:val"}
"""What a base must not forget, by model name; other checkpoints name theirs in config.json, as `base_set`."""


def replay_data(checkpoint: str | Path) -> str:
    """The base's own training data, as named in `--data`, for replay.

    Raises:
        InputError: the checkpoint's config.json does not name it, and the checkpoint is not a built-in one.
        CheckpointError: there is no such checkpoint.
    """
    missing = InputError(
        f"The checkpoint {checkpoint} does not say what it was trained on, so nothing can be replayed.",
        "Name a data set: TRAJSEG_REPLAY_DATA=ref-youtube-vos:/data/ref-youtube-vos/train, or `replay_data` in the "
        "checkpoint's config.json.",
    )
    return _named(checkpoint, "replay_data", DEFAULT_REPLAY, missing)


def base_set_of(checkpoint: str | Path) -> str:
    """The data set that a base must not forget, as named in --data.

    Raises:
        InputError: the checkpoint's config.json does not name it, and the checkpoint is not a built-in one.
        CheckpointError: there is no such checkpoint.
    """
    missing = InputError(
        f"The checkpoint {checkpoint} does not say on what it must not get worse.",
        "Name a data set: TRAJSEG_BASE_DATA=ref-youtube-vos:/data/ref-youtube-vos/valid, or `base_set` in the "
        "checkpoint's config.json.",
    )
    return _named(checkpoint, "base_set", DEFAULT_BASE_SET, missing)


def check_own_data(checkpoint: str | Path, replay: str | None, base_set: str | None) -> None:
    """Checks that both data sets of a training are named; a single error names all that are missing.

    Args:
        replay, base_set: named elsewhere, such as in settings; None or empty: the checkpoint has to name them.

    Raises:
        InputError: neither names one of them.
        CheckpointError: there is no such checkpoint.
    """
    errors = []
    for named, of_checkpoint in ((replay, replay_data), (base_set, base_set_of)):
        if not named:
            try:
                of_checkpoint(checkpoint)
            except InputError as error:
                errors.append(error)
    if len(errors) > 1:
        raise InputError(
            f"The checkpoint {checkpoint} does not say what it was trained on, nor on what it must not get worse.",
            "Name two data sets: TRAJSEG_REPLAY_DATA=ref-youtube-vos:/data/ref-youtube-vos/train and TRAJSEG_BASE_DATA="
            "ref-youtube-vos:/data/ref-youtube-vos/valid, or `replay_data` and `base_set` in its config.json.",
        )
    if errors:
        raise errors[0]


def _named(checkpoint: str | Path, key: str, shipped: Mapping[str, str], missing: InputError) -> str:
    """The data set under this key of config.json, or that of a checkpoint that ships; raises `missing` without one."""
    config = checkpoint_config(checkpoint_folder(checkpoint))
    data = config.get(key) or shipped.get(str(config.get("model_name")))
    if not data:
        raise missing
    return str(data)
