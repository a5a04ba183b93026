"""How a client proves who it is, and whom it trusts. Workers take it from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from redraft.errors import FailedPrecondition, InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """TLS files and bearer token; nothing set = plaintext without a token.

    Raises:
        InvalidArgument: a certificate without its key, or either without a CA.
    """

    ca: Path | None = None
    """CA that signed the servers' certificates, PEM; turns TLS on."""
    certificate: Path | None = None
    """The client's own certificate chain, PEM, for mutual TLS."""
    key: Path | None = None
    """Its private key, PEM."""
    token_file: Path | None = None
    """File with the bearer token; read again for each call."""
    token: str = field(default="", repr=False)
    """The bearer token itself, when there is no file; empty = none."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("certificate: mutual TLS needs both a certificate and its key")
        if self.certificate is not None and self.ca is None:
            raise InvalidArgument("ca: mutual TLS needs the CA of the servers too")

    @classmethod
    def from_environment(cls) -> Credentials:
        """Return what REDRAFT_TLS_CA, REDRAFT_TLS_CERTIFICATE, REDRAFT_TLS_KEY, REDRAFT_TOKEN(_FILE) say."""

        def path(name: str) -> Path | None:
            return Path(os.environ[name]) if os.environ.get(name) else None

        return cls(
            ca=path("REDRAFT_TLS_CA"),
            certificate=path("REDRAFT_TLS_CERTIFICATE"),
            key=path("REDRAFT_TLS_KEY"),
            token_file=path("REDRAFT_TOKEN_FILE"),
            token=os.environ.get("REDRAFT_TOKEN", ""),
        )

    def check(self, addresses: Sequence[str]) -> None:
        """See that these credentials can be used with the servers.

        Raises:
            FailedPrecondition: a file cannot be read, or the token would travel unencrypted beyond this machine.
        """
        for path in (self.ca, self.certificate, self.key, self.token_file):
            if path is not None:
                _read(path)
        if self.ca is not None or not (self.token or self.token_file):
            return
        for address in addresses:
            host = address.rpartition(":")[0]
            if not (host in ("localhost", "[::1]") or host.startswith(("127.", "unix:"))):
                raise FailedPrecondition(
                    f"token: would travel unencrypted to {address}; name the CA of its certificate (REDRAFT_TLS_CA)"
                )

    def channel(self, address: str, options: list[tuple[str, int]]) -> grpc.Channel:
        """Return a channel to `address`; connecting happens at the first call.

        Raises:
            FailedPrecondition: a file cannot be read, or the token would travel unencrypted beyond this machine.
        """
        self.check([address])
        if self.ca is not None:
            pair = [_read(path) if path is not None else None for path in (self.key, self.certificate)]
            channel = grpc.secure_channel(
                address, grpc.ssl_channel_credentials(_read(self.ca), *pair), options
            )
        else:
            channel = grpc.insecure_channel(address, options)
        if self.token or self.token_file is not None:
            channel = grpc.intercept_channel(channel, _TokenInterceptor(self._read_token))
        return channel

    def _read_token(self) -> str:
        if self.token_file is None:
            return self.token
        try:
            return self.token_file.read_text().strip()
        except OSError:
            return ""  # the server refuses, which is reported like any refusal


class _Details(grpc.ClientCallDetails):  # type: ignore[misc,unused-ignore]
    def __init__(self, details: Any, metadata: list[tuple[str, str]]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class _TokenInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc,unused-ignore]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc,unused-ignore]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc,unused-ignore]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc,unused-ignore]
):
    """Adds the bearer token to every call."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def _call(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token()}")]
        return continuation(_Details(details, metadata), request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_unary = _call
    intercept_stream_stream = _call


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"credentials: cannot read {path}: {error.strerror}") from None
