"""What happens around every call: it is counted and timed, and refused when somebody asks for too much."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import grpc

from redraft.server.config import LimitsConfig
from redraft.server.logs import Throttle, event
from redraft.server.metrics import Metrics
from redraft.server.security import is_open
from redraft.v1 import service_pb2

_LOG = logging.getLogger("redraft.server")

METHODS = {
    f"/{service.full_name}/{method.name}": method.name
    for service in service_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Full name of each call of the protocol -> its name in metrics."""

_BURST = 2.0
"""Seconds' worth of a rate that may come at once."""
_MAX_PEERS = 10_000

Around = Callable[[grpc.ServicerContext], AbstractContextManager[None]]


def wrap(handler: Any, around: Around) -> Any:
    """Return a gRPC method handler whose behaviour runs inside `around(context)`."""
    if handler.response_streaming:
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with around(context):
                yield from inner(request, context)

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, handler.request_deserializer, handler.response_serializer)
    inner = handler.stream_unary if handler.request_streaming else handler.unary_unary

    def unary(request: Any, context: grpc.ServicerContext) -> Any:
        with around(context):
            return inner(request, context)

    make = (
        grpc.stream_unary_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(unary, handler.request_deserializer, handler.response_serializer)


class MeteringInterceptor(grpc.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Counts and times every call. Must be the first interceptor, so that it sees what the others refuse."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the call's handler, metered."""
        handler = continuation(details)
        if handler is None:
            return None
        # A client chooses the name, so names that the protocol does not have must not become labels.
        method = METHODS.get(details.method, "health" if is_open(details.method) else "other")
        return wrap(handler, lambda context: self._metered(method, context))

    @contextlib.contextmanager
    def _metered(self, method: str, context: Any) -> Iterator[None]:
        started = self._metrics.begin_call(method)
        ended = False
        try:
            yield
            ended = True
        finally:
            code = context.code()
            if code is None:
                gone = not context.is_active()
                code = (
                    grpc.StatusCode.CANCELLED
                    if gone
                    else grpc.StatusCode.OK
                    if ended
                    else grpc.StatusCode.UNKNOWN
                )
            self._metrics.end_call(method, code.name, started)


class LimitingInterceptor(grpc.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Refuses calls beyond what LimitsConfig allows at once and a second, for all and for each peer.

    A peer is a host: everything that comes from one IP address. Python's gRPC shows neither connections nor their
    rate; a connection is noticed at its first call. Health checks are never refused.
    """

    def __init__(self, limits: LimitsConfig, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._lock = threading.Lock()
        self._open = 0
        self._open_of: Counter[str] = Counter()
        self._calls = _Rates(limits.peer_call_rate)
        self._connections = _Rates(limits.peer_connection_rate)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._throttle = Throttle()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the call's handler, limited."""
        handler = continuation(details)
        if handler is None or is_open(details.method):
            return handler
        return wrap(handler, self._limited)

    @contextlib.contextmanager
    def _limited(self, context: Any) -> Iterator[None]:
        connection = context.peer()
        peer = host_of(connection)
        with self._lock:
            refusal = self._refusal(peer, connection)
            if refusal is None:
                self._open += 1
                self._open_of[peer] += 1
        if refusal is not None:
            self._refuse(context, peer, *refusal)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                self._open_of[peer] -= 1
                if not self._open_of[peer]:
                    del self._open_of[peer]

    def _refusal(self, peer: str, connection: str) -> tuple[str, str] | None:
        limits, now = self._limits, time.monotonic()
        if connection not in self._known:
            if not self._connections.take(peer, now):
                rate = limits.peer_connection_rate
                return "peer_connection_rate", f"more than {rate} new connections a second from one host"
            self._known[connection] = None
            if len(self._known) > _MAX_PEERS:
                self._known.popitem(last=False)
        if not self._calls.take(peer, now):
            return "peer_call_rate", f"more than {limits.peer_call_rate} calls a second from one host"
        if self._open_of[peer] >= limits.peer_calls:
            return (
                "peer_calls",
                f"more than {limits.peer_calls} calls at once from one host, streams included",
            )
        if self._open >= limits.calls:
            return "calls", f"more than {limits.calls} calls at once, streams included"
        return None

    def _refuse(self, context: Any, peer: str, limit: str, text: str) -> None:
        self._metrics.count_refused_call(limit)
        if self._throttle.allows(peer, limit):
            event(_LOG, logging.WARNING, "calls refused", limit=limit, peer=peer, reason=text)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{limit}: {text}; try again later")


class _Rates:
    """Token buckets, one for each peer; those that were not used for longest are forgotten, that is, full again."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str, now: float) -> bool:
        """Take one, if there is one."""
        full = _BURST * self._rate
        level, at = self._buckets.get(peer, (full, now))
        level = min(level + (now - at) * self._rate, full)
        allowed = level >= 1.0
        self._buckets[peer] = (level - allowed, now)
        self._buckets.move_to_end(peer)
        if len(self._buckets) > _MAX_PEERS:
            self._buckets.popitem(last=False)
        return allowed


def host_of(peer: str) -> str:
    """Return gRPC's name of a peer ("ipv4:1.2.3.4:567", "ipv6:[::1]:567", "unix:...") without the port."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
