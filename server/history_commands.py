"""The command group `redraft history`: the history of a data directory from and to files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import click

from redraft.errors import FailedPrecondition, NotFound, RedraftError
from redraft.rollout import Rollout, context_of, turns_of
from redraft.server.config import default_data_directory
from redraft.server.history import GroupRecord, ResponseRecord, RunRecord
from redraft.server.sqlite_history import SqliteHistory
from redraft.server.transfer import Tokenize, read_rollouts, write_rollouts
from redraft.vocabulary import Vocabulary
from redraft.wire import check_range

_BATCH = 4096

_data = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_data_directory,
    show_default="$XDG_STATE_HOME/redraft, else ~/.local/state/redraft",
    help="Directory of the history.",
)


@click.group()
def history() -> None:
    """Import, export and measure the history in a data directory.

    `export` and `stats` work while a server runs on the directory; `import` needs it stopped.
    """


@contextmanager
def _opened(data: Path, *, readonly: bool) -> Iterator[SqliteHistory]:
    try:
        store = SqliteHistory(data, readonly=readonly)
        try:
            yield store
        finally:
            store.close()
    except RedraftError as error:
        raise click.ClickException(str(error)) from None


@history.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--run", required=True, help="Name of the run to add to; created when it does not exist.")
@_data
@click.option("--tokenizer", help="Hugging Face model name or folder, for files that hold text.")
@click.option(
    "--vocabulary-size", default=0, help="Every token id must be below it, in token ids; 0 = unknown."
)
def import_(
    files: tuple[Path, ...], run: str, data: Path, tokenizer: str | None, vocabulary_size: int
) -> None:
    """Add the responses in FILES (.jsonl, .jsonl.gz, .jsonl.zst, .parquet) to a run.

    One row a response: prompt_token_ids, response_token_ids, epoch, step, sample, reward, group_id, validation,
    response_mask, weight_versions. With --tokenizer a row may hold the texts prompt and response instead of token
    ids. Importing a file again changes nothing.
    """
    with _opened(data, readonly=False) as store:
        vocabulary = Vocabulary(size=vocabulary_size)
        tokenize: Tokenize | None = None
        if tokenizer is not None:
            vocabulary, tokenize = _load_tokenizer(tokenizer, vocabulary_size)
        record = store.open_run(run, vocabulary)
        stored = replaced = unchanged = 0
        for file in files:
            rollouts = read_rollouts(file, tokenize=tokenize)
            while batch := list(islice(rollouts, _BATCH)):
                for outcome in store.append(record, list(_groups(batch, record))).result():
                    if outcome.error is not None:
                        raise outcome.error
                    stored += outcome.stored
                    replaced += outcome.replaced
                    unchanged += outcome.unchanged
    click.echo(f"{stored} responses stored, {replaced} replaced, {unchanged} were there already")


@history.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--run", required=True, help="Name of the run.")
@_data
def export(file: Path, run: str, data: Path) -> None:
    """Write a run's responses to FILE (.jsonl, .jsonl.gz, .jsonl.zst or .parquet)."""
    with _opened(data, readonly=True) as store:
        count = write_rollouts(file, store.export(_run(store, run)))
    click.echo(f"{count} responses written to {file}")
    if store.damaged:
        raise click.ClickException(f"{store.damaged} damaged records were skipped; the log names them")


@history.command("stats")
@_data
def stats(data: Path) -> None:
    """Show what each run of a data directory holds."""
    from rich.console import Console
    from rich.table import Table

    with _opened(data, readonly=True) as store:
        table = Table(title=f"{data}: {store.nbytes / 1e6:.1f} MB", title_justify="left")
        table.add_column("run")
        for column in ("epoch", "prompts", "responses", "tokens", "mean reward"):
            table.add_column(column, justify="right")
        for run in store.runs():
            summary = store.summary(run)
            table.add_row(
                run.name, "all", str(summary.prompts), str(summary.responses), str(summary.tokens), ""
            )
            for epoch in summary.epochs:
                reward = f"{epoch.reward_sum / epoch.rewarded:.3f}" if epoch.rewarded else ""
                table.add_row("", str(epoch.epoch), "", str(epoch.responses), str(epoch.tokens), reward)
        Console().print(table)


@history.command("check")
@_data
@click.option(
    "--repair", is_flag=True, help="Save what is whole into a new file; the server must be stopped."
)
def check(data: Path, repair: bool) -> None:
    """Read the whole history and report what is damaged; exit status 1 if anything is."""
    from redraft.server import repair as repairs

    try:
        report = repairs.check(data)
        click.echo(
            f"{report.runs} runs, {report.groups} groups, {report.responses} responses, "
            f"{report.tokens} tokens are whole"
        )
        for complaint in report.complaints:
            click.echo(f"damaged: {complaint}")
        if report.damaged:
            click.echo(f"damaged: {report.damaged} records")
        if report.whole:
            return
        if not repair:
            raise click.ClickException("the history is damaged; stop the server and use --repair")
        click.echo(f"repaired; the damaged file is {repairs.repair(data)}")
    except RedraftError as error:
        raise click.ClickException(str(error)) from None


def _run(store: SqliteHistory, name: str) -> RunRecord:
    run = store.run(name)
    if run is None:
        known = ", ".join(sorted(each.name for each in store.runs())) or "none"
        raise NotFound(f"run: there is no run {name!r}; known: {known}")
    return run


def _groups(rollouts: list[Rollout], run: RunRecord) -> Iterator[GroupRecord]:
    groups: dict[tuple[bytes, int, int, bool], list[Rollout]] = {}
    for rollout in rollouts:
        for name in ("prompt_token_ids", "response_token_ids"):
            check_range(getattr(rollout, name), name, run.vocabulary.size)
        groups.setdefault((rollout.key, rollout.epoch, rollout.step, rollout.validation), []).append(rollout)
    for (key, epoch, step, validation), members in groups.items():
        latest = {member.sample: member for member in members}
        yield GroupRecord(
            key=key,
            prompt_token_ids=members[0].prompt_token_ids,
            epoch=epoch,
            step=step,
            validation=validation,
            group_id=members[-1].group_id,
            responses=[
                ResponseRecord(
                    m.sample,
                    m.response_token_ids,
                    m.reward,
                    None if m.response_mask is None else context_of(turns_of(m.response_mask)),
                    m.weight_versions,
                )
                for m in latest.values()
            ],
        )


def _load_tokenizer(name: str, size: int) -> tuple[Vocabulary, Callable[[str], list[int]]]:
    try:
        from transformers import AutoTokenizer  # not a dependency: only text needs it
    except ImportError:
        raise FailedPrecondition(
            "transformers: not installed, --tokenizer needs it: pip install transformers"
        ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise NotFound(f"tokenizer: cannot load {name!r}: {error}") from None
    return Vocabulary.from_tokenizer(tokenizer, size=size), lambda text: list(tokenizer(text).input_ids)
