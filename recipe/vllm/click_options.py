"""What the benchmarks' command lines share."""

from __future__ import annotations

import click


def whole_numbers(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """Return the numbers of an option like "1,2,4", each once and rising; a callback for click.

    Raises:
        click.BadParameter: it is no list of whole numbers > 0.
    """
    try:
        numbers = sorted({int(part) for part in value.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers > 0, separated by commas")
    return numbers
