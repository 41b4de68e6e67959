"""The backend's commands: `trajseg backend`, `trajseg export`, and Label Studio's `project` and `doctor`."""

from __future__ import annotations

import logging
import signal

import click

from backend.active.command import active
from backend.export_command import export
from backend.label_studio.setup.commands import doctor, project
from backend.model_commands import finetune, models
from backend.stats_command import stats


@click.command()
@click.option("--host", help="Address to listen on (TRAJSEG_HOST).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (TRAJSEG_PORT).")
def backend(host: str | None, port: int | None) -> None:
    """Answer Label Studio, and keep the queue and the deliveries going. Start workers separately."""
    from backend.logs import log_to_stderr
    from backend.private import private_umask
    from backend.server import BackendServer
    from backend.settings import load_settings

    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load_settings(**given)
    private_umask()
    log_to_stderr(settings, "%(asctime)s %(levelname)s %(name)s: %(message)s", logging.INFO)
    server = BackendServer(settings)
    click.echo(f"The backend is listening at {server.url} (model {settings.model_version()}).")

    def end(number: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    try:
        server.run()
    finally:
        server.stop()


@click.command()
def token() -> None:
    """Print the token that lets programs cancel and retry jobs.

    Send it in the header `Authorization: Bearer TOKEN`. It also opens /jobs, /projects/<id>/export and /metrics
    without a password. It is created on first use and stored in the data folder.
    """
    from backend.settings import load_settings

    click.echo(load_settings().job_token())


commands = [active, backend, token, project, doctor, export, finetune, models, stats]
