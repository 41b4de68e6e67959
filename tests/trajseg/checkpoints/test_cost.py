"""`trajseg model`: the table of costs, and checkpoints from published ones, on the command line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from trajseg.checkpoints.cost import Cost, cost
from trajseg.checkpoints.published import trajseg_7b
from trajseg.cli import main
from trajseg.errors import TrajSegError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.quantization import four_bit_config


@pytest.fixture(scope="module")
def full_size() -> Cost:
    return cost(trajseg_7b())


@pytest.mark.slow
def test_the_7b_model_costs_what_its_parts_are_known_to_cost(full_size: Cost) -> None:
    parts = {part.name: part for part in full_size.parts}
    assert parts["trajectory encoder"].parameters == pytest.approx(299e6, rel=0.01)
    assert parts["language model"].parameters + parts["its head"].parameters == pytest.approx(6.738e9, rel=0.001)
    # Two operations per parameter and position, plus attention over all positions.
    reading = 2 * parts["language model"].parameters * full_size.positions
    assert 1.0 < parts["language model"].flops / reading < 1.2
    assert full_size.total.bytes(16) == pytest.approx(15.2e9, rel=0.01)
    assert full_size.total.bytes(4) < 6e9
    assert full_size.positions == 10 * 258 + 60


def test_parts_add_up_to_the_model() -> None:
    config = TrajSegConfig.tiny(vocab_size=60, seg_token_id=4)
    counted = cost(config, frames=12).total.parameters
    assert counted == sum(parameter.numel() for parameter in TrajSegModel.skeleton(config).parameters())


@pytest.mark.slow
def test_a_longer_clip_costs_more_in_the_masks_and_as_much_in_language() -> None:
    config = TrajSegConfig.tiny(vocab_size=60, seg_token_id=4)
    short, long = cost(config, frames=20), cost(config, frames=40)
    for one, other in zip(short.parts, long.parts, strict=True):
        growth = other.flops / one.flops
        if one.name.startswith("SAM 2"):
            assert growth > 1.9, one.name
        else:
            assert growth < 1.13, one.name


def test_the_command_prints_a_table_a_model() -> None:
    result = CliRunner().invoke(main, ["model", "table", "trajseg-tiny", "--frames", "10"])
    assert result.exit_code == 0, result.output
    assert "SAM 2 image encoder" in result.output
    assert "100.0%" in result.output
    assert CliRunner().invoke(main, ["model", "table", "trajseg-70b"]).exit_code == 1


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_four_bits_without_bitsandbytes_are_refused_with_what_to_install() -> None:
    with pytest.raises(TrajSegError, match="pip install bitsandbytes"):
        four_bit_config(torch.bfloat16)


def test_four_bits_pack_the_layers_of_the_language_model_only(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    TrajSegModel(TrajSegConfig.tiny(vocab_size=60, seg_token_id=4)).save_pretrained(tmp_path)
    model = TrajSegModel.from_pretrained(tmp_path, torch.bfloat16, four_bit=True)
    plain = TrajSegModel.from_pretrained(tmp_path, torch.bfloat16)
    packed = [name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(packed) == 7 * 6
    assert all(name.startswith("llava.model.language_model.layers.") for name in packed)
    prompt = torch.randn(1, 20, 128).to(torch.bfloat16)
    with torch.inference_mode():
        one, other = (m.language_model(inputs_embeds=prompt).last_hidden_state.float() for m in (model, plain))
    assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.98
