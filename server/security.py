"""Who may talk to the server: TLS, client certificates, and a bearer token."""

from __future__ import annotations

import hmac
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from redraft.errors import FailedPrecondition, InvalidArgument

_LOG = logging.getLogger("redraft.server")
_MIN_TOKEN = 16
_OPEN_SERVICE = (
    "/grpc.health.v1.Health/"  # probes carry no token, and learn nothing but that the server is up
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """How clients prove who they are, and how connections are encrypted. Nothing set = plaintext for anybody.

    Raises:
        InvalidArgument: a part is missing: a certificate without its key, a client CA without a certificate.
    """

    certificate: Path | None = None
    """The server's certificate chain, PEM; turns TLS on."""
    key: Path | None = None
    """Its private key, PEM."""
    client_ca: Path | None = None
    """CA that clients' certificates must be signed by, PEM; turns mutual TLS on."""
    token_file: Path | None = None
    """File whose content clients must send as bearer token; read again when it changes."""
    token: str = field(default="", repr=False)
    """The bearer token itself, when there is no file; empty = none."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("certificate: TLS needs both --tls-certificate and --tls-key")
        if self.client_ca is not None and self.certificate is None:
            raise InvalidArgument("client_ca: client certificates need --tls-certificate and --tls-key too")
        if self.token and len(self.token) < _MIN_TOKEN:
            raise InvalidArgument(f"token: must have at least {_MIN_TOKEN} characters")
        if self.token and self.token_file is not None:
            raise InvalidArgument("token: give either a token or a token file")

    @property
    def encrypted(self) -> bool:
        """Whether connections are encrypted."""
        return self.certificate is not None

    @property
    def authenticated(self) -> bool:
        """Whether clients must prove who they are."""
        return bool(self.token) or self.token_file is not None or self.client_ca is not None

    def credentials(self) -> grpc.ServerCredentials | None:
        """Return gRPC's credentials, or None for plaintext.

        Raises:
            FailedPrecondition: a file cannot be read.
        """
        if self.certificate is None or self.key is None:
            return None
        pair = (read(self.key, "key"), read(self.certificate, "certificate"))
        authority = read(self.client_ca, "client_ca") if self.client_ca is not None else None
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)

    def interceptors(self) -> list[grpc.ServerInterceptor]:
        """Return what checks the token, if there is one.

        Raises:
            FailedPrecondition: the token file cannot be read, or holds less than a token.
        """
        if not self.token and self.token_file is None:
            return []
        return [TokenInterceptor(TokenSource(self.token, self.token_file))]


def read(path: Path, name: str) -> bytes:
    """Return a file's content; FailedPrecondition names it when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"{name}: cannot read {path}: {error.strerror}") from None


class TokenSource:
    """The token that is asked for now; a file is read again when it was replaced. Safe to use from several threads."""

    def __init__(self, token: str, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._token = token.encode()
        if path is not None:
            self._token = self._load(path)
            self._seen = _identity(path)

    def get(self) -> bytes:
        """Return the token."""
        if self._path is None:
            return self._token
        with self._lock:
            try:
                seen = _identity(self._path)
                if seen != self._seen:
                    self._token, self._seen = self._load(self._path), seen
                    _LOG.info("token: read again from %s", self._path)
            except (
                OSError,
                FailedPrecondition,
            ) as error:  # the old one stays good: a bad edit locks nobody out
                _LOG.error("token: keeping the old one: %s", error)
            return self._token

    @staticmethod
    def _load(path: Path) -> bytes:
        token = read(path, "token_file").strip()
        if len(token) < _MIN_TOKEN:
            raise FailedPrecondition(f"token_file: {path} must hold at least {_MIN_TOKEN} characters")
        return token


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Refuses calls without the bearer token, before their messages are read. Health checks need none."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the call's handler, or one that refuses."""
        if details.method.startswith(_OPEN_SERVICE) or self._good(details.invocation_metadata):
            return continuation(details)
        return grpc.stream_stream_rpc_method_handler(_refuse)

    def _good(self, metadata: Any) -> bool:
        given = [value for name, value in metadata if name == "authorization"]
        expected = b"Bearer " + self._source.get()
        return len(given) == 1 and hmac.compare_digest(str(given[0]).encode(), expected)


def _refuse(_requests: Any, context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "authorization: the bearer token is missing or wrong")


def _identity(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns
