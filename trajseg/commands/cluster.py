"""Batches on a Ray cluster: one engine and one job at a time per actor; results are written where the command runs.

Ray carries paths, instructions and tracks, never frames: every machine must see the videos under the same paths, and
have trajseg and the engine's weights installed. Label Studio's jobs continue to use RQ and the store.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajseg.bars import bars
from trajseg.commands.loading import EngineChoice
from trajseg.commands.segment import BatchJob, free_name, job_lines, parse_line, report_failure
from trajseg.engines.base import check_instruction
from trajseg.engines.registry import engine_spec
from trajseg.errors import CheckpointError, InputError, ServiceError, TrajSegError
from trajseg.files import printable
from trajseg.tracks import Result
from trajseg.video import open_clip
from trajseg.words import counted

LOCAL = "local"
"""The address that starts a cluster on this machine only, for the duration of the command."""
CONNECT_SECONDS = 10.0
ATTEMPTS = 3
"""Attempts per job if the machine running it dies."""


@dataclass(frozen=True)
class Cluster:
    """Where and how widely a batch runs.

    Args:
        address: Ray's: "local", "auto", "ray://host:10001" or "host:6379".
        workers: actors, each with its own engine; 0: one per GPU of the cluster, or one if it has none.
    """

    address: str
    workers: int = 0


class EngineActor:
    """An engine on one of the cluster's machines; `load_engine` runs there."""

    def __init__(self, model: str, device: str | None, options: dict[str, Any]) -> None:
        from trajseg.engines.registry import load_engine

        self._engine = load_engine(model, device, **options)

    def segment(self, video: str, instruction: str) -> dict[str, Any]:
        """{"result", "seconds"}, or {"error", "remedy"} if the job itself cannot be done."""
        try:
            result = self._engine.segment(open_clip(Path(video)), instruction).result()
        except TrajSegError as error:
            return {"error": error.message, "remedy": error.remedy}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}", "remedy": ""}
        return {"result": result.to_json(), "seconds": sum(result.timings.values())}


def segment_on_cluster(choice: EngineChoice, jobs: Path, out: Path, cluster: Cluster) -> None:
    """Like `segment_jobs`, on many machines; results written by an earlier run of the same engine are kept.

    Raises:
        InputError: the file cannot be read or, at the end, some lines have failed.
        CheckpointError: Ray is not installed, or no machine can load the engine.
        ServiceError: the cluster cannot be reached.
    """
    version = engine_spec(choice.model).model_version
    failed = kept = done = 0
    waiting: list[BatchJob] = []
    with bars() as bar:
        taken: set[str] = set()
        for number, line in job_lines(jobs):
            name = f"line {number}"
            try:
                data = parse_line(line)
                name = free_name(data, taken)
                job = BatchJob.parse(name, data)
                check_instruction(job.instruction)
            except Exception as error:
                failed += 1
                report_failure(bar.console, out, name, error)
                continue
            if _is_done(job, out, version):
                kept += 1
            else:
                waiting.append(job)
        if kept:
            bar.console.print(f"{counted(kept, 'job')} already done and kept.")
        task = bar.add_task("jobs", total=len(waiting))
        # Starting or reaching a cluster takes half a minute, so it is skipped if there is nothing to do.
        with _connected(cluster.address) if waiting else nullcontext():
            for job, answer in _answers(choice, waiting, cluster):
                if "error" in answer:
                    failed += 1
                    report_failure(bar.console, out, job.file_name, TrajSegError(answer["error"], answer["remedy"]))
                else:
                    done += 1
                    result = Result.from_json(answer["result"])
                    result.video = printable(job.video)
                    result.save(out / f"{job.file_name}.json")
                    (out / f"{job.file_name}.error.json").unlink(missing_ok=True)
                bar.advance(task)
        bar.console.print(f"{counted(done, 'job')} done, {kept} kept, results in {printable(str(out))}")
    if failed:
        raise InputError(f"{failed} jobs failed in {jobs}.", "The lines above say which and why.")


def _answers(choice: EngineChoice, jobs: list[BatchJob], cluster: Cluster) -> Iterator[tuple[BatchJob, dict[str, Any]]]:
    """Each job's answer as it arrives; a job whose actor dies is given to another one."""
    import ray
    from ray.exceptions import ActorDiedError, RayActorError, RayError

    if not jobs:
        return
    gpus = int(ray.cluster_resources().get("GPU", 0))
    count = min(cluster.workers or max(gpus, 1), len(jobs))
    actor_class = ray.remote(num_gpus=1 if gpus else 0, num_cpus=1, max_restarts=-1)(EngineActor)
    idle = [actor_class.remote(choice.model, choice.device, choice.options) for _ in range(count)]
    queue = [(job, 1) for job in reversed(jobs)]
    running: dict[Any, tuple[Any, BatchJob, int]] = {}
    while queue or running:
        while queue and idle:
            actor, (job, attempt) = idle.pop(), queue.pop()
            running[actor.segment.remote(job.video, job.instruction)] = (actor, job, attempt)
        [ready], _ = ray.wait(list(running), num_returns=1)
        actor, job, attempt = running.pop(ready)
        try:
            answer = ray.get(ready)
        except ActorDiedError as error:
            # Its constructor failed: other machines would fail too.
            raise CheckpointError(
                f"{choice.model} cannot be loaded in the cluster: {_cause(error)}",
                "Install trajseg and the engine's weights on every machine of the cluster.",
            ) from error
        except RayActorError as error:
            if attempt >= ATTEMPTS:
                answer = {"error": f"Its worker died {attempt} times: {_cause(error)}", "remedy": "See Ray's log."}
            else:
                queue.append((job, attempt + 1))
                idle.append(actor)
                continue
        except RayError as error:
            answer = {"error": f"Ray: {_cause(error)}", "remedy": "See Ray's log."}
        idle.append(actor)
        yield job, answer


@contextmanager
def _connected(address: str) -> Iterator[None]:
    # Otherwise Ray would send usage reports.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise CheckpointError("The package ray is not installed.", 'pip install "trajseg[cluster]"') from error
    _reach(address)
    more = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **more)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ServiceError(
            f"The Ray cluster at {address} cannot be reached: {_cause(error)}",
            "Start it (`ray start --head`), fix the address, or use --ray local.",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises ServiceError if nothing answers at host:port; Ray itself would retry for minutes, then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ServiceError(
            f"The Ray cluster at {address} cannot be reached: {error}.",
            "Start it (`ray start --head`), fix the address, or use --ray local.",
        ) from error


def _is_done(job: BatchJob, out: Path, version: str) -> bool:
    """Whether an earlier run wrote this job's result with the same engine."""
    try:
        form = json.loads((out / f"{job.file_name}.json").read_text(encoding="utf-8"))
        return [form["video"], form["instruction"], form["model_version"]] == [
            printable(job.video),
            job.instruction.strip(),
            version,
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _cause(error: BaseException) -> str:
    """The last line of one of Ray's errors, which contain the full trace from another machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
