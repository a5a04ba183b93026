"""Random messages at every call: the server answers each with a status of its own and lives on.

REDRAFT_FUZZ_SECONDS sets how long (default 3).
"""

from __future__ import annotations

import os
import random
import time

import grpc

from redraft.v1 import drafting_pb2, index_pb2, publish_pb2, relay_pb2, stats_pb2

SECONDS = float(os.environ.get("REDRAFT_FUZZ_SECONDS", "3"))
CALLS = {
    "PublishRollouts": publish_pb2.PublishRolloutsRequest,
    "FetchIndex": index_pb2.FetchIndexRequest,
    "Draft": drafting_pb2.DraftRequest,
    "RelayLive": relay_pb2.RelayRequest,
    "ReportAcceptance": stats_pb2.ReportAcceptanceRequest,
    "GetStats": stats_pb2.GetStatsRequest,
    "Forget": publish_pb2.ForgetRequest,
}
NUMBERS = (0, 1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def fill(message, rng: random.Random, depth: int = 0):
    """Set random fields of a message, most of them plausible."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.15:
            continue
        for _ in range(rng.choice((0, 1, 1, 2, 5)) if field.is_repeated else 1):
            if field.type == field.TYPE_MESSAGE:
                if depth < 6:
                    child = getattr(message, field.name)
                    fill(child.add() if field.is_repeated else child, rng, depth + 1)
                    if not field.is_repeated:
                        child.SetInParent()
                continue
            value = scalar(field, rng)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


def scalar(field, rng: random.Random):
    if field.type == field.TYPE_BYTES:
        if field.name == "key":
            return b"" if rng.random() < 0.8 else rng.randbytes(rng.choice((1, 16)))
        ids = b"".join(rng.randrange(50).to_bytes(4, "little") for _ in range(rng.randrange(20)))
        return ids if rng.random() < 0.9 else rng.randbytes(rng.randrange(30))
    if field.type == field.TYPE_STRING:
        return rng.choice(("run", "run", "run", "", "other", "a\nb", "\u2603", "x" * 300))
    if field.type == field.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type in (field.TYPE_DOUBLE, field.TYPE_FLOAT):
        return rng.choice((0.0, 1.0, -1.0, float("nan"), float("inf"), 1e308))
    if field.name == "size":
        return rng.choice((0, 0, 50, 51))
    bits = 32 if field.type == field.TYPE_UINT32 else 64
    return rng.choice([n for n in NUMBERS if n < 2**bits]) if rng.random() < 0.3 else rng.randrange(4)


def outcome(call, messages: list[bytes]) -> tuple[str, str]:
    """Return the status and its message of one call."""
    try:
        list(call(iter(messages), timeout=20))
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def test_random_messages_never_reach_beyond_their_call(start):
    running = start(build_ahead=0.01)
    rng = random.Random(int(os.environ.get("REDRAFT_FUZZ_SEED", "1")))
    seen: dict[str, set[str]] = {}
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        name = rng.choice(list(CALLS))
        call = running.channel.stream_stream(f"/redraft.v1.DraftService/{name}")
        count = rng.choice((0, 1, 1, 2, 4)) if name in ("PublishRollouts", "Draft", "RelayLive") else 1
        messages = [fill(CALLS[name](), rng).SerializeToString() for _ in range(count)]
        if messages and rng.random() < 0.05:
            messages[0] = rng.randbytes(40)
            garbage = True
        else:
            garbage = False
        status, details = outcome(call, messages)
        if not garbage:
            assert status not in ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"), (name, details, messages)
        seen.setdefault(name, set()).add(status)
    assert set(seen) == set(CALLS)
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set().union(*seen.values())
    assert running.stub.GetStats(stats_pb2.GetStatsRequest(), timeout=20).server.version
