"""Stopping hung for ever when gRPC forgot that it had ended a call whose client hung up (seen with grpcio 1.85).

gRPC's event that all calls have ended is then never set. The server goes by its own count of calls beside it.
"""

from __future__ import annotations

import threading

from redraft.server import ServerConfig, create_server


def test_stopping_ends_although_grpc_never_reports_the_last_call(tmp_path, monkeypatch):
    server, _ = create_server(ServerConfig(address="127.0.0.1:0", data_directory=tmp_path))
    server.start()
    stop = server._server.stop

    def forgetful(grace: float) -> threading.Event:
        stop(grace)
        return threading.Event()  # never set

    monkeypatch.setattr(server._server, "stop", forgetful)
    stopping = threading.Thread(target=server.stop, args=(100_000.0,), daemon=True)
    stopping.start()
    stopping.join(60.0)
    assert not stopping.is_alive()
    assert server.wait(0.0)
    # The history is closed: its directory can be used again.
    again, _ = create_server(ServerConfig(address="127.0.0.1:0", data_directory=tmp_path))
    again.stop(0.0)
