"""The training loop: exact resume, several processes, logs and early warnings."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn import functional as F

from trajseg.errors import CheckpointError, InputError
from trajseg.model import TrajSegConfig
from trajseg.model.mask_decoder import Tracker, encode_frames
from trajseg.model.sam2 import build_sam2
from trajseg.shapes.recipe.recipe import Stage
from trajseg.shapes.recipe.texts import VisibleObjects
from trajseg.training.feed import Feed, first, moved
from trajseg.training.health import PATIENCE, Health, gradient_norms
from trajseg.training.optimiser import optimiser_of
from trajseg.training.run import Loss, Part, Schedule, accelerator, signals_stop, train

SIX = Schedule(steps=6, lr=0.01, warmup=2, log_every=1, save_every=3)


class Toy(nn.Module):
    """A small module with dropout that learns to add; a step's 8 rows depend on the step's number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 1)
        self.seldom = nn.Linear(3, 1)

    def loss(self, part: Part) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(part.step)).chunk(part.count)[part.index]
        out = self.head(self.body(rows))
        if part.step % 2:
            out = out + self.seldom(rows)
        return (out - rows.sum(1, keepdim=True)).square().mean(), {"rows": float(len(rows))}


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in log(folder) if "loss" in line]


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "state.pt", weights_only=True)["module"]


def test_a_killed_run_resumes_float_for_float_as_one_that_was_not(tmp_path: Path) -> None:
    whole = Toy()
    train(tmp_path / "whole", whole, whole.loss, SIX)

    killed = Toy()

    def until_4(part: Part) -> tuple[Tensor, dict[str, float]]:
        if part.step == 4:
            raise KeyError("power cut")
        return killed.loss(part)

    with pytest.raises(KeyError, match="power cut"):
        train(tmp_path / "cut", killed, until_4, SIX)
    assert len(log(tmp_path / "cut")) == 4
    again = Toy()
    torch.manual_seed(99)
    assert train(tmp_path / "cut", again, again.loss, SIX)
    assert [line["step"] for line in log(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "cut")[name], tensor)


def test_minutes_end_a_run_and_steps_determine_the_rate() -> None:
    schedule = Schedule(minutes=1, steps=100, lr=1.0, warmup=10, decay="linear")
    assert schedule.over(0, 60.0)
    assert schedule.over(100, 1.0)
    assert not schedule.over(99, 59.0)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(9) == 1.0
    assert schedule.rate(50) == pytest.approx(50 / 90)
    assert Schedule(steps=100, lr=1.0, warmup=1).rate(100) == pytest.approx(0.05)


def test_figures_missing_in_a_step_are_left_out_of_the_mean(tmp_path: Path) -> None:
    toy = Toy()

    def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
        value, _ = toy.loss(part)
        return value, {"seldom": 6.0} if part.step == 1 else {}

    train(tmp_path, toy, loss, Schedule(steps=4, log_every=2))
    assert [line.get("seldom") for line in log(tmp_path)] == [6.0, None]


def test_a_command_that_gets_sigterm_finishes_its_step_and_saves(tmp_path: Path) -> None:
    toy = Toy()

    def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
        if part.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy.loss(part)

    before = signal.getsignal(signal.SIGTERM)
    with signals_stop() as stop:
        assert not train(tmp_path, toy, loss, Schedule(steps=100, log_every=50, save_every=50), stop=stop)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4
    assert signal.getsignal(signal.SIGTERM) is before


def test_training_leaves_signals_to_its_host(tmp_path: Path) -> None:
    """A worker's first SIGTERM must reach the worker, so the training does not handle it."""
    toy, received = Toy(), []

    def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
        if part.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy.loss(part)

    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        assert not train(tmp_path, toy, loss, SIX, stop=lambda: bool(received))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2


def test_progress_counts_steps_and_can_end_the_run(tmp_path: Path) -> None:
    toy, seen = Toy(), []
    train(tmp_path / "whole", toy, toy.loss, SIX, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(step, 6) for step in range(7)]

    def cancel(done: int, _total: int) -> None:
        if done == 4:
            raise CheckpointError("cancelled")

    with pytest.raises(CheckpointError, match="cancelled"):
        train(tmp_path / "cut", Toy(), toy.loss, SIX, progress=cancel)
    assert torch.load(tmp_path / "cut" / "state.pt", weights_only=True)["step"] == 3


