from __future__ import annotations

import pytest

pytest.importorskip("ray")

from redraft.recipe.verl.draft_servers import serve_arguments
from redraft.recipe.verl.options import ServerOptions


def test_options_become_arguments_of_the_server() -> None:
    options = ServerOptions(window_epochs=3, window_tokens=1000, arguments=("--grace", "1"))
    assert serve_arguments(options) == ["--window-epochs", "3", "--window-tokens", "1000", "--grace", "1"]
    weighted = ServerOptions(age_decay=0.5, reward_weight=0.0)
    assert serve_arguments(weighted) == ["--age-decay", "0.5", "--reward-weight", "0.0"]
    assert serve_arguments(ServerOptions()) == []
