"""The log: one line an event, as text or JSON, without token ids."""

from __future__ import annotations

import io
import json
import logging

import pytest

from redraft.server.logs import Throttle, event, formatter


@pytest.fixture
def log():
    """Return a function that logs through a format and returns the lines."""
    logger = logging.getLogger("redraft.test-log")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False

    def write(form: str, work) -> str:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter(form))
        logger.addHandler(handler)
        try:
            work(logger)
        finally:
            logger.removeHandler(handler)
        return stream.getvalue()

    return write


def test_text_shows_the_fields_behind_the_event(log):
    line = log("text", lambda to: event(to, logging.INFO, "forgot", run="a run", tokens=7, seconds=0.12345))
    assert line.endswith("INFO redraft.test-log: forgot run='a run' tokens=7 seconds=0.123\n")


@pytest.mark.parametrize("evil", ["two\nlines", 'quo"te', "", "\x1b[31mred"])
def test_a_field_can_neither_break_nor_forge_a_line(log, evil):
    text = log("text", lambda to: event(to, logging.INFO, "forgot", run=evil))
    assert text.count("\n") == 1
    assert "\x1b" not in text
    line = log("json", lambda to: event(to, logging.INFO, "forgot", run=evil))
    assert line.count("\n") == 1
    assert json.loads(line)["run"] == evil


def test_json_has_the_same_keys_in_every_line(log):
    line = log("json", lambda to: event(to, logging.WARNING, "forgot", level="mine", path=object))
    parsed = json.loads(line)
    assert parsed.pop("time")
    assert parsed == {
        "level": "WARNING",
        "logger": "redraft.test-log",
        "event": "forgot",
        "path": "<class 'object'>",
    }


def test_other_libraries_lines_and_exceptions_are_formatted_too(log):
    def fail(to):
        try:
            raise ValueError("what went wrong")
        except ValueError:
            to.exception("it failed at %s", "noon")

    assert "it failed at noon\nTraceback" in log("text", fail)
    parsed = json.loads(log("json", fail))
    assert parsed["event"] == "it failed at noon"
    assert "ValueError: what went wrong" in parsed["exc_info"]


def test_what_clients_bring_about_is_said_once_a_while():
    throttle = Throttle(seconds=1000.0)
    assert [throttle.allows("peer", limit) for limit in ("calls", "calls", "rate", "calls")] == [
        True,
        False,
        True,
        False,
    ]
    assert [Throttle(seconds=0.0).allows("peer") for _ in range(2)] == [True, True]


def test_the_server_logs_refusals_with_their_reason_and_never_token_ids(process):
    from redraft.client.channels import open_channel, open_stub
    from redraft.v1 import common_pb2, publish_pb2
    from redraft.wire import tokens_to_bytes

    server = process()
    server.flags = ("--log-format", "json", "--log-level", "debug")
    channel = open_channel(server.start())
    stub = open_stub(channel)
    group = publish_pb2.Group(
        prompt=common_pb2.Prompt(token_ids=tokens_to_bytes([987654, 987655])),
        responses=[publish_pb2.Response(token_ids=tokens_to_bytes([987656]), sample=i) for i in (0, 0)],
    )
    good = publish_pb2.Group(prompt=group.prompt, responses=group.responses[:1])
    run = common_pb2.Run(name="my run")
    stub.PublishRollouts(
        iter([publish_pb2.PublishRolloutsRequest(run=run, groups=[group, good])]), timeout=20
    )
    stub.Forget(publish_pb2.ForgetRequest(run="my run", from_epoch=0), timeout=20)
    channel.close()
    status, log = server.stop()
    assert status == 0
    events = {each["event"]: each for each in map(json.loads, log.splitlines())}
    refused = events["groups refused"]
    assert (refused["run"], refused["groups"], refused["of"]) == ("my run", 1, 2)
    assert refused["code"] == "INVALID_ARGUMENT"
    assert refused["reason"].startswith("responses[1].sample:")
    assert events["run opened"]["run"] == "my run"
    assert (events["forgot"]["responses"], events["forgot"]["tokens"]) == (1, 1)
    assert "98765" not in log
