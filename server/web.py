"""The metrics port: /metrics for Prometheus, a status page for people, /healthz and /readyz for launchers."""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from redraft.errors import AlreadyExists, FailedPrecondition, Unavailable
from redraft.server.certificates import Certificates
from redraft.server.config import is_loopback, split_address
from redraft.server.logs import event
from redraft.server.security import TokenSource

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_LOG = logging.getLogger("redraft.server")
_HEADERS = [
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
]
_MAX_CONNECTIONS = 64


class StatusApplication:
    """The WSGI application behind the metrics port. Only GET and HEAD; nothing can be changed through it.

    Args:
        registry: what /metrics shows.
        page: makes the status page, HTML.
        ready: whether the server answers calls now.
        tokens: the bearer token that /metrics and the page ask for, or None. It may also be sent as the password of
            HTTP's basic authentication, which browsers ask for. The health checks need none.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        page: Callable[[], str],
        ready: Callable[[], bool],
        tokens: TokenSource | None,
    ) -> None:
        self._metrics: Callable[..., Any] = make_wsgi_app(registry)
        self._page = page
        self._ready = ready
        self._tokens = tokens

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "/")

        def answer(
            status: HTTPStatus, text: str, kind: str = "text/plain", *more: tuple[str, str]
        ) -> list[bytes]:
            body = text.encode(errors="replace")
            head = [
                ("Content-Type", f"{kind}; charset=utf-8"),
                ("Content-Length", str(len(body))),
                *_HEADERS,
                *more,
            ]
            start_response(f"{status.value} {status.phrase}", head)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return answer(
                HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n", "text/plain", ("Allow", "GET, HEAD")
            )
        if path == "/healthz":
            return answer(HTTPStatus.OK, "ok\n")
        if path == "/readyz":
            ready = self._ready()
            return answer(
                HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
                "ready\n" if ready else "not ready\n",
            )
        if not self._allowed(environ.get("HTTP_AUTHORIZATION", "")):
            ask = ("WWW-Authenticate", 'Basic realm="redraft"')
            text = "authorization: the bearer token is missing or wrong\n"
            return answer(HTTPStatus.UNAUTHORIZED, text, "text/plain", ask)
        try:
            if path == "/metrics":
                body: Iterable[bytes] = self._metrics(environ | {"REQUEST_METHOD": "GET"}, start_response)
                return [] if environ["REQUEST_METHOD"] == "HEAD" else body
            if path == "/":
                return answer(HTTPStatus.OK, self._page(), "text/html")
        except Unavailable as error:  # the server is stopping
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n")
        except Exception:
            _LOG.exception("the metrics port failed at %s", path)
            return answer(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the server's log has the details\n"
            )
        return answer(HTTPStatus.NOT_FOUND, "there are /, /metrics, /healthz and /readyz\n")

    def _allowed(self, header: str) -> bool:
        if self._tokens is None:
            return True
        scheme, _, given = header.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return self._tokens.matches(given)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    certificates: Certificates | None = None
    _context: ssl.SSLContext | None = None
    _seen: object = None

    def __init__(self, host: str, port: int) -> None:
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def server_bind(self) -> None:
        # As HTTPServer does, but without its look-up of the host's name, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        request, address = super().get_request()
        request.settimeout(_Handler.timeout)
        if self.certificates is None:
            return request, address
        seen = self.certificates.identities()
        if seen != self._seen or self._context is None:
            self._seen = seen
            with contextlib.suppress(FailedPrecondition):  # keep what was good; gRPC's side reports it
                self._context = self.certificates.context()
        assert self._context is not None
        # The handshake comes with the first read, on the request's own thread: a client that says nothing blocks it
        # and nobody else.
        return (
            self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False),
            address,
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        _LOG.debug("the metrics port lost a client", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = 10.0

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: scrapes are not events."""


class WebServer:
    """Serves an application over HTTP, on threads of its own.

    Args:
        address: host:port; port 0 takes a free one.
        application: what answers.
        certificates: TLS, or None for plaintext.

    Raises:
        AlreadyExists: the port is in use.
        FailedPrecondition: the address cannot be listened on, or the TLS files cannot be used.
    """

    def __init__(
        self, address: str, application: StatusApplication, certificates: Certificates | None
    ) -> None:
        host, port = split_address(address)
        try:
            self._server = _Server(host, port)
        except OSError as error:
            raise AlreadyExists(
                f"metrics_address: cannot listen on {address}: {error.strerror}; is another server using the port?"
            ) from None
        self._server.set_app(application)
        self._server.certificates = certificates
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_port}"
        """host:port that it listens on."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="redraft-metrics", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        event(_LOG, logging.INFO, "metrics served", address=self.address)

    def close(self) -> None:
        """Stop and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def guarded(address: str) -> bool:
    """Return whether the metrics port asks for what the gRPC port asks for: it does beyond this machine."""
    return not is_loopback(split_address(address)[0])
