"""The proposer's options: `additional_config["redraft"]` first, then the environment, then the defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from redraft.errors import InvalidArgument

FILE_PREFIX = "file:"
POLICIES = ("blend", "longest")
"""What `Drafter` knows."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the proposer drafts and where its history comes from.

    Every field can be given in vLLM's `additional_config={"redraft": {...}}` under its own name, or in the
    environment as `REDRAFT_` and its name in capitals (`REDRAFT_ADDRESSES`).
    """

    addresses: tuple[str, ...] = ()
    """Draft servers, "host:port" each (environment: separated by commas), or only "file:PATH": a file that holds
    them and is read again while the engine runs. Empty: embedded mode, in which the
    engine's own finished responses are the history."""
    run: str = "default"
    """Run whose history is asked for; the trainer publishes under the same name."""
    vocabulary: str = ""
    """Fingerprint of the tokenizer's vocabulary; a server holding the run under another one refuses. Empty:
    not checked."""
    policy: str = "blend"
    """Of `POLICIES`. "blend": contexts of all sources, weighed by what was learned of them (doc/policy.md). "longest":
    the longest match alone, half the work and fewer accepted tokens."""
    min_survival: float = 0.25
    """A token is drafted while the probability that it and all before it are accepted is at least this, 0 to
    1."""
    budget: int | str = -1
    """Most draft tokens for the whole batch in one step; -1: no bound but `num_speculative_tokens` a request; "auto":
    as many as pay, by what steps are found to cost (`redraft.auto_budget`). "auto" is for engines that run at high
    load for long: learning takes steps, and on two CPU cores and short runs it was no faster than no bound."""
    cost_table: str = ""
    """With budget "auto": file of what a step costs, to begin with (`redraft bench cost-table`). Empty: it is learned
    from the first steps."""
    calibration_dir: str = ""
    """Folder that keeps what was learned of the drafts' acceptance, so that a run that starts again goes on from it;
    a file for each `run`. Empty: each start learns anew."""
    threads: int = 1
    """Threads that share the drafting for 64 requests or more, the engine's own included, > 0. More than one pays
    where a step takes more than about a millisecond to draft for and cores are free; to begin takes some 50
    microseconds. What is drafted doesn't depend on it."""
    history_tokens: int = 4_000_000
    """Embedded mode: most response tokens kept, about 30 bytes each, indexes included; the prompts whose
    responses are oldest go first. With a server: most response tokens kept for siblings that start late."""
    relay: bool = True
    """With a server: draft also from what siblings write on other workers at the same time."""
    report_seconds: float = 0.5
    """How often accept counts are sent to the server, in seconds, > 0."""
    log_seconds: float = 30.0
    """How often a line with the accept counts is logged while drafting, in seconds; 0: never."""
    strict: bool = False
    """True: an error while drafting stops the engine (tests). False: it is logged and drafting goes off."""

    def __post_init__(self) -> None:
        for address in self.addresses:
            if address.startswith(FILE_PREFIX) and len(self.addresses) == 1:
                continue
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise InvalidArgument(f'addresses: "{address}" is not "host:port" with a port of 1 to 65535')
        if not self.run:
            raise InvalidArgument("run: is empty; name the run, as the trainer that publishes does")
        if self.policy not in POLICIES:
            raise InvalidArgument(f"policy: {self.policy!r} is none of {', '.join(POLICIES)}")
        if not 0.0 <= self.min_survival <= 1.0:
            raise InvalidArgument(f"min_survival: {self.min_survival} is not between 0 and 1")
        if self.budget != "auto" and not (isinstance(self.budget, int) and self.budget >= -1):
            raise InvalidArgument(
                f'budget: {self.budget!r} is neither "auto" nor -1 (no bound) nor a number of tokens >= 0'
            )
        if self.cost_table and self.budget != "auto":
            raise InvalidArgument(f'cost_table: is for budget "auto" only, and budget is {self.budget}')
        if not self.threads > 0:
            raise InvalidArgument(
                f"threads: {self.threads} is not > 0; 1 starts none beside the engine's own"
            )
        if self.history_tokens < 0:
            raise InvalidArgument(f"history_tokens: {self.history_tokens} is negative")
        if not self.report_seconds > 0:
            raise InvalidArgument(f"report_seconds: {self.report_seconds} is not > 0")
        if not self.log_seconds >= 0:
            raise InvalidArgument(f"log_seconds: {self.log_seconds} is negative")


def load_options(additional_config: object, environment: Mapping[str, str] | None = None) -> Options:
    """Read the options from vLLM's `additional_config` and the environment.

    Args:
        additional_config: `VllmConfig.additional_config`; what is not under "redraft" belongs to others.
        environment: `os.environ` when None.

    Raises:
        InvalidArgument: an unknown option, or a value of the wrong type or out of range; starts with its
            name.
    """
    environment = os.environ if environment is None else environment
    given: object = additional_config.get("redraft", {}) if isinstance(additional_config, Mapping) else {}
    if not isinstance(given, Mapping):
        raise InvalidArgument(f'additional_config["redraft"]: {given!r} is not a mapping of options')
    known = {field.name: field for field in fields(Options)}
    if unknown := sorted(set(given) - set(known)):
        raise InvalidArgument(
            f'additional_config["redraft"]["{unknown[0]}"]: no such option; there are {", ".join(known)}'
        )
    values: dict[str, Any] = {}
    for name in known:
        if name in given:
            values[name] = _PARSERS[name](name, given[name])
        elif (variable := f"REDRAFT_{name.upper()}") in environment:
            values[name] = _PARSERS[name](variable, environment[variable])
    return Options(**values)


def _addresses(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise InvalidArgument(f'{name}: {value!r} is neither "host:port,..." nor a list of "host:port"')
    return tuple(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{name}: {value!r} is not a string")
    return value


def _whole(name: str, value: object) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError
        return int(value)
    except ValueError:
        raise InvalidArgument(f"{name}: {value!r} is not a whole number") from None


def _budget(name: str, value: object) -> int | str:
    return "auto" if value == "auto" else _whole(name, value)


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        return float(value)
    except ValueError:
        raise InvalidArgument(f"{name}: {value!r} is not a number") from None


def _switch(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("0", "1"):
        return value == "1"
    raise InvalidArgument(f"{name}: {value!r} is not true or false (environment: 1 or 0)")


_PARSERS: dict[str, Callable[[str, object], Any]] = {
    "addresses": _addresses,
    "run": _text,
    "vocabulary": _text,
    "policy": _text,
    "min_survival": _number,
    "budget": _budget,
    "cost_table": _text,
    "calibration_dir": _text,
    "threads": _whole,
    "history_tokens": _whole,
    "relay": _switch,
    "report_seconds": _number,
    "log_seconds": _number,
    "strict": _switch,
}
