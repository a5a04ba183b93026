"""Puts the parts together: a server that can be embedded (`create_server`), and the process around it (`serve`)."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from redraft._version import __version__
from redraft.errors import AlreadyExists
from redraft.server import status_page
from redraft.server.certificates import Certificates
from redraft.server.config import ServerConfig, split_address
from redraft.server.encoded import EncodedResponses
from redraft.server.history import History
from redraft.server.interceptors import LimitingInterceptor, MeteringInterceptor
from redraft.server.logs import event
from redraft.server.metrics import Metrics
from redraft.server.security import TokenInterceptor
from redraft.server.service import DraftService
from redraft.server.sqlite_history import SqliteHistory
from redraft.server.web import StatusApplication, WebServer, guarded
from redraft.v1 import service_pb2, service_pb2_grpc

_LOG = logging.getLogger("redraft.server")

_PATIENCE = 1.0
"""Seconds for messages to leave after the calls that sent them have ended."""
_POLL = 0.05
_SPARE_THREADS = 32

SERVICE_NAME = service_pb2.DESCRIPTOR.services_by_name["DraftService"].full_name


class DraftServer:
    """A draft server that listens already but does not answer before `start`. Made by `create_server`."""

    def __init__(
        self,
        server: grpc.Server,
        health_service: health.HealthServicer,
        history: History,
        service: DraftService,
        address: str,
        web: WebServer | None = None,
    ) -> None:
        self._server = server
        self._health = health_service
        self._history = history
        self._service = service
        self._stopped = threading.Event()
        self._stop_lock = threading.Lock()
        self.address = address
        """host:port that clients connect to."""
        self._web = web
        self.metrics_address = web.address if web is not None else ""
        """host:port of the metrics port; empty = none."""

    def start(self) -> None:
        """Begin to answer; returns at once."""
        self._server.start()
        if self._web is not None:
            self._web.start()
        for name in ("", SERVICE_NAME):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float) -> None:
        """Refuse new calls, let running ones finish for `grace` seconds, then close the history.

        May be called more than once; returns when everything has stopped.
        """
        with self._stop_lock:
            if self._stopped.is_set():
                return
            self._health.enter_graceful_shutdown()
            ended = self._server.stop(grace)
            self._service.end_streams()
            self._wait_for_calls(ended, grace)
            self._service.close()
            self._history.close()
            if self._web is not None:
                self._web.close()  # last, so that launchers can see the server drain
            self._stopped.set()

    def _wait_for_calls(self, ended: threading.Event, grace: float) -> None:
        """Wait for gRPC's word that all calls have ended, or for our own count of them.

        gRPC forgets, rarely, that it has sent the status of a call whose client hung up just then, and its word never
        comes (seen with grpcio 1.85 as an RPC state whose only due operation is send_status_from_server).
        """
        deadline = time.monotonic() + grace + _PATIENCE
        idle = 0.0
        while not ended.wait(_POLL) and time.monotonic() < deadline and idle < _PATIENCE:
            idle = idle + _POLL if self._service.calls == 0 else 0.0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped; False when `timeout` seconds passed before that."""
        return self._stopped.wait(timeout)


def create_server(config: ServerConfig) -> tuple[DraftServer, int]:
    """Open the history, bind the port and return (server, port); call `start` on the server to serve.

    Raises:
        AlreadyExists: the port or the data directory is in use.
        FailedPrecondition: the data directory cannot be used.
        DataLoss: the history in it is damaged beyond reading.
    """
    parts = contextlib.ExitStack()
    with parts:
        history = SqliteHistory(config.data_directory, retention=config.retention)
        parts.callback(history.close)
        limits, metrics = config.limits, Metrics()
        certificates, tokens = config.security.certificates(), config.security.tokens()
        interceptors: list[grpc.ServerInterceptor] = [
            MeteringInterceptor(metrics),
            LimitingInterceptor(limits, metrics),
        ]
        if tokens is not None:
            interceptors.append(TokenInterceptor(tokens))
        interceptors.append(EncodedResponses())
        # Calls beyond the limit still need a thread to be refused by, with the limit's name; what exceeds that too
        # gRPC refuses on its own, nameless and uncounted.
        threads = limits.calls + _SPARE_THREADS
        server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="redraft-call"),
            interceptors=interceptors,
            maximum_concurrent_rpcs=threads,
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_send_message_length", limits.message_bytes),
                # Without this a second server on the same port starts happily and takes half of the connections.
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        health_service = health.HealthServicer()
        health_service.set(SERVICE_NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
        if config.reflection:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        port = _bind(server, config.address, certificates)
        service = DraftService(config, history, metrics)
        parts.callback(service.close)
        register: Any = service_pb2_grpc.add_DraftServiceServicer_to_server  # generated code is untyped
        register(service, server)
        web = None
        if config.metrics_address:
            guard = guarded(config.metrics_address)
            application = StatusApplication(
                metrics.registry,
                page=lambda: status_page.render(service.stats()),
                ready=lambda: _is_serving(health_service),
                tokens=tokens if guard else None,
            )
            web = WebServer(config.metrics_address, application, certificates if guard else None)
        parts.pop_all()
    host, _ = split_address(config.address)
    shown = f"[{host}]" if ":" in host else host
    return DraftServer(server, health_service, history, service, f"{shown}:{port}", web), port


def _bind(server: grpc.Server, address: str, certificates: Certificates | None) -> int:
    try:
        if certificates is None:
            port: int = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, certificates.grpc_credentials())
    except RuntimeError:
        port = 0
    if port == 0:
        raise AlreadyExists(f"address: cannot listen on {address}; is another server using the port?")
    return port


def _shows_tls(config: ServerConfig) -> bool:
    return config.security.encrypted and guarded(config.metrics_address)


def _is_serving(health_service: health.HealthServicer) -> bool:
    answer = health_service.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME), None)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def serve(
    config: ServerConfig, *, ready_file: Path | None = None, announce: Callable[[str], None] = print
) -> None:
    """Serve until SIGTERM or SIGINT, then stop gracefully. Call it on the main thread.

    Args:
        config: the server's configuration.
        ready_file: written with "host:port" once the server answers, and removed when it stops.
        announce: is given the line "listening on host:port", and "metrics on http://host:port/" if there is such a
            port.
    """
    server, _ = create_server(config)
    wanted = threading.Event()

    def stop(number: int, _frame: object) -> None:
        event(_LOG, logging.INFO, "draining", signal=signal.Signals(number).name, grace_seconds=config.grace)
        wanted.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.start()
    if ready_file is not None:
        temporary = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
        temporary.write_text(f"{server.address}\n")
        temporary.replace(ready_file)  # a launcher that polls never sees half a line
    event(
        _LOG,
        logging.INFO,
        "listening",
        address=server.address,
        version=__version__,
        data=config.data_directory,
        encrypted=config.security.encrypted,
        authenticated=config.security.authenticated,
    )
    announce(f"listening on {server.address}")
    if server.metrics_address:
        announce(f"metrics on http{'s' if _shows_tls(config) else ''}://{server.metrics_address}/")
    wanted.wait()
    server.stop(config.grace)
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    event(_LOG, logging.INFO, "stopped")
