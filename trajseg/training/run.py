"""The training loop: one or several processes, gradient accumulation, exact resume, logs and warnings.

A step depends only on its number: its data (the loss receives a numbered part of a numbered step), its random numbers
(seeded by step and part), and its rate. So on one CPU, a run that was stopped and resumed is float for float the same
as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from trajseg.errors import CheckpointError, InputError
from trajseg.files import whole_file
from trajseg.training.health import Health, gradient_norms, learning_parts, not_finite
from trajseg.training.journal import Journal
from trajseg.training.optimiser import optimiser_of

FLOOR = 0.05
"""Final rate of a cosine schedule, as a fraction of the peak."""
SMALLEST_SCALE = 1.0
"""fp16: if gradients still overflow below this scale of the loss, the cause is not the range of the format."""


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a training: warm-up to `lr` over `warmup` steps, then decay.

    The decay is a cosine to 0.05 of the peak, or linear to 0 (the paper's). After `minutes` a run stops; starting the
    same training again resumes it exactly.

    If `muon` > 0, hidden-layer matrices use Muon with lr x `muon`; see optimiser.

    The state is saved every `save_every` steps, and whenever `save_minutes` have passed since the last time.
    """

    steps: int
    minutes: float = math.inf
    lr: float = 3e-4
    warmup: int = 50
    clip: float = 1.0
    weight_decay: float = 0.01
    log_every: int = 50
    save_every: int = 200
    save_minutes: float = 5.0
    decay: Literal["cosine", "linear"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.98)
    muon: float = 0.0

    def deciding(self) -> dict[str, Any]:
        """The fields that affect the result: not the length of a run, nor how often it logs and saves."""
        without = ("minutes", "log_every", "save_every", "save_minutes")
        return {name: value for name, value in asdict(self).items() if name not in without}

    def over(self, step: int, used: float) -> bool:
        """Whether a run ends before 0-based step `step`, `used` seconds after the training began."""
        return step >= self.steps or used >= self.minutes * 60

    def rate(self, step: int) -> float:
        """The learning rate of 0-based step `step`."""
        share = step / self.steps
        up = min(1.0, (step + 1) / max(1, self.warmup))
        if self.decay == "cosine":
            return self.lr * up * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * share)))
        warm = min(0.99, self.warmup / self.steps)
        return self.lr * min(up, (1 - share) / (1 - warm))


@dataclass(frozen=True)
class Part:
    """Part `index` (0-based) of the `count` equal parts of the global batch of 0-based step `step`.

    There are processes x micro-batches parts. The loss of a part is a mean over its samples, so the mean over the parts
    is that of the whole batch, however it is divided.
    """

    step: int
    index: int = 0
    count: int = 1

    @property
    def number(self) -> int:
        """Position of this part in the sequence of all parts of all steps."""
        return self.step * self.count + self.index


Loss = Callable[[Part], tuple[Tensor, dict[str, float]]]
"""A part's loss, a mean over its samples, and figures to log; figures missing in a step are left out of the mean."""
Stop = Callable[[], bool]
"""Whether the training should end after the current step; called before every step."""
StepsDone = Callable[[int, int], None]
"""Called with (steps done, steps in total) before every step and at the end; an exception ends the run at once."""


def accelerator(cpu: bool | None = None, precision: str = "no") -> Accelerator:
    """This process's part in the training: alone, or one of those started by torchrun or `accelerate launch`.

    Args:
        cpu: stay on the CPU; by default only if there is no GPU.
        precision: "no" (float32), "bf16" or "fp16".

    Raises:
        InputError: the device does not support the precision, or this process has trained in another one.
    """
    # A batch may not use every part: it may have no captions, or only masks.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    cpu = not torch.cuda.is_available() if cpu is None else cpu
    if cpu and precision == "fp16":
        raise InputError("Training in fp16 needs a GPU.", "Use --precision bf16 or no.")
    try:
        return Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[unused])
    except ValueError as error:
        raise InputError(
            f"Training in {precision} is not possible here: {error}", "Use another --precision, or a new process."
        ) from error


