"""Responses that are encoded already: large or frequent ones are put together from bytes, without protobuf's copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from redraft.v1 import service_pb2

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["DraftService"].full_name
_METHODS = {f"/{_SERVICE}/FetchIndex", f"/{_SERVICE}/RelayLive"}
_LENGTH_DELIMITED = 2


def encode_field(number: int, value: bytes) -> bytes:
    """Return the encoding of a field that holds bytes or an encoded message."""
    return field_head(number, len(value)) + value


def field_head(number: int, length: int) -> bytes:
    """Return what stands before the value of such a field: its tag and its length."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


class EncodedResponses(grpc.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Lets the calls that stream much yield bytes that are encoded already beside their messages."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the call's handler; of those calls with a serializer that leaves bytes as they are."""
        handler = continuation(details)
        if handler is None or details.method not in _METHODS or not handler.response_streaming:
            return handler
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                handler.stream_stream, handler.request_deserializer, _serialize
            )
        return grpc.unary_stream_rpc_method_handler(
            handler.unary_stream, handler.request_deserializer, _serialize
        )


def _serialize(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
