"""Servers in this process and in their own, and rollouts to publish. Everything runs over real channels."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from redraft.client import DraftSource, Publisher
from redraft.client.channels import open_channel, open_stub
from redraft.rollout import Rollout
from redraft.server import DraftServer, ServerConfig, create_server
from redraft.vocabulary import Vocabulary

VOCABULARY = Vocabulary(size=1000, fingerprint="test")


def make_rollout(prompt: int = 0, sample: int = 0, *, epoch: int = 0, step: int = 0, **changes) -> Rollout:
    """Return a response that depends on nothing but the arguments."""
    rng = np.random.default_rng([prompt, sample, epoch, step])
    fields = {
        "prompt_token_ids": np.random.default_rng(prompt).integers(0, 1000, 20).astype(np.int32),
        "response_token_ids": rng.integers(0, 1000, 40).astype(np.int32),
        "epoch": epoch,
        "step": step,
        "sample": sample,
        "reward": float(sample),
        "group_id": f"group-{prompt}",
    }
    return Rollout(**(fields | changes))


def make_group(prompt: int = 0, size: int = 4, **changes) -> list[Rollout]:
    """Return `size` responses to one prompt."""
    return [make_rollout(prompt, sample, **changes) for sample in range(size)]


@pytest.fixture
def rollout() -> Callable[..., Rollout]:
    return make_rollout


@pytest.fixture
def group() -> Callable[..., list[Rollout]]:
    return make_group


@pytest.fixture
def vocabulary() -> Vocabulary:
    return VOCABULARY


@dataclass
class Running:
    """A server in this process."""

    server: DraftServer
    config: ServerConfig
    channel: grpc.Channel

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def stub(self):
        return open_stub(self.channel)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start servers in this process; they stop when the test ends."""
    running: list[Running] = []

    def start_one(**options) -> Running:
        defaults = {
            "address": "127.0.0.1:0",
            "data_directory": tmp_path / f"data{len(running)}",
            "build_ahead": 0.0,
        }
        options = defaults | options
        config = ServerConfig(**options)
        server, _ = create_server(config)
        server.start()
        running.append(Running(server, config, open_channel(server.address)))
        return running[-1]

    yield start_one
    for each in running:
        each.channel.close()
        each.server.stop(0.5)


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    return start()


@dataclass
class Process:
    """`redraft serve` in a process of its own."""

    data: Path
    flags: Sequence[str] = ()
    address: str = "127.0.0.1:0"
    popen: subprocess.Popen | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> str:
        """Start the server, wait until it answers, return its address; the same port after a restart."""
        self.popen = subprocess.Popen(
            [*COMMAND, "serve", "--address", self.address, "--data", str(self.data), *self.flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self.environment,
        )
        line = self.popen.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(self.popen.communicate(timeout=10)[1])
        self.address = line.split()[-1]
        return self.address

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and return the exit status and what was logged."""
        self.popen.send_signal(number)
        _, log = self.popen.communicate(timeout=30)
        return self.popen.returncode, log


COMMAND = (sys.executable, "-c", "from redraft.cli import main; main()")


@pytest.fixture
def command() -> Sequence[str]:
    return COMMAND


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Make servers that run in their own process; they are killed when the test ends."""
    made: list[Process] = []

    def make(data: Path = tmp_path / "data", *flags: str) -> Process:
        made.append(Process(data, flags))
        return made[-1]

    yield make
    for each in made:
        if each.popen is not None:
            if each.popen.poll() is None:
                each.popen.kill()
            each.popen.communicate(timeout=30)


@pytest.fixture
def publisher() -> Iterator[Callable[..., Publisher]]:
    made: list[Publisher] = []

    def make(*addresses: str, **options) -> Publisher:
        made.append(
            Publisher(addresses, **({"run": "run", "vocabulary": VOCABULARY, "linger": 0.001} | options))
        )
        return made[-1]

    yield make
    for each in made:
        each.close(timeout=0.1)


@pytest.fixture
def source() -> Iterator[Callable[..., DraftSource]]:
    made: list[DraftSource] = []

    def make(*addresses: str, **options) -> DraftSource:
        defaults = {"run": "run", "vocabulary": VOCABULARY, "refresh_seconds": 0.0}
        made.append(DraftSource(addresses, **(defaults | options)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for something that other threads bring about."""

    def wait(condition: Callable[[], object], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.01)

    return wait


@dataclass
class Files:
    """A certificate and its key."""

    certificate: Path
    key: Path


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory):
    from cryptography import x509
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


@pytest.fixture(scope="session")
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
