"""``hooker metrics --listen``: the counts of all live engines by HTTP, for a Prometheus server.

Whoever can connect may send anything, and stand still: connections are bounded in number and time, and
engines are asked at most once a second, however many ask us. No name is looked up.
"""

from __future__ import annotations

import io
import ipaddress
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from hooker import checks
from hooker.errors import ConfigurationError, HookerError
from hooker.metrics import Collector, Replies

DEFAULT_ADDRESS = "127.0.0.1"
FRESH = 1.0  # s that an answer is given again, instead of asking the engines once more
WITHIN = 8.0  # s for their answers: a Prometheus server waits for 10
MOST = 16  # connections at once; further ones are closed
SILENCE = 5.0  # s that a client may say, or take, nothing
LONGEST = 20.0  # s for all of one connection
LOOK = 0.5  # s between two looks whether one lasts longer
PATH = "/metrics"
NO_VERSION = re.compile(r"version=(?!\s*[0-9]{1,4}(\.[0-9]{1,4}){0,3}\s*([;,]|$))")
ACCEPT_PAUSE = 0.1  # s, after a connection could not be accepted

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Shared(Collector):
    """Who collects while another does, or soon after, gets the same."""

    def __init__(self) -> None:
        super().__init__(within=WITHIN)
        self._asking = threading.Lock()
        self._last: Replies = ()
        self._until = 0.0

    def replies(self) -> Replies:
        with self._asking:
            if time.monotonic() >= self._until:
                self._last = super().replies()
                self._until = time.monotonic() + FRESH
            return self._last


def parse_address(text: str) -> tuple[Address, int]:
    """``[ADDRESS:]PORT``, an IPv6 address in brackets. Raises ConfigurationError."""
    host, _, port = text.rpartition(":")
    remedy = "give [ADDRESS:]PORT, as in 9753, 10.0.0.1:9753 or [::1]:9753"
    number = checks.integer("port", port, 0, 65535, remedy=remedy)
    if not host and text != port:
        raise ConfigurationError(f"{text!r} has no address", remedy=remedy)
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address((host[1:-1] if bracketed else host) or DEFAULT_ADDRESS)
        if bracketed != (address.version == 6):
            raise ValueError
    except ValueError:
        raise ConfigurationError(f"{text!r} has no IP address before its port", remedy=remedy) from None
    return address, number


class _Handler(WSGIRequestHandler):
    timeout = SILENCE

    def log_message(self, format: str, *values: Any) -> None:
        """Scrapes are no news."""

    def get_stderr(self) -> io.StringIO:
        """Nor are clients that are gone before they have their answer."""
        return io.StringIO()


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """Serves until the context is left; a thread for each connection.

    ``url``: where. Raises ConfigurationError when the address cannot be had.
    """

    daemon_threads = True
    request_queue_size = MOST

    def __init__(self, address: Address, port: int) -> None:
        self.address_family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._open: dict[socket.socket, float] = {}  # since when
        self._using = threading.Lock()
        host = f"[{address}]" if address.version == 6 else f"{address}"
        try:
            super().__init__((str(address), port), _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                remedy="choose another address or port",
            ) from None
        self.url = f"http://{host}:{self.server_port}{PATH}"
        registry = CollectorRegistry()
        registry.register(Shared())
        self.set_app(_told(make_wsgi_app(registry)))  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self.serve_forever, args=(LOOK,), name="hooker-metrics")

    def server_bind(self) -> None:
        """Without a look at the name of this host, which may take any time."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def get_request(self) -> Any:
        """Without a descriptor for it, it stays where it is, and would be found again at once."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._using:
            full = len(self._open) >= MOST
            if not full:
                self._open[request] = time.monotonic()
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._using:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called between connections, and every LOOK: ends those that last too long."""
        end = time.monotonic() - LONGEST
        with self._using:
            late = [one for one, since in self._open.items() if since < end]
            for one in late:
                try:
                    one.shutdown(socket.SHUT_RDWR)  # its thread then fails, and closes it
                except OSError:
                    pass  # its client was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go, stand still or are cut off are no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


def _told(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """What goes wrong is the answer, and in no log, which others could fill."""

    def told(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"there is {PATH}\n".encode()]
        if NO_VERSION.search(environ.get("HTTP_ACCEPT", "")):
            # which the library fails at; RFC 9110, 12.5.1 lets us disregard it
            del environ["HTTP_ACCEPT"]
        try:
            return app(environ, start_response)
        except HookerError as error:
            status, text = "503 Service Unavailable", str(error)
        except Exception as error:
            status, text = "500 Internal Server Error", f"{type(error).__name__}: {error}"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    return told
