"""The table of doc/compatibility.md: `python -m redraft.recipe.compatibility.table` prints it."""

from __future__ import annotations

from redraft.recipe.compatibility.releases import READ, RUN, UNSUPPORTED, VERL, VLLM

MEANING = {
    RUN: "run on a CPU",
    READ: "source compared",
    UNSUPPORTED: "refused",
}


def markdown() -> str:
    """Return every release as a row of a Markdown table, ending with a newline."""
    lines = ["| version | checked | note |", "| --- | --- | --- |"]
    for product in (VLLM, VERL):
        for release in product.releases:
            lines.append(
                f"| {product.name} {release.version} | {MEANING[release.checked]} | {release.note} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