def test_the_state_is_saved_by_the_clock_as_well(tmp_path: Path) -> None:
    toy = Toy()
    seldom = dataclasses.replace(SIX, save_every=1000, save_minutes=0.0)

    def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
        if part.step == 4:
            raise KeyError("power cut")
        return toy.loss(part)

    with pytest.raises(KeyError, match="power cut"):
        train(tmp_path, toy, loss, seldom)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4


def test_mean_over_parts_equals_the_whole_step(tmp_path: Path) -> None:
    """Without dropout, whose random numbers depend on the part."""
    one, four = Toy().eval(), Toy().eval()
    train(tmp_path / "one", one, one.loss, SIX)
    train(tmp_path / "four", four, four.loss, SIX, micro_batches=4)
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "four")[name], tensor, atol=1e-6, rtol=1e-5)


def _one_of_two(folder: Path) -> None:
    """A process forked from this one, as one of several."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    toy = Toy()
    train(folder, toy, toy.loss, SIX)


def test_two_processes_train_like_one_with_both_parts(tmp_path: Path) -> None:
    toy = Toy()
    train(tmp_path / "alone", toy, toy.loss, SIX, micro_batches=2)
    debug_launcher(_one_of_two, args=(tmp_path / "two",), num_processes=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)
    for name, tensor in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, atol=1e-5, rtol=1e-5)


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    toy = Toy()
    train(tmp_path, toy, toy.loss, Schedule(steps=1))
    with pytest.raises(CheckpointError, match="another training"):
        train(tmp_path, nn.Linear(2, 2), lambda _: (torch.zeros(()), {}), Schedule(steps=1))


def test_only_trained_weights_are_saved_if_the_rest_is_frozen(tmp_path: Path) -> None:
    toy = Toy()
    toy.body.requires_grad_(False)
    train(tmp_path, toy, toy.loss, Schedule(steps=2, save_every=1), whole=False)
    assert set(weights(tmp_path)) == {"head.weight", "head.bias", "seldom.weight", "seldom.bias"}
    assert train(tmp_path, toy, toy.loss, Schedule(steps=3), whole=False)


def test_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    toy = Toy()
    train(tmp_path, toy, toy.loss, SIX)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses(tmp_path), abs=1e-3)


def test_a_closed_gate_is_reported_before_the_training_is_over(tmp_path: Path) -> None:
    """SAM 2 with the mask loss on gated logits: the score's bias decides whether anything is learned."""
    torch.manual_seed(0)
    config = TrajSegConfig.tiny(10, 4).sam2_config
    config.image_size = 64
    sam2 = build_sam2(config).eval().requires_grad_(False)
    sam2.sam_mask_decoder.requires_grad_(True)
    nn.init.constant_(sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, -5.0)
    with torch.no_grad():
        frame = encode_frames(sam2, torch.randn(1, 3, 64, 64))
    prompt, target = torch.randn(1, config.d_model), torch.zeros(1, 16, 16)
    target[:, 4:9, 4:9] = 1

    def gated_loss(_: Part) -> tuple[Tensor, dict[str, float]]:
        decoded = Tracker(sam2, 1).step(0, frame, prompt, remember=False)
        return F.binary_cross_entropy_with_logits(decoded.gated(), target), {}

    train(tmp_path, sam2, gated_loss, Schedule(steps=PATIENCE + 2, lr=1e-3))
    warnings = [line["warning"] for line in log(tmp_path) if "warning" in line]
    assert len(warnings) == 2, "one for the gradient, one for the flat loss, each once"
    assert all("object gate" in text and "+2" in text for text in warnings)


def test_part_without_gradient_is_reported_but_not_one_used_occasionally() -> None:
    toy, health = Toy(), Health()
    parts = {"body": list(toy.body.parameters()), "seldom": list(toy.seldom.parameters())}
    said: list[str] = []
    for step in range(2 * PATIENCE):
        toy.zero_grad()
        toy.loss(Part(step))[0].backward()
        assert gradient_norms(parts)["body"] > 0
        said += health.observe(1.0 / (step + 1), gradient_norms(parts), {})
    assert said == []
    for step in range(2 * PATIENCE):
        said += health.observe(1.0 / (step + 1), {"seldom": 0.0}, {})
    assert len(said) == 1
    assert said[0].startswith("seldom has had no gradient for")
    shut = Health()
    told = [t for step in range(PATIENCE) for t in shut.observe(1 / (step + 1), {}, {"gate_open": 0.0})]
    assert len(told) == 1
    assert "pred_obj_score_head" in told[0]


