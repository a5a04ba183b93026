"""The options of the Hydra group `redraft`, checked before anything is started."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from redraft.errors import InvalidArgument
from redraft.recipe.vllm.options import FILE_PREFIX

_HOST_PORT = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})$")

MAX_SPECULATIVE_TOKENS = 256
"""More than this is a slip of the keyboard: vLLM keeps this many slots per request free."""

MODES = ("sync", "colocate_async", "separate_async")
"""verl's trainer modes that have a trainer in `redraft.recipe.verl.trainer`; known here without importing verl."""


@dataclass(frozen=True)
class ServerOptions:
    """How servers that the trainer starts itself are run; see recipe/config/redraft/default.yaml."""

    data_dir: str | None = None
    window_epochs: int | None = None
    window_tokens: int | None = None
    age_decay: float | None = None
    reward_weight: float | None = None
    restarts: int = 3
    insecure: bool = False
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """The group `redraft`; see recipe/config/redraft/default.yaml for each option."""

    enable: bool = True
    addresses: tuple[str, ...] = ()
    run: str = "default"
    num_speculative_tokens: int = 8
    proposer: str = "redraft.recipe.vllm.proposer.RedraftProposer"
    proposer_options: Mapping[str, Any] = field(default_factory=dict)
    publish_validation: bool = True
    server: ServerOptions = field(default_factory=ServerOptions)
    metrics_file: str | None = None
    export_dir: str | None = None
    poll_interval: float | None = None
    warm_up: bool = False
    flush_timeout: float = 30.0
    session: Mapping[str, Any] | None = None


def parse_options(group: Mapping[str, Any] | None) -> Options:
    """Return the checked options of the plain (resolved) mapping `group`; None stands for all defaults.

    Raises:
        InvalidArgument: an option is unknown, of the wrong type or out of range; the message starts with
            `redraft.<option>` and says what is wanted.
    """
    values = _known(group or {}, Options, "redraft")
    values["server"] = _server(values.get("server"))
    values["addresses"] = parse_addresses(values.get("addresses"))
    values["proposer_options"] = _mapping(values.get("proposer_options"), "redraft.proposer_options")
    for name in ("enable", "publish_validation", "warm_up"):
        if name in values:
            _check(isinstance(values[name], bool), f"redraft.{name}", "true or false", values[name])
    if "num_speculative_tokens" in values:
        _integer(values, "num_speculative_tokens", 1, MAX_SPECULATIVE_TOKENS)
    for name in ("metrics_file", "export_dir"):
        value = values.get(name)
        _check(
            value is None or (isinstance(value, str) and value != ""),
            f"redraft.{name}",
            "a path or null",
            value,
        )
    run = values.get("run", Options.run)
    printable = isinstance(run, str) and 1 <= len(run) <= 200 and run.isprintable()
    _check(printable, "redraft.run", "a name of 1 to 200 printable characters", run)
    proposer = values.get("proposer", Options.proposer)
    _check(
        isinstance(proposer, str) and "." in proposer,
        "redraft.proposer",
        "a path package.module.Class",
        proposer,
    )
    if values.get("poll_interval") is not None:
        _number(values, "poll_interval", 0.01)
    if "flush_timeout" in values:
        _number(values, "flush_timeout", 0.0)
    return Options(**values)


def parse_addresses(value: Any) -> tuple[str, ...]:
    """Return the server addresses in `value`: a list of host:port, one such string, or a comma-separated one.

    Or only file:PATH, of a file that holds them on every node: it comes back with the path made absolute.

    Raises:
        InvalidArgument: one of them is no host:port, or is there twice.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    _check(
        isinstance(value, Sequence),
        "redraft.addresses",
        "a list such as [10.0.0.1:50051,10.0.0.2:50051]",
        value,
    )
    if len(value) == 1 and isinstance(value[0], str) and value[0].startswith(FILE_PREFIX):
        path = value[0][len(FILE_PREFIX) :]
        _check(path != "", "redraft.addresses", "file: and the path of a file", value[0])
        return (FILE_PREFIX + os.path.abspath(path),)  # engines and workers run in folders of their own
    for address in value:
        match = _HOST_PORT.match(address) if isinstance(address, str) else None
        good = match is not None and 1 <= int(match.group(2)) <= 65535
        _check(good, "redraft.addresses", "host:port, port 1 to 65535 (IPv6: [::1]:port)", address)
    _check(len(set(value)) == len(value), "redraft.addresses", "different addresses", list(value))
    return tuple(value)


def _known(group: Mapping[str, Any], cls: type, name: str) -> dict[str, Any]:
    """Return `group` as a dict after checking that the dataclass `cls` has all its keys."""
    _check(isinstance(group, Mapping), name, "a group of options", group)
    known = [f.name for f in fields(cls)]
    for key in group:
        if key not in known:
            raise InvalidArgument(f"{name}.{key}: unknown option; known are {', '.join(known)}")
    return dict(group)


def _server(value: Any) -> ServerOptions:
    values = _known(value or {}, ServerOptions, "redraft.server")
    for name, low in (("window_epochs", 0), ("window_tokens", 0), ("restarts", 0)):
        if values.get(name) is not None:
            _integer(values, name, low, 2**62, "redraft.server")
    for name, most, wanted in (
        ("age_decay", 1.0, "a number above 0, at most 1"),
        ("reward_weight", math.inf, "a finite number, at least 0"),
    ):
        given = values.get(name)
        if given is not None:
            number = isinstance(given, (int, float)) and not isinstance(given, bool)
            good = number and 0 <= given <= most and given < math.inf and (given > 0 or name != "age_decay")
            _check(good, f"redraft.server.{name}", wanted, given)
            values[name] = float(given)
    if values.get("restarts", 0) is None:
        values["restarts"] = 0
    arguments = values.get("arguments") or ()
    good = not isinstance(arguments, str) and all(isinstance(a, (str, int, float)) for a in arguments)
    _check(good, "redraft.server.arguments", "a list of command line arguments", arguments)
    values["arguments"] = tuple(str(a) for a in arguments)
    insecure = values.get("insecure", False)
    _check(isinstance(insecure, bool), "redraft.server.insecure", "true or false", insecure)
    return ServerOptions(**values)


def _mapping(value: Any, name: str) -> dict[str, Any]:
    _check(value is None or isinstance(value, Mapping), name, "a mapping", value)
    return dict(value or {})


def _integer(values: dict[str, Any], key: str, low: int, high: int, group: str = "redraft") -> None:
    value = values[key]
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _check(good, f"{group}.{key}", f"a whole number from {low} to {high}", value)


def _number(values: dict[str, Any], key: str, low: float) -> None:
    value = values[key]
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value < float("inf")
    _check(good, f"redraft.{key}", f"a number of seconds, at least {low}", value)
    values[key] = float(value)


def _check(good: bool, name: str, wanted: str, value: Any) -> None:
    if not good:
        raise InvalidArgument(f"{name}: {value!r} is not {wanted}")
