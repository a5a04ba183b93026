"""The commands `redraft serve` and `redraft history`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from redraft.errors import RedraftError
from redraft.server.config import (
    DEFAULT_ADDRESS,
    LimitsConfig,
    RetentionConfig,
    ServerConfig,
    WindowConfig,
    default_data_directory,
)
from redraft.server.history_commands import history
from redraft.server.logs import LogFormat, set_up
from redraft.server.security import SecurityConfig

__all__ = ["history", "serve"]

_WINDOW = WindowConfig()
_LIMITS = LimitsConfig()
_MIB = 1 << 20
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--address", default=DEFAULT_ADDRESS, help="host:port to listen on; port 0 takes a free one.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_data_directory,
    show_default="$XDG_STATE_HOME/redraft, else ~/.local/state/redraft",
    help="Directory of the history; one server at a time.",
)
@click.option(
    "--window-epochs",
    default=_WINDOW.epochs,
    help="Newest epochs of each prompt that are drafted from, in epochs; 0 = all.",
)
@click.option(
    "--window-tokens",
    default=_WINDOW.tokens,
    help="Response tokens of each prompt that are drafted from, newest first, in tokens; 0 = all.",
)
@click.option(
    "--age-decay",
    default=_WINDOW.age_decay,
    help="Weight of a response relative to one that is an epoch newer, in (0, 1].",
)
@click.option(
    "--reward-weight",
    default=_WINDOW.reward_weight,
    help="What a response with a reward above its prompt's mean counts more, >= 0; 0 = all count alike.",
)
@click.option(
    "--keep-epochs", default=0, help="Newest epochs of each run that stay on disk, in epochs; 0 = all."
)
@click.option(
    "--keep-prompt-tokens",
    default=0,
    help="Most response tokens of each prompt that stay on disk, newest epochs first, in tokens; 0 = all.",
)
@click.option(
    "--keep-run-tokens",
    default=0,
    help="Most response tokens of each run that stay on disk, newest epochs first, in tokens; 0 = all.",
)
@click.option("--index-memory", default=2048, help="Memory for built indexes, in MiB.")
@click.option(
    "--build-ahead",
    default=1.0,
    help="Index a prompt this long after its last response came in, in seconds; 0 = only when asked.",
)
@click.option("--max-message", default=_LIMITS.message_bytes // _MIB, help="Largest message, in MiB.")
@click.option("--max-response", default=_LIMITS.response_tokens, help="Longest response, in tokens.")
@click.option("--max-prompt", default=_LIMITS.prompt_tokens, help="Longest prompt, in tokens.")
@click.option("--max-calls", default=_LIMITS.calls, help="Most calls at once, streams included.")
@click.option("--max-peer-calls", default=_LIMITS.peer_calls, help="Most calls at once from one host.")
@click.option(
    "--max-peer-call-rate", default=_LIMITS.peer_call_rate, help="Most calls a second from one host."
)
@click.option(
    "--max-peer-connection-rate",
    default=_LIMITS.peer_connection_rate,
    help="Most new connections a second from one host.",
)
@click.option(
    "--grace", default=10.0, help="How long running calls may take when the server stops, in seconds."
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Listen beyond this machine even if connections are not encrypted or not authenticated.",
)
@click.option("--tls-certificate", type=_FILE, help="The server's certificate chain, PEM; turns TLS on.")
@click.option("--tls-key", type=_FILE, help="Its private key, PEM.")
@click.option("--tls-client-ca", type=_FILE, help="Only serve clients with a certificate of this CA, PEM.")
@click.option(
    "--token-file",
    type=_FILE,
    help="Only serve clients that send this file's content as bearer token; read again when it changes. "
    "The token may be in REDRAFT_TOKEN instead.",
)
@click.option("--reflection/--no-reflection", default=True, help="Serve gRPC reflection.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write host:port to once the server answers.",
)
@click.option(
    "--metrics-address",
    default="",
    help="host:port of an HTTP port with Prometheus metrics, a status page, /healthz and /readyz.",
    show_default="none",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="One line, or one object, an event.",
)
def serve(
    address: str,
    data: Path,
    window_epochs: int,
    window_tokens: int,
    age_decay: float,
    reward_weight: float,
    keep_epochs: int,
    keep_prompt_tokens: int,
    keep_run_tokens: int,
    index_memory: int,
    build_ahead: float,
    max_message: int,
    max_response: int,
    max_prompt: int,
    max_calls: int,
    max_peer_calls: int,
    max_peer_call_rate: int,
    max_peer_connection_rate: int,
    grace: float,
    insecure: bool,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    token_file: Path | None,
    reflection: bool,
    ready_file: Path | None,
    metrics_address: str,
    log_level: str,
    log_format: LogFormat,
) -> None:
    """Run a draft server until it is told to stop (SIGTERM or Ctrl-C).

    Prints "listening on host:port" once it answers.
    """
    from redraft.server.server import serve as run

    set_up(log_level, log_format)
    try:
        config = ServerConfig(
            address=address,
            data_directory=data,
            insecure=insecure,
            security=SecurityConfig(
                certificate=tls_certificate,
                key=tls_key,
                client_ca=tls_client_ca,
                token_file=token_file,
                token="" if token_file is not None else os.environ.get("REDRAFT_TOKEN", ""),
            ),
            window=WindowConfig(
                epochs=window_epochs,
                tokens=window_tokens,
                age_decay=age_decay,
                reward_weight=reward_weight,
            ),
            retention=RetentionConfig(
                epochs=keep_epochs, prompt_tokens=keep_prompt_tokens, run_tokens=keep_run_tokens
            ),
            limits=LimitsConfig(
                message_bytes=max_message * _MIB,
                response_tokens=max_response,
                prompt_tokens=max_prompt,
                calls=max_calls,
                peer_calls=max_peer_calls,
                peer_call_rate=max_peer_call_rate,
                peer_connection_rate=max_peer_connection_rate,
            ),
            index_bytes=index_memory * _MIB,
            build_ahead=build_ahead,
            grace=grace,
            reflection=reflection,
            metrics_address=metrics_address,
        )
        run(config, ready_file=ready_file, announce=click.echo)
    except RedraftError as error:
        raise click.ClickException(str(error)) from None
