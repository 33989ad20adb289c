"""The long fault campaign as a program: disturbed training runs.

python tests/faults/campaign_long.py crash_points kills --json build/faults/long.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from materials import prepare_environment


def parts() -> dict[str, Callable[[Any, argparse.Namespace], list[dict[str, Any]]]]:
    """What can be run, by name."""
    from crash_points import crash_points
    from processes import processes
    from rank_kills import rank_kills
    from runs import kills
    from together import endurance, small_disks, together

    return {
        "crash_points": lambda bench, args: crash_points(bench, args.seed, args.every),
        "kills": lambda bench, args: [kills(bench, args.seed, args.kills)],
        "disks": lambda bench, args: small_disks(bench, args.seed, [2**k for k in range(12, 22)]),
        "processes": lambda bench, args: processes(bench, args.seed),
        "ranks": lambda bench, args: rank_kills(bench, args.seed, args.kills, args.minutes),
        "together": lambda bench, args: together(bench, args.seed, args.together),
        "endurance": lambda bench, args: endurance(bench, args.seed, args.steps),
    }


def main() -> int:
    """Run the parts; the exit code says whether all cases kept the rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="crash at each EVERY-th operation only")
    parser.add_argument("--kills", type=int, default=100, help="kills at random moments")
    parser.add_argument("--minutes", type=float, default=120, help="of ranks, after which none is killed")
    parser.add_argument("--together", type=int, default=10, help="pairs of trainings, and of evaluations, at once")
    parser.add_argument("--steps", type=int, default=10_000, help="of the long run")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        prepare_environment(Path(folder) / "cache")
        from cases import Bench
        from sandbox import preload

        preload()
        bench = Bench(Path(folder))
        for part in args.parts:
            found = parts()[part](bench, args)
            rows += found
            for row in found:
                print(json.dumps(row), flush=True)
            if args.json is not None:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["broken"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
