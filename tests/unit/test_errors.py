"""One set of exceptions, one table of gRPC status codes."""

from __future__ import annotations

import grpc

from redraft import errors


def test_every_error_stands_for_a_grpc_status_code() -> None:
    assert errors.BY_CODE
    for code, cls in errors.BY_CODE.items():
        assert cls.code == code
        assert code in grpc.StatusCode.__members__


def test_every_public_error_is_in_the_table() -> None:
    classes = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.RedraftError)}
    assert classes - {errors.RedraftError} == set(errors.BY_CODE.values())
