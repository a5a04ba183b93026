"""The gRPC service: turns messages into calls of the parts, and exceptions into status codes."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NoReturn, TypeVar

import grpc

from redraft._core import FrozenIndex
from redraft.errors import InvalidArgument, NotFound, RedraftError, ResourceExhausted
from redraft.server import ingest
from redraft.server.acceptance import AcceptanceBook
from redraft.server.ahead import AheadBuilder
from redraft.server.chunks import encode_chunks
from redraft.server.config import ServerConfig
from redraft.server.drafting import DraftSession
from redraft.server.history import Appended, GroupRecord, History, Int32Array, RunRecord
from redraft.server.indexes import BuiltIndex, IndexShelf
from redraft.server.logs import Throttle, event
from redraft.server.metrics import Levels, Metrics
from redraft.server.relay import RelayHub
from redraft.server.relay_metrics import RelayLevels
from redraft.server.stats import Stats
from redraft.status import NAMES, NUMBERS, status_of
from redraft.v1 import (
    common_pb2,
    drafting_pb2,
    index_pb2,
    publish_pb2,
    relay_pb2,
    service_pb2_grpc,
    stats_pb2,
)
from redraft.vocabulary import Vocabulary

_LOG = logging.getLogger("redraft.server")
_HEADER = index_pb2.IndexHeader

F = TypeVar("F", bound=Callable[..., Any])


def _abort(context: grpc.ServicerContext, error: BaseException) -> NoReturn:
    """End the call with the error's status; what redraft did not raise on purpose tells the client nothing."""
    if isinstance(error, RedraftError):
        context.abort(status_of(error), str(error))
    if isinstance(error, grpc.RpcError) or not context.is_active():
        context.abort(grpc.StatusCode.CANCELLED, "the client went away")
    _LOG.error("unexpected failure", exc_info=error)
    context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has the details")
    raise AssertionError("abort raises")


