"""The commands `trajseg worker` and `trajseg serve`."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trajseg.commands.loading import DEVICE, DTYPE, FOUR_BIT

if TYPE_CHECKING:
    from backend.settings import Settings


@click.command()
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@DEVICE
@DTYPE
@FOUR_BIT
def worker(burst: bool, **given: Any) -> None:
    """Run jobs: load the model once, then empty the queues.

    SIGTERM finishes the current job first; a training saves its state and returns to the queue. Ctrl-C, or a second
    SIGTERM, returns any job to the queue at once; the next run resumes after the finished frames.
    """
    from trajseg.leaving import leave
    from worker.resident import work

    settings = _settings(given)
    _log(settings)
    # Its child processes, such as decoders, inherit it.
    os.nice(settings.worker_nice)
    try:
        stopped = work(settings, burst=burst)
    except SystemExit:
        stopped = True
    if stopped:
        leave(0)


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, 0 for a free one.  [default: 9090]")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for all stored data.")
@click.option("--model", help="A shipped model, a checkpoint folder, or package.module:factory.")
@DEVICE
@DTYPE
@FOUR_BIT
def serve(**given: Any) -> None:
    """Run everything on this machine: queue, backend, reconciler and one worker.

    Starts its own Valkey unless REDIS_URL is set, and keeps everything in SQLite unless DATABASE_URL is set.
    """
    from worker.serve import Serve

    settings = _settings(given)
    _log(settings)
    service = Serve(settings, click.echo)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.stopping.set())
    service.run()


def _settings(given: dict[str, Any]) -> Settings:
    """The environment's settings, overridden by the command line; flags that are not given change nothing."""
    from backend.settings import load_settings

    return load_settings(**{name: value for name, value in given.items() if value is not None and value is not False})


def _log(settings: Settings) -> None:
    from backend.logs import log_to_stderr
    from backend.private import private_umask

    private_umask()
    log_to_stderr(settings, "%(asctime)s %(name)s: %(message)s", logging.WARNING, "%H:%M:%S")
    logging.getLogger("trajseg").setLevel(logging.INFO)
    if not settings.label_studio_api_key.get_secret_value():
        # Reported once at the start, and with every job over HTTP: no need to repeat it on every attempt.
        logging.getLogger("trajseg.delivery").setLevel(logging.ERROR)


commands = [serve, worker]
