"""redraft: fast, exact rollouts for LLM reinforcement learning."""

try:
    from redraft._core import (
        SOURCE_HISTORY,
        SOURCE_LIVE,
        SOURCE_NONE,
        SOURCE_SHARED,
        DraftBatch,
        Drafter,
        FrozenIndex,
        LiveIndex,
    )
except ModuleNotFoundError as error:
    if error.name != "redraft._core":
        raise
    raise ImportError(
        "redraft: the sources in this folder hide the installed package; run from another folder, "
        "or build the core here with `make develop`"
    ) from None
from redraft._version import __version__
from redraft.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RedraftError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from redraft.rollout import Rollout, prompt_key
from redraft.vocabulary import Vocabulary

__all__ = [
    "SOURCE_HISTORY",
    "SOURCE_LIVE",
    "SOURCE_NONE",
    "SOURCE_SHARED",
    "AlreadyExists",
    "DataLoss",
    "DraftBatch",
    "Drafter",
    "FailedPrecondition",
    "FrozenIndex",
    "InvalidArgument",
    "LiveIndex",
    "NotFound",
    "RedraftError",
    "ResourceExhausted",
    "Rollout",
    "Unauthenticated",
    "Unavailable",
    "Vocabulary",
    "__version__",
    "prompt_key",
]
