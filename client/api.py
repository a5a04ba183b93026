"""Plain calls to one draft server: for tools, trainers' metrics and tests. These block and raise."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import grpc

from redraft.client.channels import open_channel, open_stub
from redraft.client.credentials import Credentials
from redraft.client.rendezvous import check_addresses
from redraft.errors import InvalidArgument
from redraft.status import error_of
from redraft.v1 import publish_pb2, stats_pb2


class DraftClient:
    """One server's unary calls, with redraft's exceptions.

    Args:
        address: the server as host:port.
        timeout: longest wait for a call, in seconds.
        credentials: TLS and token; None takes them from the environment (`Credentials.from_environment`).

    Raises (all methods):
        Unavailable: the server cannot be reached or does not answer in time.
        RedraftError: the subclass that `redraft.errors.BY_CODE` has for the server's status.
    """

    def __init__(
        self, address: str, *, timeout: float = 10.0, credentials: Credentials | None = None
    ) -> None:
        self.address = check_addresses([address])[0]
        self.timeout = timeout
        self.channel = open_channel(self.address, credentials)
        self.stub = open_stub(self.channel)

    def stats(self, run: str = "") -> stats_pb2.GetStatsResponse:
        """Return what the server holds, of one run or (empty name) of all."""
        answer: stats_pb2.GetStatsResponse = self._call(
            self.stub.GetStats, stats_pb2.GetStatsRequest(run=run)
        )
        return answer

    def forget(
        self,
        run: str,
        *,
        everything: bool = False,
        from_epoch: int | None = None,
        from_step: int | None = None,
        before_epoch: int | None = None,
    ) -> publish_pb2.ForgetResponse:
        """Remove part of a run's history; exactly one scope must be given.

        Args:
            run: the run's name.
            everything: the run itself.
            from_epoch: responses of this epoch and later ones.
            from_step: responses of this global step and later ones (resuming from an older checkpoint).
            before_epoch: responses of earlier epochs.
        """
        scopes: dict[str, Any] = {
            "everything": everything or None,
            "from_epoch": from_epoch,
            "from_step": from_step,
            "before_epoch": before_epoch,
        }
        given = {name: value for name, value in scopes.items() if value is not None}
        if len(given) != 1:
            raise InvalidArgument(f"scope: give exactly one of {', '.join(scopes)}")
        request = publish_pb2.ForgetRequest(run=run, **given)
        answer: publish_pb2.ForgetResponse = self._call(self.stub.Forget, request)
        return answer

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    def __enter__(self) -> DraftClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise error_of(error) from None
