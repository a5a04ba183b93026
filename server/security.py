"""Who may talk to the server: TLS, client certificates, and a bearer token."""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from redraft.errors import FailedPrecondition, InvalidArgument
from redraft.server.certificates import Certificates, Identity, identity, read
from redraft.server.logs import event

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

    def certificates(self) -> Certificates | None:
        """Return the TLS files, or None for plaintext.

        Raises:
            FailedPrecondition: a file cannot be read, or certificate and key do not belong together.
        """
        if self.certificate is None or self.key is None:
            return None
        return Certificates(self.certificate, self.key, self.client_ca)

    def tokens(self) -> TokenSource | None:
        """Return the bearer token, or None when clients need none.

        Raises:
            FailedPrecondition: the token file cannot be read, or holds less than a token.
        """
        if not self.token and self.token_file is None:
            return None
        return TokenSource(self.token, self.token_file)


def is_open(method: str) -> bool:
    """Return whether a call, by its full name, is answered without a token and beyond the limits."""
    return method.startswith(_OPEN_SERVICE)


class TokenSource:
    """The token that is asked for now; a file is read again when it was replaced. Safe to use from several threads."""

    def __init__(self, token: str, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: Identity | None = None
        self._tried: Identity | None = (0, 0, 0)
        self._token = token.encode()
        if path is not None:
            self._token = self._load(path)
            self._seen = identity(path)

    def get(self) -> bytes:
        """Return the token."""
        if self._path is None:
            return self._token
        with self._lock:
            seen: Identity | None = None
            try:
                seen = identity(self._path)
                if seen != self._seen:
                    self._token, self._seen = self._load(self._path), seen
                    event(_LOG, logging.INFO, "token read again", token_file=self._path)
            except (
                OSError,
                FailedPrecondition,
            ) as error:  # the old one stays good: a bad edit locks nobody out
                if seen != self._tried:  # said once for each state of the file
                    self._tried = seen
                    event(_LOG, logging.ERROR, "token kept", reason=error)
            return self._token

    def matches(self, given: str) -> bool:
        """Return whether somebody sent the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(given.encode(errors="replace"), self.get())

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
        if is_open(details.method) or self._good(details.invocation_metadata):
            return continuation(details)
        return grpc.stream_stream_rpc_method_handler(_refuse)

    def _good(self, metadata: Any) -> bool:
        given = [str(value) for name, value in metadata if name == "authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(" ")
        return scheme == "Bearer" and self._source.matches(token)


def _refuse(_requests: Any, context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "authorization: the bearer token is missing or wrong")
