"""The live relay's stream to one server."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc

from redraft.client.channels import RETRYABLE, Channels
from redraft.client.relay_groups import Int32Array, Mailbox, RelayedGroup
from redraft.errors import DataLoss, RedraftError
from redraft.rollout import CONTEXT_ONLY
from redraft.v1 import common_pb2, relay_pb2
from redraft.wire import check_range, tokens_from_bytes, tokens_to_bytes

if TYPE_CHECKING:
    from redraft.client.relay import Relay

_LOG = logging.getLogger("redraft.client")

_MESSAGE_BYTES = 1 << 20
"""About how much one message carries, in bytes."""
_WAITS = (0.2, 5.0)
"""Shortest and longest wait before connecting again, in seconds."""
_REFUSED_WAIT = 30.0
"""Wait after a refusal that another try is not likely to mend, in seconds."""


class RelayLink:
    """The stream to one server, opened again whenever it ends."""

    def __init__(self, relay: Relay, address: str) -> None:
        self._relay = relay
        self.address = address
        self.needed = threading.Event()
        """Set once a group belongs to this server."""
        self.connected = False
        self._closed = threading.Event()
        self._box: Mailbox | None = None
        self._call: grpc.Call | None = None
        self._left: list[bytes] = []
        self._missed = 0
        self._warned = False
        self.thread = threading.Thread(target=self._work, name=f"redraft-relay-{address}", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End the stream for good."""
        self._closed.set()
        self.needed.set()
        with self._relay.lock:
            if self._box is not None:
                self._box.close()
            if self._call is not None:
                self._call.cancel()

    def leave(self, group: RelayedGroup) -> None:
        """Tell the server, with the next message, that the group is not served from here any more."""
        if group.joined:
            self._left.append(group.name)

    def offer(self, backlog: int) -> None:
        """Hand the stream its next message, if it took the last one; the relay's lock is held."""
        groups = [group for group in self._relay.groups.values() if group.address == self.address]
        if self._box is None or self._box.full:
            for group in groups:
                self._relay.counts["dropped_tokens"] += group.drop_oldest(backlog)
                group.over = not group.running and self._box is None
            return
        message = relay_pb2.RelayRequest()
        room = _MESSAGE_BYTES
        for group in groups:
            if room <= 0:
                break
            if not group.joined:
                group.joined = group.dirty = True
                token_ids = tokens_to_bytes(group.prompt)
                prompt = common_pb2.Prompt(token_ids=token_ids, key=group.key)
                message.join.add(prompt=prompt, group_id=group.group_id)
                room -= len(token_ids)
            if group.dirty and group.wanted:
                self._relay.counts["dropped_tokens"] += group.drop_oldest(backlog)
                sent = group.compose(message, room)
                self._relay.counts["sent_tokens"] += sent
                room -= 4 * sent
            if not group.running and not (group.dirty and group.wanted):
                message.leave.append(group.name)
                group.over = True
        message.leave.extend(self._left)
        self._left.clear()
        if message.join or message.tokens or message.leave:
            self._box.put(message)

    def _work(self) -> None:
        channels = Channels(self._relay.credentials)
        wait = _WAITS[0]
        while not self._closed.is_set():
            self.needed.wait()
            if self._closed.is_set():
                break
            error = self._connect(channels)
            if self._closed.is_set():
                break
            if self.connected:
                wait = _WAITS[0]
            self.connected = False
            again = error is None or error.code() in RETRYABLE
            self._failed(error, again)
            self._closed.wait(random.uniform(0.5, 1.0) * wait if again else _REFUSED_WAIT)
            wait = min(2 * wait, _WAITS[1])
        channels.close()

    def _connect(self, channels: Channels) -> grpc.RpcError | None:
        """Hold a stream open; return why it ended."""
        box = Mailbox(self._relay.hello)
        try:
            call = channels.stub(self.address).RelayLive(box.messages())
            with self._relay.lock:
                for group in self._relay.groups.values():
                    if group.address == self.address:
                        group.move(self.address)
                self._box, self._call, self._missed = box, call, 0
                self._left.clear()
            if self._closed.is_set():
                call.cancel()
            for response in call:
                self.connected, self._warned = True, False
                self._receive(response)
        except grpc.RpcError as error:
            return error
        except Exception as error:
            with self._relay.lock:
                self._relay.last_error = f"{type(error).__name__}: {error}"
            _LOG.debug("traceback", exc_info=True)
        finally:
            box.close()
            with self._relay.lock:
                self._box = None
                if self._call is not None:
                    self._call.cancel()
                for group in self._relay.groups.values():
                    if group.address == self.address:
                        group.wanted = False
        return None

    def _receive(self, response: relay_pb2.RelayResponse) -> None:
        relay = self._relay
        with relay.lock:
            relay.counts["missed_tokens"] += response.dropped - self._missed
            self._missed = response.dropped
            for told in response.interest:
                group = relay.groups.get(told.group)
                if group is not None and group.address == self.address:
                    group.wanted = told.workers > 0
                    group.dirty = True
        counts = dict.fromkeys(("received_tokens", "gaps", "dropped_tokens"), 0)
        error = ""
        for tokens, token_ids in self._checked(response):
            group = relay.groups.get(tokens.group)
            if self._closed.is_set():
                return
            if group is None:
                continue  # it ended here meanwhile
            try:
                received, gaps, dropped = group.receive(tokens, token_ids)
            except RedraftError as failure:
                error = str(failure)
                continue
            counts["received_tokens"] += received
            counts["gaps"] += gaps
            counts["dropped_tokens"] += dropped
        with relay.lock:
            for name, count in counts.items():
                relay.counts[name] += count
            relay.last_error = error or relay.last_error

    def _checked(
        self, response: relay_pb2.RelayResponse
    ) -> Iterator[tuple[relay_pb2.RelayTokens, Int32Array]]:
        """Yield what others wrote, group by group, with its tokens; leave out what is malformed."""
        size, parts = self._relay.vocabulary_size, [tokens.token_ids for tokens in response.tokens]
        try:  # all at once: checking a few tokens costs as much as checking many
            if any(len(part) % 4 for part in parts):
                raise DataLoss("token_ids: a part of a token is missing")
            together = _tokens(b"".join(parts), size)
        except RedraftError:
            for tokens, part in zip(response.tokens, parts, strict=True):
                try:
                    yield tokens, _tokens(part, size)
                except RedraftError as error:
                    with self._relay.lock:
                        self._relay.last_error = str(error)
            return
        at = 0
        for tokens, part in zip(response.tokens, parts, strict=True):
            yield tokens, together[at : at + len(part) // 4]
            at += len(part) // 4

    def _failed(self, error: grpc.RpcError | None, again: bool) -> None:
        with self._relay.lock:
            self._relay.counts["failures"] += 1
            if error is not None:
                self._relay.last_error = f"{error.code().name}: {error.details()}"
            text = self._relay.last_error
        if not self._warned:
            self._warned = True
            what = "trying again" if again else "the server refuses"
            _LOG.warning(
                "redraft: siblings on other workers are not heard of through %s (%s); %s",
                self.address,
                text,
                what,
            )


def _tokens(data: bytes, vocabulary_size: int) -> Int32Array:
    """Return the ids in `data`, to which `CONTEXT_ONLY` may be added.

    Raises:
        InvalidArgument: one is beyond the vocabulary.
    """
    ids = tokens_from_bytes(data, "token_ids")
    if vocabulary_size:
        check_range(ids & (CONTEXT_ONLY - 1), "token_ids", vocabulary_size)
    return ids