def test_non_finite_gradient_stops_before_the_weights_change(tmp_path: Path) -> None:
    toy = Toy()

    def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
        value, figures = toy.loss(part)
        if part.step == 3:
            value = value + (toy.head.weight * 0).sum().sqrt()
        return value, figures

    with pytest.raises(FloatingPointError, match=r"gradient's norm is nan .* at step 3: lower the rate"):
        train(tmp_path, toy, loss, SIX)
    assert all(p.isfinite().all() for p in toy.parameters())
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3


def scaled(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """A run in fp16 on the CPU. accelerate refuses that, but torch's fp16 and its gradient scaler work there."""
    run = accelerator(cpu=True)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monkeypatch.setattr(run, "native_amp", True)
    monkeypatch.setattr(type(run), "mixed_precision", "fp16")
    return run


class Layered(nn.Module):
    """A word's embedding, one layer and a head, with the same weights each time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(5, 8), nn.Linear(8, 3)
        self.layer = nn.Linear(8, 8)
        self.layers = nn.ModuleList([self.layer])

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.embedding(ids)))
        return logits


def layered_loss(module: Layered, huge: Collection[int] = ()) -> Loss:
    """In the steps `huge`, the gradient of the layer's matrix overflows once it is scaled; the loss is the same."""

    def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
        ids = torch.randint(5, (6,), generator=torch.Generator().manual_seed(part.step))
        value = F.cross_entropy(module(ids).float(), ids % 3)
        if part.step in huge:
            value = value + 1e36 * (module.layer.weight - module.layer.weight.detach()).sum()
        return value, {}

    return loss


BOTH = pytest.mark.parametrize("muon", [0.0, 2.0])
"""AdamW alone, and with Muon."""


@BOTH
def test_scaled_gradients_are_unscaled_once_before_they_are_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, muon: float
) -> None:
    """torch refuses to unscale a second time."""
    schedule = dataclasses.replace(SIX, muon=muon, clip=0.1)
    for name in ("plain", "scaled"):
        module = Layered()
        with monkeypatch.context() as patched:
            run = scaled(patched) if name == "scaled" else None
            assert train(tmp_path / name, module, layered_loss(module), schedule, run=run, micro_batches=2)
    for figure in ("loss", "gradient"):
        plain, half = ([line[figure] for line in log(tmp_path / name)] for name in ("plain", "scaled"))
        assert half == pytest.approx(plain, rel=0.03), "fp16 rounds, no more"
    assert [line["skipped"] for line in log(tmp_path / "scaled")] == [0.0] * 6


@BOTH
def test_a_step_that_overflows_changes_nothing_but_the_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, muon: float
) -> None:
    module, run, before = Layered(), scaled(monkeypatch), list[Tensor]()
    overflowing = layered_loss(module, huge=(2,))

    def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
        if part.index == 0:
            before.append(torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()]))
        return overflowing(part)

    assert train(tmp_path, module, loss, dataclasses.replace(SIX, muon=muon), run=run, micro_batches=2)
    same = [torch.equal(one, other) for one, other in itertools.pairwise(before)]
    assert same == [False, False, True, False, False]
    assert before[-1].isfinite().all()
    assert run.scaler is not None
    assert run.scaler.get_scale() == 512.0
    lines = [line for line in log(tmp_path) if "loss" in line]
    assert [line["skipped"] for line in lines] == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert ["gradient" in line for line in lines] == [True, True, False, True, True, True], "infinite is no figure"


@BOTH
def test_a_killed_run_in_fp16_resumes_with_its_scale_float_for_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, muon: float
) -> None:
    schedule = dataclasses.replace(SIX, muon=muon)
    scales: dict[str, float] = {}

    def trained(folder: Path, kill_at: int = -1) -> dict[str, Tensor]:
        module = Layered()
        plain = layered_loss(module, huge=(1,))

        def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
            if part.step == kill_at:
                raise KeyError("power cut")
            return plain(part)

        with monkeypatch.context() as patched:
            run = scaled(patched)
            train(folder, module, loss, schedule, run=run)
            assert run.scaler is not None
            scales[folder.name] = run.scaler.get_scale()
        return module.state_dict()

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyError, match="power cut"):
        trained(tmp_path / "cut", kill_at=4)
    for name, tensor in trained(tmp_path / "cut").items():
        assert torch.equal(tensor, whole[name]), name
    assert scales == {"whole": 512.0, "cut": 512.0}