def _unary(method: F) -> F:
    @functools.wraps(method)
    def wrapper(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        with self.counted():
            try:
                return method(self, request, context)
            except Exception as error:
                _abort(context, error)

    return wrapper  # type: ignore[return-value]


def _streaming(method: F) -> F:
    @functools.wraps(method)
    def wrapper(self: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with self.counted():
            try:
                yield from method(self, request, context)
            except Exception as error:
                _abort(context, error)

    return wrapper  # type: ignore[return-value]


class DraftService(service_pb2_grpc.DraftServiceServicer):
    """Implements `redraft.v1.DraftService`; see the .proto files for what each call promises."""

    def __init__(self, config: ServerConfig, history: History, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._limits = config.limits
        self._chunk_bytes = min(config.chunk_bytes, config.limits.message_bytes // 2)
        self._history = history
        self._shelf = IndexShelf(
            history, config.window, memory_bytes=config.index_bytes, on_build=self._metrics.count_build
        )
        self._ahead = (
            AheadBuilder(history, self._shelf, delay=config.build_ahead) if config.build_ahead else None
        )
        self._acceptance = AcceptanceBook()
        self.relay = RelayHub(config.limits, config.relay)
        self._lock = threading.Lock()
        self._refused_groups = 0
        self._throttle = Throttle()
        self._calls = 0
        self._draft_streams = threading.BoundedSemaphore(config.limits.draft_streams)
        levels = Levels(
            history,
            config.data_directory,
            self._shelf,
            config.index_bytes,
            lambda: len(self._ahead) if self._ahead is not None else 0,
            self._acceptance,
        )
        self._metrics.registry.register(levels)
        self._metrics.registry.register(RelayLevels(self.relay.counts))
        self._stats = Stats(
            history, self._shelf, self._acceptance, self.relay.counts, lambda: self._refused_groups
        )

    @property
    def calls(self) -> int:
        """Calls that are being answered now."""
        return self._calls

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count a call while it is being answered."""
        with self._lock:
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    def end_streams(self) -> None:
        """End the streams that last as long as a worker does; call it when no new calls are taken any more."""
        self.relay.close()

    def close(self) -> None:
        """Stop working in the background; call it before the history is closed."""
        if self._ahead is not None:
            self._ahead.close()

    @_unary
    def PublishRollouts(  # noqa: N802
        self, requests: Iterator[publish_pb2.PublishRolloutsRequest], context: grpc.ServicerContext
    ) -> publish_pb2.PublishRolloutsResponse:
        """Store finished responses."""
        run: RunRecord | None = None
        outcomes: list[publish_pb2.GroupOutcome] = []
        waiting: list[tuple[Future[list[Appended]], list[GroupRecord], list[int]]] = []
        for message in requests:
            run = self._run_of_stream(message, run, create=True)
            if len(outcomes) + len(message.groups) > self._limits.stream_groups:
                raise InvalidArgument(
                    f"groups: more than {self._limits.stream_groups} in one stream; open another"
                )
            records: list[GroupRecord] = []
            places: list[int] = []
            for group in message.groups:
                try:
                    records.append(ingest.check_group(group, self._limits, run.vocabulary))
                    places.append(len(outcomes))
                    outcomes.append(publish_pb2.GroupOutcome())
                except InvalidArgument as error:
                    outcomes.append(_refusal(error))
            if records:
                waiting.append((self._history.append(run, records), records, places))
        if run is None:
            raise InvalidArgument("run: the stream ended without a first message that names it")
        for future, records, places in waiting:
            try:
                results = future.result()
                if self._ahead is not None:
                    self._ahead.note(run, records)
            except RedraftError as error:
                results = [Appended(error=error)] * len(places)
            for place, result in zip(places, results, strict=True):
                outcomes[place] = _refusal(result.error) if result.error is not None else _outcome(result)
            for record, result in zip(records, results, strict=True):
                if result.error is None:
                    self._metrics.count_stored(record, result)
        self._note_refusals(run, outcomes)
        return publish_pb2.PublishRolloutsResponse(outcomes=outcomes)

    @_streaming
    def FetchIndex(  # noqa: N802
        self, request: index_pb2.FetchIndexRequest, context: grpc.ServicerContext
    ) -> Iterator[index_pb2.FetchIndexResponse | bytes]:
        """Send the frozen indexes that changed since the sender's revision."""
        run = self._known_run(request.run)
        if not request.prompts:
            raise InvalidArgument("prompts: must name at least one prompt")
        if len(request.prompts) > self._limits.fetch_prompts:
            raise InvalidArgument(f"prompts: more than {self._limits.fetch_prompts} in one call")
        checked = [
            ingest.check_prompt(wanted.prompt, f"prompts[{i}].prompt", self._limits, run.vocabulary)
            for i, wanted in enumerate(request.prompts)
        ]
        for position, (key, token_ids) in enumerate(checked):
            header, built = self._look_up(run, key, token_ids, request.prompts[position].revision)
            yield index_pb2.FetchIndexResponse(position=position, header=header)
            if built is not None:
                # Encoded already: see chunks.
                yield from encode_chunks(position, built.blob, self._chunk_bytes)
                self._metrics.count_sent(len(built.blob))

    @_streaming
    def Draft(  # noqa: N802
        self, requests: Iterator[drafting_pb2.DraftRequest], context: grpc.ServicerContext
    ) -> Iterator[drafting_pb2.DraftResponse]:
        """Draft for an engine that does not link the core."""
        if not self._draft_streams.acquire(blocking=False):
            raise ResourceExhausted(f"draft_streams: more than {self._limits.draft_streams} are open")
        try:
            run: RunRecord | None = None
            session: DraftSession | None = None
            for message in requests:
                run = self._run_of_stream(message, run, create=False)
                if session is None:
                    session = DraftSession(
                        functools.partial(self._index_of, run), self._limits, run.vocabulary
                    )
                yield session.answer(message)
        finally:
            self._draft_streams.release()

    @_streaming
    def RelayLive(  # noqa: N802
        self, requests: Iterator[relay_pb2.RelayRequest], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Tell a worker what siblings write elsewhere."""
        yield from self.relay.serve(requests, self._run_of_worker)

    @_unary
    def ReportAcceptance(  # noqa: N802
        self, request: stats_pb2.ReportAcceptanceRequest, context: grpc.ServicerContext
    ) -> stats_pb2.ReportAcceptanceResponse:
        """Take a worker's counters."""
        ingest.check_name(request.run, "run")
        ingest.check_name(request.worker, "worker")
        if not request.HasField("acceptance"):
            raise InvalidArgument("acceptance: must be set")
        ingest.check_acceptance(request.acceptance)
        epoch = request.epoch if request.HasField("epoch") else None
        self._acceptance.report(request.run, request.worker, epoch, request.acceptance)
        return stats_pb2.ReportAcceptanceResponse()

    @_unary
    def GetStats(  # noqa: N802
        self, request: stats_pb2.GetStatsRequest, context: grpc.ServicerContext
    ) -> stats_pb2.GetStatsResponse:
        """Tell what the server holds and how its drafts fare."""
        return self.stats(request.run)

    def stats(self, only: str = "") -> stats_pb2.GetStatsResponse:
        """Return what the server holds and how its drafts fare, for one run or (empty name) for all.

        Raises:
            NotFound: there is no such run.
        """
        return self._stats.answer(only)

    @_unary
    def Forget(  # noqa: N802
        self, request: publish_pb2.ForgetRequest, context: grpc.ServicerContext
    ) -> publish_pb2.ForgetResponse:
        """Remove part of a run's history."""
        scope = ingest.check_scope(request)
        run = self._history.run(ingest.check_name(request.run, "run"))
        if run is None:
            raise NotFound(f"run: there is no run {request.run!r}")
        responses, tokens = self._history.forget(run, scope)
        event(
            _LOG,
            logging.INFO,
            "forgot",
            run=run.name,
            scope=request.WhichOneof("scope"),
            responses=responses,
            tokens=tokens,
        )
        if scope.everything:
            self._acceptance.forget(run.name)
        return publish_pb2.ForgetResponse(responses=responses, tokens=tokens)

    def _note_refusals(self, run: RunRecord, outcomes: list[publish_pb2.GroupOutcome]) -> None:
        refused = [outcome for outcome in outcomes if outcome.code]
        if not refused:
            return
        with self._lock:
            self._refused_groups += len(refused)
        for outcome in refused:
            self._metrics.count_refused_group(NAMES[outcome.code])
        if not self._throttle.allows("groups", run.name, NAMES[refused[0].code]):
            return
        event(
            _LOG,
            logging.WARNING,
            "groups refused",
            run=run.name,
            groups=len(refused),
            of=len(outcomes),
            code=NAMES[refused[0].code],
            reason=refused[0].message,
        )

    def _run_of_stream(self, message: Any, run: RunRecord | None, *, create: bool) -> RunRecord:
        if run is not None and not message.HasField("run"):
            return run
        if not message.HasField("run"):
            raise InvalidArgument("run: the first message of the stream must set it")
        name, vocabulary = ingest.check_run(message.run)
        if run is not None and run.name != name:
            raise InvalidArgument(
                f"run.name: the stream began with run {run.name!r}; open another for {name!r}"
            )
        return self._history.open_run(name, vocabulary) if create else self._known_run(message.run)

    def _run_of_worker(self, message: common_pb2.Run) -> tuple[str, Vocabulary]:
        name, vocabulary = ingest.check_run(message)
        run = self._history.run(name)
        if run is None:
            return name, vocabulary
        run.check_vocabulary(vocabulary)
        return name, run.vocabulary.merged(vocabulary)

    def _known_run(self, message: common_pb2.Run) -> RunRecord:
        name, vocabulary = ingest.check_run(message)
        run = self._history.run(name)
        if run is None:
            raise NotFound(f"run.name: there is no run {name!r}; it begins with its first published response")
        run.check_vocabulary(vocabulary)
        return run

    def _look_up(
        self, run: RunRecord, key: bytes, token_ids: Int32Array, held: int
    ) -> tuple[index_pb2.IndexHeader, BuiltIndex | None]:
        try:
            prompt = self._history.prompt(run, key, token_ids)
            if prompt is None:
                self._shelf.note("absent")
                return _HEADER(outcome=_HEADER.OUTCOME_NO_HISTORY), None
            if prompt.revision == held:
                self._shelf.note("not_modified")
                return _HEADER(outcome=_HEADER.OUTCOME_NOT_MODIFIED, revision=held), None
            built = self._shelf.get(prompt)
        except RedraftError as error:  # one prompt's trouble must not cost the others of the call theirs
            self._shelf.note("failed")
            if self._throttle.allows("index", run.name, error.code):
                event(_LOG, logging.WARNING, "no index", run=run.name, code=error.code, reason=error)
            return _HEADER(outcome=_HEADER.OUTCOME_FAILED, code=NUMBERS[error.code], message=str(error)), None
        if built is None:
            return _HEADER(outcome=_HEADER.OUTCOME_NO_HISTORY, revision=prompt.revision), None
        header = _HEADER(
            outcome=_HEADER.OUTCOME_SENT,
            revision=built.revision,
            total_bytes=len(built.blob),
            responses=built.responses,
            tokens=built.tokens,
            newest_epoch=built.newest_epoch,
        )
        return header, built

    def _index_of(self, run: RunRecord, key: bytes, token_ids: Int32Array) -> FrozenIndex | None:
        prompt = self._history.prompt(run, key, token_ids)
        built = self._shelf.get(prompt) if prompt is not None else None
        return built.index if built is not None else None


def _refusal(error: Exception) -> publish_pb2.GroupOutcome:
    return publish_pb2.GroupOutcome(code=status_of(error).value[0], message=str(error))


def _outcome(result: Appended) -> publish_pb2.GroupOutcome:
    return publish_pb2.GroupOutcome(
        stored=result.stored, replaced=result.replaced, unchanged=result.unchanged
    )
