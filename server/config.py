"""What a server can be told. Every default is what `redraft serve` with no flags does."""

from __future__ import annotations

import ipaddress
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from redraft.errors import FailedPrecondition, InvalidArgument
from redraft.server.security import SecurityConfig

DEFAULT_PORT = 50061
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"


def default_data_directory() -> Path:
    """Return $XDG_STATE_HOME/redraft, by default ~/.local/state/redraft."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state") / "redraft"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """Which responses to a prompt are indexed, and how much each counts."""

    epochs: int = 4
    """Newest epochs of the prompt that are indexed; 0 = all."""
    tokens: int = 2_000_000
    """Response tokens indexed for each prompt, newest first; 0 = all."""
    age_decay: float = 1.0
    """Weight of a response relative to one that is an epoch newer, in (0, 1]; 1 = all count alike, as no recorded run
    gained from less (doc/benchmarks.md)."""
    reward_weight: float = 0.0
    """What a response counts more than others when its reward is above the mean of the prompt's window, >= 0; 0 = all
    count alike."""

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InvalidArgument(f"epochs: must not be negative, got {self.epochs}")
        if self.tokens < 0:
            raise InvalidArgument(f"tokens: must not be negative, got {self.tokens}")
        if not 0.0 < self.age_decay <= 1.0:
            raise InvalidArgument(f"age_decay: must be in (0, 1], got {self.age_decay}")
        if not 0.0 <= self.reward_weight < math.inf:
            raise InvalidArgument(f"reward_weight: must be finite and >= 0, got {self.reward_weight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """What of a run is kept on disk; what is beyond it is removed when more is published, oldest epochs first.

    The newest group of a prompt always stays, however large.
    """

    epochs: int = 0
    """Newest epochs of a run that are kept; 0 = all."""
    prompt_tokens: int = 0
    """Most response tokens of each prompt that are kept; 0 = all."""
    run_tokens: int = 0
    """Most response tokens of each run that are kept; 0 = all."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 0:
                raise InvalidArgument(f"{each.name}: must not be negative, got {getattr(self, each.name)}")

    @property
    def unlimited(self) -> bool:
        """Whether nothing is ever removed."""
        return not (self.epochs or self.prompt_tokens or self.run_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What a single client may ask of the server."""

    message_bytes: int = 64 << 20
    """Largest message, in bytes."""
    prompt_tokens: int = 524_288
    """Longest prompt, in tokens."""
    response_tokens: int = 524_288
    """Longest response, in tokens."""
    group_responses: int = 4096
    """Most responses of one Group message."""
    stream_groups: int = 100_000
    """Most groups of one publishing stream."""
    fetch_prompts: int = 4096
    """Most prompts of one FetchIndex call."""
    calls: int = 512
    """Most calls at once, streams included; more are refused with RESOURCE_EXHAUSTED."""
    peer_calls: int = 448
    """Most calls at once from one host, streams included."""
    peer_call_rate: int = 5000
    """Most calls a second from one host; twice as many may come in a burst."""
    peer_connection_rate: int = 200
    """Most new connections a second from one host, each counted at its first call; twice as many in a burst."""
    draft_streams: int = 256
    """Most open Draft streams."""
    draft_requests: int = 4096
    """Most open requests of one Draft stream."""
    draft_idle_bytes: int = 1 << 20
    """Memory of the finished groups that one Draft stream keeps for siblings that start later, in bytes."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) <= 0:
                raise InvalidArgument(f"{each.name}: must be positive, got {getattr(self, each.name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    """How much of the siblings' text is held for workers that are behind or come late, and for how long."""

    streams: int = 256
    """Most open RelayLive streams."""
    groups: int = 16_384
    """Most groups that one stream may serve at once."""
    group_tokens: int = 1 << 20
    """Tokens held of one group; beyond it the oldest go, and whoever had not got them sees a gap."""
    memory_bytes: int = 256 << 20
    """Memory for all groups' tokens, in bytes; beyond it the text of the group that was quiet longest goes."""
    linger: float = 5.0
    """How long a group is held that nobody serves any more, in seconds: for siblings that start late."""
    quiet: float = 120.0
    """The text of a group is dropped when nobody wrote any for so long, in seconds."""
    silence: float = 30.0
    """A worker that was not heard of for so long is taken for dead, in seconds."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise InvalidArgument(f"{each.name}: must be positive, got {getattr(self, each.name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything a server can be told.

    Raises:
        InvalidArgument: a value is out of range.
        FailedPrecondition: an address is not a loopback one, `security` lacks encryption or authentication, and
            `insecure` is not set.
    """

    address: str = DEFAULT_ADDRESS
    """host:port to listen on; port 0 takes a free one."""
    data_directory: Path = field(default_factory=default_data_directory)
    """Where the history lies; one server at a time."""
    insecure: bool = False
    """Listen beyond this machine without encryption or without authentication."""
    security: SecurityConfig = field(default_factory=SecurityConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    relay: RelayConfig = field(default_factory=RelayConfig)
    index_bytes: int = 2 << 30
    """Memory for built indexes, in bytes; the least recently used go first."""
    build_ahead: float = 1.0
    """Index a prompt this long after its last response came in, in seconds; 0 = only when asked."""
    chunk_bytes: int = 1 << 20
    """Size of an index's pieces on the wire, in bytes; at most half of the largest message. Each piece wakes a thread
    on both sides; very large ones cost their receiver page faults."""
    grace: float = 10.0
    """How long running calls may take to finish when the server stops, in seconds."""
    reflection: bool = True
    """Serve gRPC reflection."""
    metrics_address: str = ""
    """host:port of the HTTP port with metrics, status page and health; port 0 takes a free one; empty = none. On a
    loopback address it is open to everybody on this machine; elsewhere it asks for what the gRPC port asks for."""

    def __post_init__(self) -> None:
        if self.index_bytes <= 0:
            raise InvalidArgument(f"index_bytes: must be positive, got {self.index_bytes}")
        if self.chunk_bytes <= 0:
            raise InvalidArgument(f"chunk_bytes: must be positive, got {self.chunk_bytes}")
        if self.build_ahead < 0:
            raise InvalidArgument(f"build_ahead: must not be negative, got {self.build_ahead}")
        if self.grace < 0:
            raise InvalidArgument(f"grace: must not be negative, got {self.grace}")
        self._check_exposure("address", self.address)
        if self.metrics_address:
            self._check_exposure("metrics_address", self.metrics_address)

    def _check_exposure(self, field: str, address: str) -> None:
        host, _ = split_address(address, field)
        if self.insecure or is_loopback(host):
            return
        missing = [
            what
            for what, there in (
                ("encrypted (--tls-certificate, --tls-key)", self.security.encrypted),
                ("authenticated (--token-file, or --tls-client-ca)", self.security.authenticated),
            )
            if not there
        ]
        if missing:
            raise FailedPrecondition(
                f"{field}: {address} can be reached from other machines, and connections are not "
                f"{' nor '.join(missing)}; set that up, listen on 127.0.0.1, or accept the risk with --insecure"
            )


def split_address(address: str, field: str = "address") -> tuple[str, int]:
    """Return host (without brackets) and port of "host:port" or "[v6]:port".

    Raises:
        InvalidArgument: `address` is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InvalidArgument(f"{field}: {address!r} is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
