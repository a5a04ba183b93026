"""Servers on a real Ray cluster of three nodes (on this machine): they are found, restarted and stopped."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

ray = pytest.importorskip("ray")

from redraft.client import DraftClient, Publisher, choose  # noqa: E402
from redraft.client.address_watch import AddressWatch  # noqa: E402
from redraft.errors import InvalidArgument, RedraftError, Unavailable  # noqa: E402
from redraft.recipe.ray_servers import (  # noqa: E402
    NAMESPACE,
    RayServers,
    ServerProcess,
    find_servers,
    serve_command,
)
from redraft.rollout import Rollout  # noqa: E402

# Ray's own: it leaves sockets and processes to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.verl]


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def answers(address: str) -> bool:
    with DraftClient(address, timeout=1.0) as client:
        try:
            client.stats()
        except RedraftError:
            return False
    return True


def held(address: str) -> int:
    with DraftClient(address) as client:
        return sum(run.responses for run in client.stats().runs)


def test_the_command_line_of_a_server() -> None:
    text = " ".join(serve_command("10.0.0.1:0", "/data", "/ready", ["--grace", "1"]))
    assert text.endswith("--address 10.0.0.1:0 --data /data --ready-file /ready --grace 1")


def test_a_killed_server_comes_back_on_its_port_as_often_as_allowed() -> None:
    process = ServerProcess("127.0.0.1", restarts=1)
    address, first = process.address(), process.pid()
    assert answers(address)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: process.pid() != first and answers(address))
    assert process.address() == address
    os.kill(process.pid(), signal.SIGKILL)
    wait_until(lambda: not answers(address))
    process.stop()


def test_stopping_ends_the_server_and_removes_a_temporary_history_only(tmp_path: Path) -> None:
    process = ServerProcess("127.0.0.1", data_dir=str(tmp_path / "kept"), folder=str(tmp_path / "temporary"))
    pid = process.pid()
    process.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (tmp_path / "kept").is_dir()
    assert not (tmp_path / "temporary").exists()


def test_a_server_that_cannot_start_says_so() -> None:
    with pytest.raises(Unavailable, match=r"redraft\.server: `redraft serve` ended at once"):
        ServerProcess("127.0.0.1", arguments=["--no-such-option"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    nodes = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=nodes)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_every_node_has_a_server_that_is_found_and_comes_back_with_its_history(
    cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InvalidArgument, match=r"^redraft\.server\.insecure: draft servers on 3 Ray nodes"):
        RayServers("refused")
    servers = RayServers("test", insecure=True)
    addresses = servers.addresses
    assert len(set(addresses)) == 3
    assert sorted(find_servers("test")) == sorted(addresses)
    assert find_servers("other") == []
    rollouts = [
        Rollout(np.array([prompt, 1], np.int32), np.array([2, 3], np.int32), epoch=0, step=0, sample=0)
        for prompt in range(40)
    ]
    publisher = Publisher(addresses, run="run")
    publisher.publish(rollouts)
    assert publisher.flush(30)
    shares = {a: sum(choose(addresses, each.key) == a for each in rollouts) for a in addresses}
    assert {address: held(address) for address in addresses} == shares

    # The actor dies, and its server with it: Ray starts another on the same node, which takes its place.
    name = next(n for n in named() if ray.get(get(n).address.remote()) == addresses[0])
    pid = ray.get(get(name).pid.remote())
    ray.kill(get(name), no_restart=False)
    wait_until(lambda: ray.get(get(name).pid.remote()) != pid)
    assert sorted(find_servers("test")) == sorted(addresses)
    wait_until(lambda: answers(addresses[0]))
    assert held(addresses[0]) == shares[addresses[0]]

    # A node dies: clients that watch go on with the others, and nobody else's prompts move.
    watch = AddressWatch(
        lambda: find_servers("test", timeout=5.0),
        publisher.set_addresses,
        known=addresses,
        interval=0.2,
    )
    gone = cluster.list_all_nodes()[-1]
    lost = ray.get(get(f"test@{gone.node_id}").address.remote())
    cluster.remove_node(gone, allow_graceful=False)
    left = [address for address in addresses if address != lost]
    wait_until(lambda: sorted(find_servers("test", timeout=5.0)) == sorted(left))
    publisher.publish([Rollout(each.prompt_token_ids, each.response_token_ids, 1, 1, 0) for each in rollouts])
    assert publisher.flush(60)
    watch.close()
    publisher.close()
    assert sum(map(held, left)) == sum(shares[address] for address in left) + 40
    servers.stop()
    wait_until(lambda: not any(answers(address) for address in left))


def named() -> list[str]:
    return [n["name"] for n in ray.util.list_named_actors(all_namespaces=True) if n["namespace"] == NAMESPACE]


def get(name: str):
    return ray.get_actor(name, namespace=NAMESPACE)
