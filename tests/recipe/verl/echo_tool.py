"""A tool for verl's tool agent loop, and a parser that takes whatever the policy writes for a call of it.

verl loads this file in each agent loop worker (`rollout.multi_turn.function_tool_path`).
"""

from __future__ import annotations

import json
from typing import Any

from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser
from verl.tools.function_tool import function_tool

ANSWERS = 8
"""The tool's answers are t900 t901 ..., t910 t911 ..., and so on: no prompt has these words."""


@function_tool
def echo(last: int) -> str:
    """Answer with three words that depend on the last word.

    Args:
        last: the last word's number.
    """
    return " ".join(f"t{900 + 10 * (last % ANSWERS) + i}" for i in range(3))


@ToolParser.register("any_text")
class AnyTextParser(ToolParser):
    """Every text is a call; one word in eight ends a turn."""

    @property
    def stop_token_ids(self) -> list[int]:
        """The words that end a turn."""
        return list(range(8, 1024, 8))

    async def extract_tool_calls(
        self, responses_ids: list[int], tools: Any = None
    ) -> tuple[str, list[FunctionCall]]:
        """Return a call with the last word's number."""
        arguments = json.dumps({"last": int(responses_ids[-1])})
        return self.tokenizer.decode(responses_ids), [FunctionCall(name="echo", arguments=arguments)]
