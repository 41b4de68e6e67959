"""The commands `trajseg worker` and `trajseg serve`."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from backend.settings import Settings


@click.command()
@click.option("--burst", is_flag=True, help="End when the queues are empty.")
def worker(burst: bool) -> None:
    """Do jobs: load the model once, then empty the queues.

    Ctrl-C or SIGTERM once finishes the job at hand first; twice gives it back to the queue.
    """
    from worker.resident import work

    settings = _settings()
    _log(settings)
    work(settings, burst=burst)


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, 0 for a free one.  [default: 9090]")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for everything kept.")
@click.option("--model", help="A shipped model, a checkpoint folder, or package.module:factory.")
@click.option("--device", help="cpu, cuda, cuda:1 ...")
def serve(**given: Any) -> None:
    """Run everything on this machine: queue, backend, reconciler and one worker.

    Starts its own Valkey unless REDIS_URL is set, and keeps everything in SQLite unless DATABASE_URL is set.
    """
    from worker.serve import Serve

    settings = _settings(**{name: value for name, value in given.items() if value is not None})
    _log(settings)
    service = Serve(settings, click.echo)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.stopping.set())
    service.run()


def _settings(**given: Any) -> Settings:
    """The settings of the environment with what the command line says; InputError for one that cannot be."""
    from pydantic import ValidationError

    from backend.settings import Settings
    from trajseg.errors import InputError

    try:
        return Settings(**given)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(f"A setting cannot be: {told}.", "docs/settings.md lists them all.") from error


def _log(settings: Settings) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("trajseg").setLevel(logging.INFO)
    if not settings.label_studio_api_key.get_secret_value():
        # Said once at the start, and with every job over HTTP: no need to repeat it at every try.
        logging.getLogger("trajseg.delivery").setLevel(logging.ERROR)


commands = [serve, worker]
