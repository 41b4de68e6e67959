"""Which base an adapter fits: that of the same configuration and weights, however these are stored."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from trajseg.checkpoints.base_identity import BaseIdentity, config_hashes, weights_hash
from trajseg.checkpoints.folders import SHIPPED
from trajseg.checkpoints.manifest import AdapterManifest
from trajseg.errors import CheckpointError

WIDE = 5001
"""Numbers in a tensor: more than what is read of its start and its end, and odd, so that its place may be, too."""


def weights() -> dict[str, np.ndarray]:
    rows = np.random.default_rng(0).normal(size=(2, WIDE)).astype(np.float32)
    return {"a": rows[0], "b": rows[1].reshape(3, -1), "c": np.full(1, 3, np.float32)}


def test_the_hash_does_not_depend_on_the_files_that_hold_the_tensors(tmp_path: Path) -> None:
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    whole.mkdir()
    shards.mkdir()
    save_file(weights(), whole / "model.safetensors", metadata={"format": "pt"})
    save_file({"start": np.zeros(3)}, shards / "warm_start.safetensors")
    for order in permutations("abc"):
        for number, name in enumerate(order):
            save_file({name: weights()[name]}, shards / f"model-{number}.safetensors")
        assert weights_hash(whole) == weights_hash(shards)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a", lambda tensor: tensor + np.eye(1, WIDE, 0, np.float32)[0]),
        ("a", lambda tensor: tensor + np.eye(1, WIDE, WIDE - 1, np.float32)[0]),
        ("b", lambda tensor: tensor.reshape(-1)),
        ("c", lambda tensor: -tensor),
        ("c", lambda tensor: tensor.astype(np.float16)),
    ],
)
def test_a_tensor_with_other_numbers_another_shape_or_type_is_another_base(
    tmp_path: Path, name: str, change: Any
) -> None:
    hashes = []
    for tensors in (weights(), {**weights(), name: change(weights()[name])}):
        save_file(tensors, tmp_path / "model.safetensors")
        hashes.append(weights_hash(tmp_path))
    assert hashes[0] != hashes[1]


def test_an_adapter_fits_the_weights_it_names_and_an_older_one_its_configuration(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((SHIPPED / "trajseg-tiny" / name).read_bytes())
    base = BaseIdentity.of(SHIPPED / "trajseg-tiny")
    adapter = AdapterManifest("v", "trajseg-tiny", base.configs[0], base_weights=base.weights)
    older = AdapterManifest("v", "trajseg-tiny", base.configs[0])
    assert base == BaseIdentity.of(tmp_path)
    assert base.fits(adapter)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    trained_again = BaseIdentity.of(tmp_path)
    assert trained_again.configs == base.configs
    assert not trained_again.fits(adapter)
    assert trained_again.fits(older)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, (2).to_bytes(8, "little") + b"[]", b"\x00" * 8])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file"):
        weights_hash(tmp_path)


@pytest.mark.parametrize("form", [{"indent": 2, "sort_keys": True}, {}])
def test_an_adapter_still_fits_when_its_base_has_been_given_data_sets(tmp_path: Path, form: dict[str, Any]) -> None:
    def hashes(**config: Any) -> tuple[str, ...]:
        (tmp_path / "config.json").write_text(json.dumps({"model_name": "ours", **config}, **form) + "\n")
        return config_hashes(tmp_path)

    before, after = hashes(rank=8), hashes(rank=8, replay_data="shapes:turned", base_set="shapes:val")
    assert after[0] in before, "trained with them, while a worker that has loaded it without them serves"
    assert after[0] in hashes(rank=8, replay_data="shapes:train")
    assert before[0] in after or not form, "trained before, served now; unless the file was not in transformers' form"
    assert not {*before, *after} & {*hashes(rank=9)}, "another model"
