"""The server's TLS files, read again when they are replaced: new connections use the new ones, old ones go on."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from pathlib import Path

import grpc

from redraft.errors import FailedPrecondition
from redraft.server.logs import event

_LOG = logging.getLogger("redraft.server")

Identity = tuple[int, int, int]


def read(path: Path, name: str) -> bytes:
    """Return a file's content; FailedPrecondition names it when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"{name}: cannot read {path}: {error.strerror}") from None


def identity(path: Path) -> Identity:
    """Return what changes when a file is replaced or written to.

    Raises:
        OSError: there is no such file.
    """
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


class Certificates:
    """Certificate, key and client CA of a server. Safe to use from several threads.

    Files that cannot be used, for instance a new certificate whose key is still the old one, change nothing: what
    was read last stays in use, and the next connection looks again.

    Args:
        certificate: the server's certificate chain, PEM.
        key: its private key, PEM.
        client_ca: CA that clients' certificates must be signed by, PEM; None = clients need none.

    Raises:
        FailedPrecondition: a file cannot be read, or certificate and key do not belong together.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._lock = threading.Lock()
        self._seen = self.identities()
        self._tried = self._seen
        self._configuration = self._load()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return gRPC credentials that look for replaced files at every new connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, self._fetch, require_client_authentication=self._client_ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """Return a TLS context of the files as they are now, for servers other than gRPC's.

        Raises:
            FailedPrecondition: as when the object is made.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._certificate, self._key)
        except OSError as error:
            raise FailedPrecondition(
                f"certificate: cannot use {self._certificate} with the key {self._key}: {error.strerror or error}"
            ) from None
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except OSError as error:
                raise FailedPrecondition(f"client_ca: cannot use {self._client_ca}: {error}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def identities(self) -> tuple[Identity, ...]:
        """Return what changes when one of the files is replaced; a missing file has an identity of its own."""
        found = []
        for path in (self._certificate, self._key, self._client_ca):
            try:
                found.append(identity(path) if path is not None else (0, 0, 0))
            except OSError:
                found.append((-1, -1, -1))
        return tuple(found)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            found = self.identities()
            if found in (self._seen, self._tried):
                return None
            try:
                configuration = self._load()
            except FailedPrecondition as error:
                self._tried = found  # said once for each state of the files
                event(_LOG, logging.ERROR, "certificates kept", reason=error)
                return None
            self._seen = self._tried = found
            self._configuration = configuration
        event(_LOG, logging.INFO, "certificates read again", certificate=self._certificate)
        return configuration

    def _load(self) -> grpc.ServerCertificateConfiguration:
        pair = (read(self._key, "key"), read(self._certificate, "certificate"))
        authority = read(self._client_ca, "client_ca") if self._client_ca is not None else None
        self.context()  # gRPC would take any bytes here and refuse every connection later
        return grpc.ssl_server_certificate_configuration([pair], authority)