def test_gradients_that_overflow_at_every_scale_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every step would be skipped, without a word."""
    module, run = Layered(), scaled(monkeypatch)
    before, plain = {name: tensor.clone() for name, tensor in module.state_dict().items()}, layered_loss(module)

    def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
        value, figures = plain(part)
        return value + (module.head.weight * 0).sum().sqrt(), figures

    with pytest.raises(FloatingPointError, match=r"gradient's norm is nan .* at step 10: lower the rate"):
        train(tmp_path, module, loss, dataclasses.replace(SIX, steps=40), run=run)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_precision_that_cannot_be_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        accelerator(cpu=True, precision="fp16")
    accelerator(cpu=True)
    with pytest.raises(InputError, match=r"Training in bf16 is not possible here.* new process"):
        accelerator(cpu=True, precision="bf16")


class Numbers(torch.utils.data.IterableDataset):
    def __init__(self, offset: int, seed: int) -> None:
        self.values = torch.randint(1000, (5,), generator=torch.Generator().manual_seed(seed)) + offset

    def __iter__(self) -> Iterator[float]:
        return iter(self.values.tolist())


def fresh(number: int) -> int:
    return first(partial(Numbers, 10), 3, number)


def test_item_of_a_feed_depends_only_on_its_number() -> None:
    alone = [Feed(fresh).at(number) for number in range(6)]
    assert len(set(alone)) > 1
    feed = Feed(fresh, workers=1, stride=2)
    state = torch.get_rng_state()
    assert [feed.at(number) for number in (0, 2, 4, 1, 3)] == [alone[number] for number in (0, 2, 4, 1, 3)]
    assert torch.equal(torch.get_rng_state(), state), "the training's own random numbers are not touched"


def test_all_tensors_of_an_item_are_moved_and_the_rest_is_kept() -> None:
    part = Part(3)
    stage = Stage("vision", (), "", Schedule(steps=1), batch=1, frames=2)
    item = [VisibleObjects(*torch.ones(4, 2)), (torch.ones(1), "word", part), stage]
    seen, (tensor, word, same), plan = moved(item, torch.device("meta"))
    assert {seen.attributes.device.type, seen.motion.device.type, tensor.device.type} == {"meta"}
    assert (seen.look, word, same, plan) == (None, "word", part, stage)
    assert Feed(torch.tensor, device=torch.device("meta")).at(3).is_meta


def test_muon_trains_matrices_of_layers_and_adamw_the_rest() -> None:
    module = Layered()
    optimiser = optimiser_of(module, 2.0, (0.9, 0.98), 0.0)
    by_muon, by_adamw = optimiser.param_groups
    assert [matrix.data_ptr() for matrix in by_muon["params"]] == [module.layer.weight.data_ptr()]
    assert len(by_adamw["params"]) == 4
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = module.layer.weight.detach().clone()
    for group in optimiser.param_groups:
        group["lr"] = 0.01
    optimiser.step()
    moved = torch.linalg.svdvals(before - module.layer.weight.detach())
    assert float(moved.min()) > 0.4 * float(moved.max()), "every direction moves about as far"


def test_a_killed_run_with_muon_resumes_float_for_float(tmp_path: Path) -> None:
    schedule = dataclasses.replace(SIX, muon=2.0)

    def run(folder: Path, kill_at: int = -1) -> dict[str, Tensor]:
        module = Layered()

        def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
            if part.step == kill_at:
                raise KeyError("power cut")
            ids = torch.randint(5, (6,), generator=torch.Generator().manual_seed(part.step))
            return F.cross_entropy(module(ids), ids % 3), {}

        train(folder, module, loss, schedule)
        return module.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyError, match="power cut"):
        run(tmp_path / "cut", kill_at=4)
    for name, tensor in run(tmp_path / "cut").items():
        assert torch.equal(tensor, whole[name])
