"""`make verify-compat`: every version's source against what redraft takes for granted of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from redraft.errors import NotFound
from redraft.recipe.compatibility import contracts, imports, verl_contracts, vllm_contracts, wheels
from redraft.recipe.compatibility.contracts import Contract, Standing
from redraft.recipe.compatibility.releases import UNSUPPORTED, VERL, VLLM, Product, Release

CONTRACTS: dict[str, tuple[Contract, ...]] = {
    "vllm": vllm_contracts.CONTRACTS,
    "verl": verl_contracts.CONTRACTS,
}
STYLES = {
    contracts.SAME: "dim",
    contracts.KNOWN: "green",
    contracts.NOT_NEEDED: "dim",
    contracts.NO_WHEEL: "yellow",
}
LEGEND = (
    "same: as in the newest version that was read, as far as it counts. read: differs from it, was read too, and keeps"
    " what redraft needs. source differs: nobody has read it; read it, then add its fingerprint or mark the version"
    " as unsupported."
)


@dataclass(frozen=True)
class Row:
    """How one version stands to one contract, or to one import of the recipe."""

    product: str
    version: str
    what: str
    file: str
    needs: str
    state: str
    detail: str

    @property
    def good(self) -> bool:
        """Whether redraft may rely on it."""
        return self.state in contracts.GOOD


def check(product: Product, release: Release, read: wheels.Reader) -> Iterator[Row]:
    """Yield how `release` stands to every contract and every import of the recipe."""
    for contract in CONTRACTS[product.name]:
        older = bool(contract.since) and _number(release.version) < _number(contract.since)
        standing = contracts.stand(contract, read, older)
        yield _row(product, release, contract.label, contract.file, contract.needs, standing)
    for wanted in imports.imports(product.name):
        needs = f"imported by recipe/{wanted.used_in}"
        yield _row(product, release, wanted.label, wanted.file, needs, imports.stand(wanted, read))


def _row(product: Product, release: Release, what: str, file: str, needs: str, standing: Standing) -> Row:
    return Row(product.name, release.version, what, file, needs, standing.state, standing.detail)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def check_all(products: tuple[Product, ...], versions: tuple[str, ...], folder: Path) -> list[Row]:
    """Check all releases (or those of `versions`), downloading what is not in `folder`; progress goes to stderr."""
    wanted = [(p, r) for p in products for r in p.releases if not versions or r.version in versions]
    rows: list[Row] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for number, (product, release) in enumerate(wanted, 1):
            distribution = release.wheel or product.name
            label = f"{number} of {len(wanted)}: {distribution} {release.version}"
            task = progress.add_task(label)

            def downloading(size: int, task: TaskID = task, label: str = label) -> None:
                progress.update(task, description=f"{label}, downloading, {size / 1e6:.0f} MB")

            try:
                read = wheels.reader(wheels.fetch(distribution, release.version, folder, downloading))
            except NotFound as error:
                standing = Standing(contracts.NO_WHEEL, str(error))
                rows += [
                    _row(product, release, c.label, c.file, c.needs, standing)
                    for c in CONTRACTS[product.name]
                ]
            else:
                progress.update(task, description=f"{label}, comparing")
                rows += check(product, release, read)
            progress.remove_task(task)
    return rows


def print_tables(rows: list[Row], every: bool) -> None:
    """Print one table a product, definitions down and versions across; imports only where one is missing."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    for product in dict.fromkeys(row.product for row in rows):
        mine = [row for row in rows if row.product == product]
        versions = list(dict.fromkeys(row.version for row in mine))
        table = Table(product, *versions, box=None, header_style="bold")
        states = {(row.what, row.version): row for row in mine}
        for what in dict.fromkeys(row.what for row in mine):
            cells = [states.get((what, version)) for version in versions]
            imported = any(cell and cell.needs.startswith("imported by") for cell in cells)
            if every or not imported or not all(cell is None or cell.good for cell in cells):
                table.add_row(escape(what), *(_cell(cell) for cell in cells))
        console.print(table)
        counted = len({row.what for row in mine if row.needs.startswith("imported by")})
        console.print(f"and {counted} names that the recipe imports of {product}\n")
    for row in rows:
        if not row.good:
            console.print(f"{row.product} {row.version}: {row.what}: {row.state}: {row.detail}", markup=False)
            console.print(f"  {row.file}; needed: {row.needs}", style="dim", markup=False)
    console.print(LEGEND, style="dim", markup=False)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"[{STYLES.get(row.state, 'bold red')}]{row.state}[/]"


@click.command()
@click.option("--product", type=click.Choice(["vllm", "verl"]), help="Only this one.")
@click.option("--version", "versions", multiple=True, help="Only this version; may be given several times.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".cache/wheels"),
    help="Where the Python files of the wheels are kept, about 10 MB a version.",
)
@click.option("--all", "every", is_flag=True, help="Show imported names, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(product: str | None, versions: tuple[str, ...], folder: Path, every: bool, as_json: bool) -> None:
    """Check the source of every listed vLLM and verl against what redraft takes for granted of it.

    Wheels are downloaded with pip (about 120 MB each, 1.7 GB in all) and never imported. Exit status 1 when a version
    that redraft starts with has a definition that nobody has read, or when a wheel can't be had.
    """
    products = tuple(p for p in (VLLM, VERL) if product in (None, p.name))
    rows = check_all(products, versions, folder)
    if not rows:
        raise click.UsageError(f"--version: no listed release is called {', '.join(versions)}")
    if as_json:
        releases = {p.name: [asdict(release) for release in p.releases] for p in products}
        click.echo(json.dumps({"releases": releases, "rows": [asdict(row) for row in rows]}))
    else:
        print_tables(rows, every)
    refused = {(p.name, r.version) for p in products for r in p.releases if r.checked == UNSUPPORTED}
    bad = [row for row in rows if not row.good and (row.product, row.version) not in refused]
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
