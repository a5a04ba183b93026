"""Who is let in: TLS, client certificates and bearer tokens; everybody else is refused."""

from __future__ import annotations

import shutil

import psutil
import pytest

from redraft.client import Credentials, DraftClient
from redraft.errors import FailedPrecondition, InvalidArgument, Unauthenticated, Unavailable
from redraft.server import ServerConfig
from redraft.server.config import is_loopback, split_address
from redraft.server.security import SecurityConfig
from redraft.v1 import service_pb2

SERVICE = service_pb2.DESCRIPTOR.services_by_name["DraftService"]
TOKEN = "a-token-of-more-than-16-characters"


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
    methods = [f"/redraft.v1.DraftService/{method.name}" for method in SERVICE.methods]
    assert len(methods) >= 7
    methods += ["/no.Such/Method"]
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


def test_replaced_certificates_count_for_new_connections(start, certificates, make_certificate, tmp_path):
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    old, old_ca = certificates["server"], certificates["ca"].certificate
    new_ca = make_certificate("new-ca")
    new = make_certificate("new-server", issuer="new-ca")
    shutil.copy(old.certificate, certificate)
    shutil.copy(old.key, key)
    running = start(security=SecurityConfig(certificate=certificate, key=key, token=TOKEN))
    with DraftClient(running.address, timeout=20.0, credentials=Credentials(ca=old_ca, token=TOKEN)) as early:
        assert early.stats().server.version
        shutil.copy(new.certificate, certificate)  # half of the change: the pair that was good stays in use
        assert ask(running.address, ca=old_ca, token=TOKEN)
        shutil.copy(new.key, key)
        assert ask(running.address, ca=new_ca.certificate, token=TOKEN)
        with pytest.raises(Unavailable):
            ask(running.address, ca=old_ca, token=TOKEN)
        assert early.stats().server.version  # connections that are open go on
    certificate.write_text("nonsense")
    assert ask(running.address, ca=new_ca.certificate, token=TOKEN)


def test_a_replaced_client_ca_lets_other_clients_in(start, certificates, tmp_path):
    server, ca = certificates["server"], certificates["ca"].certificate
    authority = tmp_path / "clients.pem"
    shutil.copy(ca, authority)
    running = start(
        security=SecurityConfig(certificate=server.certificate, key=server.key, client_ca=authority)
    )
    known = {"certificate": certificates["client"].certificate, "key": certificates["client"].key}
    stranger = {"certificate": certificates["stranger"].certificate, "key": certificates["stranger"].key}
    assert ask(running.address, ca=ca, **known)
    shutil.copy(certificates["other-ca"].certificate, authority)
    assert ask(running.address, ca=ca, **stranger)
    with pytest.raises(Unavailable):
        ask(running.address, ca=ca, **known)


def test_a_certificate_and_a_key_that_do_not_belong_together_are_refused_at_start(start, certificates):
    pair = {"certificate": certificates["server"].certificate, "key": certificates["client"].key}
    with pytest.raises(FailedPrecondition, match=r"^certificate: cannot use .*server\.pem"):
        start(security=SecurityConfig(**pair))


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


def test_the_defaults_listen_on_loopback_only(process):
    assert is_loopback(split_address(ServerConfig().address)[0])
    assert ServerConfig().metrics_address == ""
    server = process()
    server.flags = ("--metrics-address", "127.0.0.1:0")
    server.start()
    scanned = [
        each.laddr
        for each in psutil.Process(server.popen.pid).net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    assert len(scanned) == 2
    assert all(is_loopback(address.ip) for address in scanned)


def test_what_counts_as_loopback():
    for host in ("localhost", "127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(host), host
    for host in (
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "localhost.example.org",
        "127.0.0.1.example.org",
    ):
        assert not is_loopback(host), host
