"""Channels to draft servers, and which failures are worth another try."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
from grpc.experimental import ChannelOptions

from redraft.client.credentials import Credentials
from redraft.v1 import common_pb2, index_pb2, service_pb2, service_pb2_grpc
from redraft.vocabulary import Vocabulary

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message in either direction, in bytes."""

RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,  # the server stopped while the call was running
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # a full disk may be mended, a busy server may calm down
        grpc.StatusCode.UNAUTHENTICATED,  # tokens are replaced while things run
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Codes that another try may mend; all calls of the protocol are harmless to repeat."""

_FETCH = f"/{service_pb2.DESCRIPTOR.services_by_name['DraftService'].full_name}/FetchIndex"
_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A server that comes back is found within a second or two, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Two clients in one process must not share a connection that one of them found broken.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # A stream of answers is read on the thread that wants them, without one of gRPC's own in between: fetching an index
    # takes a quarter less of the client's CPU time.
    (ChannelOptions.SingleThreadedUnaryStream, 1),
]


def open_channel(address: str, credentials: Credentials | None = None) -> grpc.Channel:
    """Return a channel to "host:port" (or "unix:path"); connecting happens at the first call.

    Args:
        address: the server.
        credentials: None takes them from the environment.

    Raises:
        FailedPrecondition: a file of the credentials cannot be read, or a token would travel unencrypted.
    """
    return (credentials or Credentials.from_environment()).channel(address, _OPTIONS)


def open_stub(channel: grpc.Channel) -> Any:
    """Return the service's calls on a channel (generated code, untyped)."""
    stub: Any = service_pb2_grpc.DraftServiceStub
    return stub(channel)


def open_fetch(channel: grpc.Channel) -> Any:
    """Return the call FetchIndex on a channel, which yields answers as they are encoded (for `index_stream`)."""
    return channel.unary_stream(_FETCH, request_serializer=index_pb2.FetchIndexRequest.SerializeToString)


def run_message(run: str, vocabulary: Vocabulary | None) -> common_pb2.Run:
    """Return the protocol's Run."""
    message = common_pb2.Run(name=run)
    if vocabulary is not None:
        message.vocabulary.size = vocabulary.size
        message.vocabulary.fingerprint = vocabulary.fingerprint
    return message


class Channels:
    """One lazily opened channel for each address; used by one thread only."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._channels: dict[str, grpc.Channel] = {}

    def stub(self, address: str) -> Any:
        """Return the calls of the server at `address`, opening a channel at first use."""
        return open_stub(self._channel(address))

    def fetch(self, address: str) -> Any:
        """Return the call FetchIndex of the server at `address`, as `open_fetch` does."""
        return open_fetch(self._channel(address))

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = open_channel(address, self._credentials)
        return self._channels[address]

    def close(self) -> None:
        """Close all channels; running calls end with CANCELLED."""
        for channel in self._channels.values():
            with contextlib.suppress(Exception):
                channel.close()
        self._channels.clear()
