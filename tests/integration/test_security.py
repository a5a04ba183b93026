"""Who is let in: TLS, client certificates and bearer tokens; everybody else is refused."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import pytest

from redraft.client import Credentials, DraftClient
from redraft.errors import FailedPrecondition, InvalidArgument, Unauthenticated, Unavailable
from redraft.server import ServerConfig
from redraft.server.security import SecurityConfig

x509 = pytest.importorskip("cryptography.x509")
TOKEN = "a-token-of-more-than-16-characters"


@dataclass
class Files:
    """A certificate and its key."""

    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def make_certificate(tmp_path_factory):
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("certificates")
    keys: dict[str, tuple] = {}

    def make(name: str, *, issuer: str = "", expired: bool = False) -> Files:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer, signer_name = keys[issuer] if issuer else (key, subject)
        now = datetime.datetime.now(datetime.timezone.utc)
        end = now - datetime.timedelta(days=1) if expired else now + datetime.timedelta(days=1)
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(end)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=not issuer, path_length=None), critical=True)
            .sign(signer, hashes.SHA256())
        )
        keys[name] = (key, subject)
        files = Files(folder / f"{name}.pem", folder / f"{name}.key")
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    return make


@pytest.fixture(scope="module")
def certificates(make_certificate) -> dict[str, Files]:
    made = {"ca": make_certificate("ca"), "other-ca": make_certificate("other-ca")}
    for name, issuer, expired in (
        ("server", "ca", False),
        ("client", "ca", False),
        ("expired", "ca", True),
        ("stranger", "other-ca", False),
    ):
        made[name] = make_certificate(name, issuer=issuer, expired=expired)
    return made


def ask(address: str, **credentials) -> str:
    with DraftClient(address, timeout=5.0, credentials=Credentials(**credentials)) as client:
        return client.stats().server.version


def test_a_token_lets_in_and_nothing_else_does(start):
    running = start(security=SecurityConfig(token=TOKEN))
    assert ask(running.address, token=TOKEN)
    for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        with pytest.raises(Unauthenticated, match=r"^authorization: the bearer token is missing or wrong$"):
            ask(running.address, token=wrong)


def test_publishing_and_fetching_carry_the_token(start, publisher, source, rollout, monkeypatch):
    running = start(security=SecurityConfig(token=TOKEN))
    monkeypatch.setenv("REDRAFT_TOKEN", TOKEN)
    publish, drafts = publisher(running.address), source(running.address)
    publish.publish([rollout()])
    assert publish.flush(20)
    assert publish.stats().published == 1
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids) is not None


def test_every_call_needs_the_token_but_health(start):
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    running = start(security=SecurityConfig(token=TOKEN))
    assert (
        health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status
        == 1
    )
    methods = [
        f"/redraft.v1.DraftService/{name}" for name in ("PublishRollouts", "FetchIndex", "Draft", "GetStats")
    ]
    methods += [
        "/redraft.v1.DraftService/Forget",
        "/redraft.v1.DraftService/ReportAcceptance",
        "/no.Such/Method",
    ]
    methods += ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
    for method in methods:
        with pytest.raises(grpc.RpcError) as caught:
            list(running.channel.stream_stream(method)(iter([b""]), timeout=20))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, method


def test_a_replaced_token_file_counts_at_once(start, tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    running = start(security=SecurityConfig(token_file=path))
    assert ask(running.address, token_file=path)
    new = tmp_path / "new"
    new.write_text("another-token-of-more-than-16-characters")
    new.replace(path)
    with pytest.raises(Unauthenticated):
        ask(running.address, token=TOKEN)
    assert ask(running.address, token_file=path)
    path.write_text("short")  # a bad edit keeps the old one
    assert ask(running.address, token="another-token-of-more-than-16-characters")


def test_tls_serves_those_who_trust_it_and_no_plaintext(start, certificates):
    server = certificates["server"]
    security = SecurityConfig(certificate=server.certificate, key=server.key, token=TOKEN)
    running = start(security=security)
    assert ask(running.address, ca=certificates["ca"].certificate, token=TOKEN)
    with pytest.raises(Unauthenticated):
        ask(running.address, ca=certificates["ca"].certificate)
    with pytest.raises(Unavailable):
        ask(running.address, ca=certificates["other-ca"].certificate, token=TOKEN)
    with pytest.raises(Unavailable):
        ask(running.address)


def test_mutual_tls_serves_only_its_own_clients(start, certificates):
    server, ca = certificates["server"], certificates["ca"].certificate
    running = start(security=SecurityConfig(certificate=server.certificate, key=server.key, client_ca=ca))
    client = certificates["client"]
    assert ask(running.address, ca=ca, certificate=client.certificate, key=client.key)
    with pytest.raises(Unavailable):
        ask(running.address, ca=ca)
    for name in ("expired", "stranger"):
        bad = certificates[name]
        with pytest.raises(Unavailable):
            ask(running.address, ca=ca, certificate=bad.certificate, key=bad.key)


def test_listening_beyond_this_machine_needs_encryption_and_authentication(certificates):
    server = certificates["server"]
    files = {"certificate": server.certificate, "key": server.key}
    for security, missing in (
        (SecurityConfig(), "not encrypted .* nor authenticated"),
        (SecurityConfig(token=TOKEN), "not encrypted"),
        (SecurityConfig(**files), "not authenticated"),
    ):
        with pytest.raises(FailedPrecondition, match=rf"^address: 0\.0\.0\.0:1 .*{missing}"):
            ServerConfig(address="0.0.0.0:1", security=security)
        ServerConfig(address="0.0.0.0:1", security=security, insecure=True)
    ServerConfig(address="0.0.0.0:1", security=SecurityConfig(**files, token=TOKEN))
    ServerConfig(
        address="0.0.0.0:1", security=SecurityConfig(**files, client_ca=certificates["ca"].certificate)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda path: SecurityConfig(certificate=path),
        lambda path: SecurityConfig(key=path),
        lambda path: SecurityConfig(client_ca=path),
        lambda path: SecurityConfig(token="short"),
        lambda path: SecurityConfig(token=TOKEN, token_file=path),
        lambda path: Credentials(certificate=path),
        lambda path: Credentials(certificate=path, key=path),
    ],
)
def test_half_a_configuration_is_refused(make, tmp_path):
    with pytest.raises(InvalidArgument):
        make(tmp_path / "file")


def test_files_that_cannot_be_read_are_named(start, publisher, source, tmp_path, certificates):
    missing, server = tmp_path / "missing.pem", certificates["server"]
    for security in (
        SecurityConfig(certificate=missing, key=server.key),
        SecurityConfig(certificate=server.certificate, key=server.key, client_ca=missing),
        SecurityConfig(token_file=missing),
    ):
        with pytest.raises(FailedPrecondition, match=r"cannot read .*missing\.pem"):
            start(security=security)
    for make in (publisher, source):
        with pytest.raises(FailedPrecondition, match=r"cannot read .*missing\.pem"):
            make("127.0.0.1:1", credentials=Credentials(ca=missing))


def test_a_token_never_travels_unencrypted_to_another_machine(publisher, source):
    for make in (publisher, source):
        with pytest.raises(FailedPrecondition, match=r"^token: would travel unencrypted to example.org:1"):
            make("127.0.0.1:1", "example.org:1", credentials=Credentials(token=TOKEN))


def test_a_token_is_not_shown(certificates):
    assert TOKEN not in repr(SecurityConfig(token=TOKEN)) + repr(Credentials(token=TOKEN))
