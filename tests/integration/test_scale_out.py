"""Three servers, one lost and back, and a list of addresses that changes while clients run."""

from __future__ import annotations

import logging
import signal
import socket

import numpy as np
import pytest

from redraft.client import DraftClient, choose
from redraft.client.address_watch import AddressWatch, read_addresses
from redraft.errors import InvalidArgument


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def prompts_of(address: str) -> int:
    with DraftClient(address) as client:
        return sum(run.prompts for run in client.stats().runs)


def owned(addresses: list[str], rollouts) -> dict[str, int]:
    owners = [choose(addresses, rollout.key) for rollout in rollouts]
    return {address: owners.count(address) for address in addresses}


def test_a_lost_shard_moves_only_its_prompts_and_they_return_to_it(
    process, publisher, source, rollout, tmp_path
):
    servers = [process(tmp_path / name) for name in "abc"]
    addresses = [server.start() for server in servers]
    publish, drafts = publisher(*addresses), source(*addresses)
    first = [rollout(prompt) for prompt in range(60)]
    publish.publish(first)
    assert publish.flush(30)
    shares = owned(addresses, first)
    assert all(shares.values())
    assert {address: prompts_of(address) for address in addresses} == shares
    for each in first:
        drafts.prefetch(each.prompt_token_ids)
    assert drafts.wait(30)

    lost, left = addresses[1], [addresses[0], addresses[2]]
    servers[1].stop(signal.SIGKILL)
    publish.publish([rollout(prompt, epoch=1) for prompt in range(60)])
    assert not publish.flush(0.5)  # the lost shard's wait for it
    publish.set_addresses(left)
    drafts.set_addresses(left)
    assert publish.flush(30)
    assert publish.stats().published == 120
    # Nobody else's prompts moved: the others hold their own and some of the lost one's.
    assert {address: prompts_of(address) for address in left} == owned(left, first)
    for each in first:
        drafts.prefetch(each.prompt_token_ids)
    assert drafts.wait(30)
    held = [drafts.get(each.prompt_token_ids).num_responses for each in first]
    assert held == [1 if choose(addresses, each.key) == lost else 2 for each in first]

    assert servers[1].start() == lost
    publish.set_addresses(addresses)
    drafts.set_addresses(addresses)
    publish.publish([rollout(prompt, epoch=2) for prompt in range(60)])
    assert publish.flush(30)
    for each in first:
        drafts.prefetch(each.prompt_token_ids)
    assert drafts.wait(30)
    held = [drafts.get(each.prompt_token_ids).num_responses for each in first]
    assert held == [2 if choose(addresses, each.key) == lost else 3 for each in first]  # epoch 1 is elsewhere
    assert prompts_of(lost) == shares[lost]


def test_an_index_is_held_until_its_new_owner_has_one(start, publisher, source, rollout):
    old, new = start(), start()
    publish, drafts = publisher(old.address), source(old.address)
    publish.publish([rollout()])
    assert publish.flush(20)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    drafts.set_addresses([new.address])
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids).num_responses == 1
    publish.set_addresses([new.address])
    publish.publish([rollout(sample=sample, epoch=1) for sample in range(3)])
    assert publish.flush(20)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids).num_responses == 3


def test_what_waits_for_a_server_that_never_answers_goes_to_the_next(start, publisher, source, rollout):
    dead = f"127.0.0.1:{free_port()}"
    publish, drafts = publisher(dead), source(dead)
    publish.publish([rollout()])
    drafts.prefetch(rollout().prompt_token_ids)
    assert not publish.flush(0.3)
    running = start()
    publish.set_addresses([running.address])
    assert publish.flush(20)
    drafts.set_addresses([running.address])
    assert drafts.wait(20)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids) is not None
    assert drafts.available
    assert publish.stats().dropped == 0


@pytest.mark.parametrize("addresses", [[], ["nowhere"], "127.0.0.1:1"])
def test_odd_addresses_change_nothing(running, publisher, source, rollout, addresses):
    for client in (publisher(running.address), source(running.address)):
        with pytest.raises(InvalidArgument, match=r"^addresses: "):
            client.set_addresses(addresses)
    publish = publisher(running.address)
    publish.publish([rollout()])
    assert publish.flush(20)


def test_addresses_in_a_file_are_followed(tmp_path, eventually, caplog):
    path = tmp_path / "servers"
    path.write_text("# two servers\na:1, b:2\n")
    used: list[list[str]] = []
    with caplog.at_level(logging.WARNING, logger="redraft"):
        watch = AddressWatch(lambda: read_addresses(path), used.append, known=["a:1"], interval=0.01)
        eventually(lambda: used == [["a:1", "b:2"]])
        path.write_text("nonsense")
        eventually(lambda: caplog.records)
        path.write_text("")
        path.unlink()
        path.write_text("b:2\nc:3 # new\n")
        eventually(lambda: len(used) == 2)
        watch.close()
    assert used[1] == ["b:2", "c:3"]
    assert "addresses: 'nonsense' is not host:port" in caplog.text


def test_rendezvous_hashing_spreads_prompts_and_moves_few():
    keys = [np.random.default_rng(i).bytes(16) for i in range(3000)]
    four = [f"h:{i}" for i in range(4)]
    before = [choose(four[:3], key) for key in keys]
    after = [choose(four, key) for key in keys]
    assert all(new in (old, four[3]) for old, new in zip(before, after, strict=True))
    shares = [after.count(address) for address in four]
    assert min(shares) > 650