def train(
    folder: Path,
    module: nn.Module,
    loss: Loss,
    schedule: Schedule,
    report: Callable[[], dict[str, float]] | None = None,
    *,
    seed: int = 0,
    micro_batches: int = 1,
    whole: bool = True,
    times: Mapping[nn.Parameter, float] | None = None,
    run: Accelerator | None = None,
    stop: Stop = lambda: False,
    progress: StepsDone = lambda _done, _total: None,
) -> bool:
    """Trains `module`'s parameters that require gradients until the schedule ends.

    In fp16, a step whose scaled gradients overflow changes no weights; it counts as a step, and is logged as `skipped`.

    Args:
        folder: receives `state.pt` (weights, optimiser, fp16's scale, step, seconds used), `log.jsonl` and
            `tensorboard/`; an existing state is resumed.
        module: already on its device.
        loss: computes the loss of a part of a step; it must depend only on the part, and keep no state.
        report: slower figures, computed at every save.
        seed: of the random numbers used by the loss.
        micro_batches: parts of a step that each process handles in sequence (gradient accumulation).
        whole: save all weights; False saves only the trained ones.
        times: rates per parameter, in units of the schedule's; the default is 1.
        run: the processes; defaults to this one alone, or those that were launched, on the module's device.
        stop: ends the run for now. Signals are not handled here; a command passes `signals_stop()`.
        progress: called in the first process only.

    Returns:
        Whether the schedule is complete. If not, the next call resumes from here: either `stop` ended the run, or the
        schedule's minutes ran out.

    Raises:
        FloatingPointError: the loss or its gradient is not finite (in fp16: at any scale); the last saved state is
            kept.
        CheckpointError: the state in `folder` belongs to another module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = run or accelerator(cpu=next(module.parameters()).device.type == "cpu")
    scaler: Any = run.scaler
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser: Any = optimiser_of(module, schedule.muon, schedule.betas, schedule.weight_decay, times)
    state_file = folder / "state.pt"
    step, used = _load(state_file, module, optimiser, scaler) if state_file.exists() else (0, 0.0)
    # With several processes, hooks are attached to a module's forward, so the loss takes its place.
    stepper = run.prepare_model(_Loss(module, loss), device_placement=False)
    optimiser = run.prepare_optimizer(optimiser, device_placement=False)
    parts, health = learning_parts(module), Health.of(module)
    count = run.num_processes * micro_batches
    mine = range(run.process_index, count, run.num_processes)
    seen: dict[str, list[float]] = {}
    started = time.monotonic() - used
    saved = time.monotonic()

    def save() -> None:
        nonlocal saved
        saved = time.monotonic()
        if run.is_main_process:
            _save(state_file, module, optimiser, scaler, step, time.monotonic() - started, whole)

    def log(rate: float) -> None:
        means = _agreed(run, {name: fmean(each) for name, each in sorted(seen.items())})
        figures = {name: round(mean, 4) for name, mean in means.items()}
        if report and run.is_main_process and step % schedule.save_every == 0:
            figures |= report()
        journal.line(
            step, _left(schedule, step, used), {"minutes": round(used / 60, 2), "lr": round(rate, 8), **figures}
        )
        seen.clear()

    with Journal(folder, step, schedule.steps, quiet=not run.is_main_process) as journal:
        while True:
            if run.is_main_process:
                progress(step, schedule.steps)
            now = _agreed(run, {"used": time.monotonic() - started, "stop": float(stop())})
            used, stopped = now["used"], now["stop"] > 0
            if stopped or schedule.over(step, used):
                break
            rate = schedule.rate(step)
            for group in optimiser.param_groups:
                group["lr"] = rate * group.get("times", 1.0)
            optimiser.zero_grad(set_to_none=True)
            figures: dict[str, float] = {"loss": 0.0}
            for index in mine:
                part = Part(step, index, count)
                torch.manual_seed(_seed(seed, part))
                last = index == mine[-1]
                with contextlib.nullcontext() if last else run.no_sync(stepper):
                    value, terms = stepper(part)
                    run.backward(value / micro_batches)
                for name, figure in {"loss": float(value.detach()), **terms}.items():
                    figures[name] = figures.get(name, 0.0) + figure / micro_batches
            run.unscale_gradients(optimiser)
            norms = gradient_norms(parts)
            # Not `run.clip_grad_norm_`, which would unscale fp16's gradients a second time.
            norm = float(nn.utils.clip_grad_norm_(parameters, schedule.clip))
            mean_loss = _agreed(run, {"loss": figures["loss"]})["loss"]
            if not math.isfinite(mean_loss) or (not math.isfinite(norm) and scaler is None):
                raise FloatingPointError(not_finite(step, mean_loss, norm, figures))
            optimiser.step()
            skipped = optimiser.step_was_skipped
            if skipped and scaler.get_scale() < SMALLEST_SCALE:
                raise FloatingPointError(not_finite(step, mean_loss, norm, figures))
            step += 1
            gradient = {} if skipped else {"gradient": norm}
            scaled = {} if scaler is None else {"skipped": float(skipped)}
            for name, figure in {**figures, **gradient, **scaled}.items():
                seen.setdefault(name, []).append(figure)
            for warning in () if skipped else health.observe(mean_loss, norms, figures):
                journal.warn(step, warning)
            journal.advance(step, mean_loss)
            if step % schedule.save_every == 0 or time.monotonic() - saved >= schedule.save_minutes * 60:
                save()
            if step % schedule.log_every == 0:
                log(rate)
        if seen:
            log(schedule.rate(step - 1))
        finished = step >= schedule.steps
        if not finished:
            journal.say(f"stopped and saved after step {step}; the same command resumes from there")
    save()
    run.wait_for_everyone()
    return finished


class _Loss(nn.Module):
    """A loss as a module's forward."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, part: Part) -> tuple[Tensor, dict[str, float]]:
        return self.loss(part)


