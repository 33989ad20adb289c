"""Does version 0.1 have the faults of the review? Prints a line for each item, whose tests fail on it if it has.

    git worktree add ../version-0.1 ffb9b75
    python tests/faults/on_version_0_1.py ../version-0.1 [ITEM ...]

Each item is run as its test runs it, with the names of version 0.1, in a process of its own. Linux only.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import sys
import tempfile
import traceback
from pathlib import Path

WIDE = 300  # seconds of an item, at most


def findings(names: list[str], folder: Path) -> list[tuple[str, str, bool, str]]:
    """Item, what was run, whether the fault is there, and what happened."""
    from sandbox import Child, Limits
    from version_0_1_numbers import ITEMS

    found = []
    for name in names or list(ITEMS):
        what, function = ITEMS[name]
        place = folder / f"{len(found)}" / "work"
        place.mkdir(parents=True)

        def action(function=function, place=place) -> int:
            try:
                fault, text = function(place)
            except BaseException:
                traceback.print_exc()
                return 2
            print(text)
            return int(not fault)

        limits = Limits(WIDE, WIDE, memory_mb=8192)
        outcome = Child(action, place.parent, limits).wait()
        lines = (outcome.out if outcome.code in (0, 1) else outcome.err).strip().splitlines() or ["nothing"]
        found.append((name, what, outcome.code == 0, lines[-1].replace(str(folder), "")))
        print(f"{name}: {'fails as reviewed' if outcome.code == 0 else 'does not'}: {found[-1][3]}", flush=True)
    return found


def table(found: list[tuple[str, str, bool, str]]) -> str:
    """The lines as a Markdown table, for docs/results/faults.md."""
    rows = ["| item | what is run | fails as reviewed | version 0.1 |", "|---|---|---|---|"]
    escaped = [[part.replace("|", "\\|") for part in (name, what, text)] for name, what, _, text in found]
    for (name, what, text), (*_, fault, _) in zip(escaped, found, strict=True):
        rows.append(f"| {name} | {what} | {'yes' if fault else 'no'} | {text} |")
    return "\n".join(rows)


def main() -> int:
    """Exit code 0 if every item fails as reviewed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a checkout of commit ffb9b75")
    parser.add_argument("items", nargs="*", help="such as B1 C3; default: all")
    args = parser.parse_args()
    source = (args.path / "src").resolve()
    sys.path[:0] = [str(source), str(Path(__file__).parent)]
    os.environ |= {"FROMNOISE_NATIVE": "0", "MPLBACKEND": "agg"}
    import torch

    torch.set_num_threads(1)
    import fromnoise

    assert fromnoise.__file__ is not None and Path(fromnoise.__file__).is_relative_to(source), fromnoise.__file__
    for module in ("version_0_1_numbers", "version_0_1_faults", "version_0_1_low"):
        importlib.import_module(module)
    for module in ("cli", "model", "train.run", "judge.doctor", "data.tables", "metrics.features"):
        importlib.import_module(f"fromnoise.{module}")  # once, and not in each process
    with tempfile.TemporaryDirectory() as folder:
        found = findings(args.items, Path(folder))
    print(f"\n{table(found)}\n")
    fault = sum(f[2] for f in found)
    print(
        f"{fault} of {len(found)} items fail as reviewed; {datetime.date.today()}; torch {torch.__version__}, ", end=""
    )
    print(f"Python {platform.python_version()}")
    return int(fault < len(found))


if __name__ == "__main__":
    sys.exit(main())
