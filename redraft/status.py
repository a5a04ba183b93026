"""Between gRPC status codes and `redraft.errors`: the one place that translates. Needs grpc; not part of `redraft`."""

from __future__ import annotations

import grpc

from redraft.errors import BY_CODE, RedraftError, Unavailable

NUMBERS: dict[str, int] = {code.name: code.value[0] for code in grpc.StatusCode}
"""gRPC status code name -> number."""

NAMES: dict[int, str] = {number: name for name, number in NUMBERS.items()}
"""gRPC status code number -> name."""

_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def status_of(error: BaseException) -> grpc.StatusCode:
    """Return the status code that stands for an exception; INTERNAL for one that redraft did not raise."""
    if isinstance(error, RedraftError):
        return grpc.StatusCode[error.code]
    return grpc.StatusCode.INTERNAL


def error_of(error: grpc.RpcError) -> RedraftError:
    """Return redraft's exception for a failed call, with the server's message."""
    return error_for(error.code(), error.details() or "")


def error_for(code: grpc.StatusCode | int, message: str) -> RedraftError:
    """Return redraft's exception for a status code (or its number) and message."""
    if isinstance(code, int):
        code = _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
    if (
        code is grpc.StatusCode.DEADLINE_EXCEEDED
    ):  # to the caller a server that does not answer is unavailable
        return Unavailable(message or "no answer in time")
    cls = BY_CODE.get(code.name)
    return cls(message) if cls is not None else RedraftError(f"{code.name}: {message}")
