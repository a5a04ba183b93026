"""The draft servers that the trainer starts itself, from its options."""

from __future__ import annotations

from redraft.recipe.ray_servers import RayServers
from redraft.recipe.verl.options import ServerOptions


def serve_arguments(options: ServerOptions) -> list[str]:
    """Return what the options say as arguments of `redraft serve`."""
    arguments: list[str] = []
    if options.window_epochs is not None:
        arguments += ["--window-epochs", str(options.window_epochs)]
    if options.window_tokens is not None:
        arguments += ["--window-tokens", str(options.window_tokens)]
    if options.age_decay is not None:
        arguments += ["--age-decay", str(options.age_decay)]
    if options.reward_weight is not None:
        arguments += ["--reward-weight", str(options.reward_weight)]
    return arguments + list(options.arguments)


class DraftServers(RayServers):
    """The servers that the trainer started, one for each Ray node that has GPUs (all nodes when none has).

    Args:
        options: see ServerOptions.
        run: the run's name; `redraft.recipe.ray_servers.find_servers` finds the servers by it.

    Raises:
        InvalidArgument: there is more than one node and `insecure` is off.
        Unavailable: a server does not start.
    """

    def __init__(self, options: ServerOptions, run: str = "redraft") -> None:
        super().__init__(
            run,
            data_dir=options.data_dir,
            restarts=options.restarts,
            arguments=serve_arguments(options),
            insecure=options.insecure,
        )
