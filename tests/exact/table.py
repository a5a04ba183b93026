"""Print the table of `doc/exactness.md`: `EXACT_RECORD=FILE make test-exact`, then `python tests/exact/table.py FILE`
(an absolute path: the tests run in another folder)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEAD = ("suite", "case", "draws", "of", "accepted / drafted", "total variation", "noise", "chi-square p")


def main() -> None:
    print("|", " | ".join(HEAD), "|")
    print("|", " | ".join(["---", "---", *["---:"] * 6]), "|")
    for line in Path(sys.argv[1]).read_text().splitlines():
        case = json.loads(line)
        accepted = f"{case['accepted']:,} / {case['drafted']:,}"
        unit = "tokens" if case["suite"] == "continuations" else "texts"
        noise = f"{case['noise']:.5f} ± {case['noise_deviation']:.5f}"
        cells = (
            case["suite"],
            case["case"],
            f"{case['draws']:,}",
            unit,
            accepted,
            f"{case['tv']:.5f}",
            noise,
        )
        print("|", " | ".join(cells), "|", f"{case['p_value']:.2g}", "|")


if __name__ == "__main__":
    main()
