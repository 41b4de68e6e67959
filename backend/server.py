"""The backend as a server: waitress in front of the application, and the reconciler in the background."""

from __future__ import annotations

import errno
import socket
import threading

from backend.composition import compose, settle
from backend.connections import create_server
from backend.http import auth
from backend.http.app import create_app
from backend.settings import Settings
from trajseg.errors import ServiceError

_NOT_ON_THIS_MACHINE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class BackendServer:
    """Bound to its port once constructed; serves from `start` or `run` until `stop`.

    Args:
        settings: `host`, `port` (0: any free one) and `threads` say how to listen.

    Raises:
        InputError: the address is reachable by others and no password is set.
        ServiceError: the port is taken, or the store does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        sockets = _listen(settings.host, settings.port)
        try:
            # Bound, but not accepting connections yet.
            auth.require_password(settings, [bound.getsockname()[0] for bound in sockets])
            # Links to shown frames contain the port, so it must be known before anything is wired.
            port = sockets[0].getsockname()[1]
            self.settings = settings.model_copy(update={"port": port})
            self.backend = compose(self.settings)
        except BaseException:
            for bound in sockets:
                bound.close()
            raise
        self.store, self.queue = self.backend.store, self.backend.queue
        self.app = create_app(self.backend)
        self._server = create_server(self.app, sockets, settings.threads, settings.max_request_bytes)
        self._thread = threading.Thread(target=self._server.run, name="backend", daemon=True)

    @property
    def url(self) -> str:
        """The URL it listens on, with the actual port."""
        return f"http://{self.settings.host}:{self.settings.port}"

    def start(self) -> None:
        """Serves from a background thread."""
        self.backend.reconciler.start()
        self._thread.start()

    def run(self) -> None:
        """Serves from this thread until `stop`, SIGINT or SIGTERM."""
        self.backend.reconciler.start()
        settle(self.settings)
        self._server.run()

    def stop(self) -> None:
        """Stops serving; requests in progress get a few seconds."""
        self._server.close()
        self._server.task_dispatcher.shutdown(timeout=5)
        self.backend.reconciler.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.backend.close()


def _listen(host: str, port: int) -> list[socket.socket]:
    """One bound socket for each address of `host` (`localhost` has two), all on the same port."""
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address[0], port, *address[2:]))
            except OSError as error:
                listener.close()
                if bound and error.errno in _NOT_ON_THIS_MACHINE:
                    continue
                raise
            bound.append(listener)
            port = listener.getsockname()[1]
    except OSError as error:
        for listener in bound:
            listener.close()
        raise ServiceError(
            f"The backend cannot listen on {host}:{port} ({error.strerror}).",
            "Choose another address with TRAJSEG_HOST or another port with TRAJSEG_PORT.",
        ) from error
    return bound
