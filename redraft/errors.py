"""The one set of exceptions that redraft raises, in the core, the server and the client alike.

Each class carries the name of the gRPC status code that stands for it on the wire (`code`), so that server
and client translate through `BY_CODE` and nothing else.
"""

from __future__ import annotations


class RedraftError(Exception):
    """Base of every error that redraft raises on purpose."""

    code = "UNKNOWN"


class InvalidArgument(RedraftError, ValueError):
    """An argument or a message field is malformed; the message starts with its name."""

    code = "INVALID_ARGUMENT"


class NotFound(RedraftError, LookupError):
    """The named run, prompt or request does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(RedraftError):
    """Something else holds the name or the directory."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(RedraftError):
    """The request is well formed, but the system is in the wrong state for it (other vocabulary, version)."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(RedraftError, MemoryError):
    """A memory limit, a disk or a quota is used up."""

    code = "RESOURCE_EXHAUSTED"


class DataLoss(RedraftError):
    """Stored or received bytes are truncated, corrupt or of another format version."""

    code = "DATA_LOSS"


class Unavailable(RedraftError, ConnectionError):
    """The draft server cannot be reached now; trying again later may help."""

    code = "UNAVAILABLE"


class Unauthenticated(RedraftError, PermissionError):
    """The bearer token or the client certificate is missing or wrong."""

    code = "UNAUTHENTICATED"


BY_CODE: dict[str, type[RedraftError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        DataLoss,
        Unavailable,
        Unauthenticated,
    )
}
"""gRPC status code name -> exception class; codes that are not here map to `RedraftError`."""
