"""A second server on a port started happily and took half of the connections: gRPC's default allows it."""

from __future__ import annotations

import pytest

from redraft.errors import AlreadyExists
from redraft.server import ServerConfig, create_server


def test_a_second_server_on_the_port_is_refused_and_leaves_its_directory_free(tmp_path):
    first, port = create_server(ServerConfig(address="127.0.0.1:0", data_directory=tmp_path / "first"))
    first.start()
    try:
        second = ServerConfig(address=f"127.0.0.1:{port}", data_directory=tmp_path / "second")
        with pytest.raises(AlreadyExists, match=rf"^address: cannot listen on 127\.0\.0\.1:{port}"):
            create_server(second)
    finally:
        first.stop(0.0)
    third, _ = create_server(second)
    third.stop(0.0)
