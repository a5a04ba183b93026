"""Sends finished responses to the draft servers, off the training thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import tenacity

from redraft.client import publish_messages
from redraft.client.channels import RETRYABLE, Channels
from redraft.client.credentials import Credentials
from redraft.client.publish_messages import Item
from redraft.client.shards import Shards
from redraft.errors import InvalidArgument
from redraft.rollout import Rollout
from redraft.status import NUMBERS
from redraft.v1 import publish_pb2
from redraft.vocabulary import Vocabulary

_LOG = logging.getLogger("redraft.client")

_RETRYABLE_NUMBERS = frozenset(NUMBERS[code.name] for code in RETRYABLE)


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """What became of the responses handed to a Publisher. Counts are responses unless they say otherwise."""

    published: int
    """Acknowledged as durable."""
    refused: int
    """Refused by the server as malformed or of another vocabulary."""
    dropped: int
    """Given up: the queue was full, or the publisher was closed first."""
    pending: int
    """Waiting or on their way."""
    pending_bytes: int
    """Their token bytes."""
    retries: int
    """Calls that failed and were tried again."""
    last_error: str
    """Message of the newest failure; empty when there was none."""


class Publisher:
    """Publishes finished responses in the background.

    Each server address has its own thread and queue, so that one dead server does not hold up the others.
    Responses are sent again until a server acknowledges them as durable; the server stores each once. Safe to
    call from several threads.

    Args:
        addresses: servers as host:port; each prompt belongs to one of them.
        run: the run's name.
        vocabulary: the tokenizer's; None = unknown, then ids are only checked to be in [0, 2**31).
        max_pending_bytes: token bytes that may wait; beyond it the oldest waiting responses are dropped and counted.
        linger: how long to wait for more responses of a group before sending, in seconds.
        timeout: longest wait for one call, in seconds.
        credentials: TLS and token; None takes them from the environment (`Credentials.from_environment`).

    Raises:
        InvalidArgument: no address or an odd one, an empty run.
        FailedPrecondition: the credentials' files cannot be read.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        run: str,
        vocabulary: Vocabulary | None = None,
        max_pending_bytes: int = 1 << 30,
        linger: float = 0.02,
        timeout: float = 60.0,
        credentials: Credentials | None = None,
    ) -> None:
        if not run:
            raise InvalidArgument("run: must not be empty")
        if max_pending_bytes <= 0:
            raise InvalidArgument(f"max_pending_bytes: must be positive, got {max_pending_bytes}")
        self._run = run
        self._vocabulary = vocabulary
        self._max_pending_bytes = max_pending_bytes
        self._linger, self._timeout = linger, timeout
        self._credentials = credentials or Credentials.from_environment()
        self._shards = Shards(addresses, self._work, "redraft-publish", self._credentials)
        self._changed = threading.Condition()
        self._queues: dict[str, deque[Item]] = {address: deque() for address in self._shards.addresses}
        self._stop = threading.Event()
        self._pending = self._pending_bytes = 0
        self._published = self._refused = self._dropped = self._retries = 0
        self._last_error = ""
        self._said: set[str] = set()
        self._calls: dict[str, Any] = {}
        self._shards.start()

    def publish(self, rollouts: Sequence[Rollout]) -> None:
        """Queue finished responses and return at once; their arrays may be reused afterwards.

        Raises:
            InvalidArgument: a response is malformed; the message names its field, and none of `rollouts` is queued.
        """
        size = self._vocabulary.size if self._vocabulary is not None else 0
        items = [
            publish_messages.check(rollout, f"rollouts[{i}]", size) for i, rollout in enumerate(rollouts)
        ]
        with self._changed:
            if self._stop.is_set():
                self._dropped += len(items)
                self._say("closed", "redraft: the publisher is closed; responses published now are dropped")
                return
            for item in items:
                queue = self._queues[self._shards.owner(item.key)]
                queue.append(item)
                self._pending += 1
                self._pending_bytes += item.nbytes
                while self._pending_bytes > self._max_pending_bytes and queue:
                    self._drop(queue.popleft())
            self._changed.notify_all()

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Publish to these servers from now on; what waits for one that is gone goes to its prompts' new owners.

        Raises:
            InvalidArgument: no address or an odd one.
            FailedPrecondition: the token would travel unencrypted to one of them.
        """
        fresh = self._shards.check(addresses)
        with self._changed:
            if self._stop.is_set():
                return
            _, calls = self._shards.replace(fresh, self._queues, self._calls)
            self._changed.notify_all()
        for call in calls:
            call.cancel()

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is pending; False when `timeout` seconds passed before that."""
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Flush for at most `timeout` seconds, then stop; what is still pending is dropped and counted."""
        self.flush(timeout)
        self._stop.set()
        with self._changed:
            threads = self._shards.stop()
            self._changed.notify_all()
        for call in list(self._calls.values()):
            call.cancel()
        for thread in threads:
            thread.join(1.0)

    def stats(self) -> PublisherStats:
        """Return what became of the responses so far."""
        with self._changed:
            return PublisherStats(
                published=self._published,
                refused=self._refused,
                dropped=self._dropped,
                pending=self._pending,
                pending_bytes=self._pending_bytes,
                retries=self._retries,
                last_error=self._last_error,
            )

    # Below: called with the lock held.

    def _drop(self, item: Item) -> None:
        self._dropped += 1
        self._settle(item)
        self._say(
            "full",
            "redraft: too many responses wait to be published; dropping the oldest (counted as dropped)",
        )

    def _settle(self, item: Item) -> None:
        self._pending -= 1
        self._pending_bytes -= item.nbytes

    def _say(self, topic: str, message: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            _LOG.warning(message)

    # Below: each address's thread.

    def _work(self, address: str, stop: threading.Event) -> None:
        channels = Channels(self._credentials)
        queue = self._queues[address]
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda e: isinstance(e, grpc.RpcError) and e.code() in RETRYABLE
            ),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
            stop=tenacity.stop_when_event_set(stop),
            sleep=tenacity.sleep_using_event(stop),
            after=self._note_failure,
            reraise=True,
        )
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: queue or stop.is_set())
            stop.wait(self._linger)
            with self._changed:
                batch = publish_messages.take(queue) if self._queues.get(address) is queue else []
            if batch:
                self._deliver(channels, address, batch, retrying)
        with self._changed:
            if self._queues.get(address) is queue:  # the publisher is closed
                self._dropped += len(queue)
                while queue:
                    self._settle(queue.popleft())
            self._changed.notify_all()
        channels.close()

    def _deliver(
        self, channels: Channels, address: str, batch: list[Item], retrying: tenacity.Retrying
    ) -> None:
        groups = publish_messages.group(batch)
        outcomes: Sequence[publish_pb2.GroupOutcome] = ()
        failure = ""
        gave_up = False
        try:
            outcomes = retrying(self._send, channels, address, groups)
        except grpc.FutureCancelledError:
            failure, gave_up = "CANCELLED: the publisher was closed", True
        except grpc.RpcError as error:
            failure = f"{error.code().name}: {error.details()}"
            gave_up = error.code() in RETRYABLE  # only a closing publisher stops trying
        except Exception as error:  # never let a thread die with responses on its hands
            failure = f"{type(error).__name__}: {error}"
            _LOG.exception("redraft: publishing failed in an unexpected way")
        again: list[Item] = []
        with self._changed:
            if not failure and len(outcomes) != len(groups):
                failure = f"the server answered for {len(outcomes)} of {len(groups)} groups"
            moved = gave_up and not self._stop.is_set()  # the server is not in the list any more
            for i, group in enumerate(groups):
                if failure and moved:
                    self._shards.route(group, self._queues)
                    continue
                if failure and gave_up:
                    self._dropped += len(group)
                elif failure:
                    self._refuse(len(group), failure)
                elif outcomes[i].code == 0:
                    self._published += len(group)
                elif outcomes[i].code in _RETRYABLE_NUMBERS and not self._stop.is_set():
                    again.extend(group)
                    self._last_error = outcomes[i].message
                    continue
                else:
                    self._refuse(len(group), outcomes[i].message)
                for item in group:
                    self._settle(item)
            if again:
                self._retries += 1
                if address in self._queues:
                    self._queues[address].extendleft(reversed(again))
                else:
                    self._shards.route(again, self._queues)
                self._say("again", f"redraft: the server could not store responses yet: {self._last_error}")
            self._changed.notify_all()
        if again:
            self._stop.wait(1.0)

    def _refuse(self, count: int, message: str) -> None:
        self._refused += count
        self._last_error = message
        self._say("refused", f"redraft: the server refused {count} responses: {message} (counted as refused)")

    def _note_failure(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if not isinstance(error, grpc.RpcError) or error.code() not in RETRYABLE:
            return
        with self._changed:
            self._retries += 1
            self._last_error = f"{error.code().name}: {error.details()}"
            self._say(
                "down", f"redraft: publishing waits for a draft server ({self._last_error}); training goes on"
            )

    def _send(self, channels: Channels, address: str, groups: list[list[Item]]) -> Any:
        stub = channels.stub(address)
        call = stub.PublishRollouts.future(
            publish_messages.messages(self._run, self._vocabulary, groups), timeout=self._timeout
        )
        self._calls[address] = call
        outcomes = call.result().outcomes
        self._said.discard("down")
        return outcomes