def _seed(seed: int, part: Part) -> int:
    return random.Random(f"{seed}/{part.step}/{part.index}/{part.count}").getrandbits(63)


def _agreed(run: Accelerator, figures: dict[str, float]) -> dict[str, float]:
    """Means over the processes; all of them call this with the same names."""
    if run.num_processes == 1 or not figures:
        return figures
    values = torch.tensor(list(figures.values()), dtype=torch.float64, device=run.device)
    means: Any = run.reduce(values, "mean")
    return dict(zip(figures, means.tolist(), strict=True))


def _left(schedule: Schedule, step: int, used: float) -> str:
    return f"{step} of {schedule.steps} steps, {used / max(1, step) * (schedule.steps - step) / 60:.1f} min left"


@contextlib.contextmanager
def signals_stop() -> Iterator[Stop]:
    """For commands: a `stop` that returns true after Ctrl-C or SIGTERM. A second signal has its usual effect.

    Not for a worker, since it would replace its own handling of SIGTERM.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def receive(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        # Only a process's main thread can set these.
        with contextlib.suppress(ValueError):
            before[number] = signal.signal(number, receive)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _load(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, scaler: Any) -> tuple[int, float]:
    state = torch.load(path, weights_only=True, map_location="cpu")
    try:
        odd = module.load_state_dict(state["module"], strict=state.get("whole", True))
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is the state of another training: {error}", "Name another folder.") from error
    if odd.unexpected_keys:
        raise CheckpointError(f"{path} is the state of another training.", "Name another folder.")
    if scaler is not None and state.get("scaler"):
        scaler.load_state_dict(state["scaler"])
    return state["step"], state["seconds"]


def _save(path: Path, module: nn.Module, optimiser: Any, scaler: Any, step: int, seconds: float, whole: bool) -> None:
    weights = module.state_dict()
    if not whole:
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        weights = {name: tensor for name, tensor in weights.items() if name in trained}
    state = {
        "module": weights,
        "whole": whole,
        "optimiser": optimiser.state_dict(),
        "scaler": {} if scaler is None else scaler.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    # Into a file of Python's: on a full disk torch's own does not say so.
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        torch.save(state, file)
