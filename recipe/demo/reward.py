"""The reward function that verl loads by the path of this file."""

from __future__ import annotations

import json
from typing import Any

from redraft.recipe.demo.tasks import score


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], **_: Any
) -> float:
    """Return reasoning-gym's score of the response, 0 to 1; the arguments are verl's."""
    return score(data_source, solution_str, json.loads(extra_info["entry"]))
