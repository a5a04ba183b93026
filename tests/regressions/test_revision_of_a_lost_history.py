"""A worker held on to the index of a history that was lost: the new history counted its revisions from one again.

Revisions start from the clock now, so a revision that somebody holds never comes back in another history.
"""

from __future__ import annotations

import shutil

import grpc
import numpy as np

from redraft.client.channels import open_channel, open_stub
from redraft.server import ServerConfig, create_server
from redraft.v1 import common_pb2, index_pb2, publish_pb2
from redraft.wire import tokens_to_bytes

PROMPT = common_pb2.Prompt(token_ids=tokens_to_bytes(np.arange(5)))
RUN = common_pb2.Run(name="run")


def publish_and_fetch(channel: grpc.Channel, response: list[int], held: int) -> index_pb2.IndexHeader:
    """Publish one response, then ask for the prompt's index as one who holds revision `held`."""
    stub = open_stub(channel)
    group = publish_pb2.Group(
        prompt=PROMPT, responses=[publish_pb2.Response(token_ids=tokens_to_bytes(np.array(response)))]
    )
    message = publish_pb2.PublishRolloutsRequest(run=RUN, groups=[group])
    assert stub.PublishRollouts(iter([message]), timeout=20).outcomes[0].code == 0
    wanted = [index_pb2.WantedIndex(prompt=PROMPT, revision=held)]
    answers = list(stub.FetchIndex(index_pb2.FetchIndexRequest(run=RUN, prompts=wanted), timeout=20))
    return answers[0].header


def test_an_index_of_a_lost_history_is_replaced(tmp_path):
    held = 0
    for response in ([7, 8, 9], [17, 18, 19]):
        server, _ = create_server(ServerConfig(address="127.0.0.1:0", data_directory=tmp_path / "data"))
        server.start()
        with open_channel(server.address) as channel:
            header = publish_and_fetch(channel, response, held)
        server.stop(0.0)
        assert header.outcome == index_pb2.IndexHeader.OUTCOME_SENT
        assert header.revision > held
        held = header.revision
        shutil.rmtree(tmp_path / "data")
