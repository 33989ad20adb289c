"""The fault campaign as a program: runs the cases of some kinds, and writes their counts as JSON.

    python tests/faults/campaign.py npz header --count 100 --seed 1
    python tests/faults/campaign.py header --seed 1 --case 13      # one case again, with its output

Cases that break the rule are written to --failed, ready to be moved to tests/faults/fixed_cases.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from materials import prepare_environment

FIXED = sorted((Path(__file__).parent / "fixed_cases").glob("*.json"))
"""Cases that broke the rule once."""


def main() -> int:
    """Run the cases; the exit code says whether all kept the rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", help="header, command, a format of files, or fixed")
    parser.add_argument("--count", type=int, default=100, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="run this case only, and show what it wrote")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--failed", type=Path, default=Path("build/faults/failed"), help="folder of broken cases")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        place = Path(folder)
        prepare_environment(place / "cache")
        return _run(args, place)


def _run(args: argparse.Namespace, place: Path) -> int:
    from cases import Bench, Case
    from generate import generators
    from sandbox import preload

    preload()
    bench = Bench(place)
    rows, broken = [], 0
    for kind in args.kinds:
        begin, codes, failures = time.monotonic(), Counter(), []
        longest, memory, cpu = 0.0, 0.0, 0.0
        numbers = range(len(FIXED) if kind == "fixed" else args.count) if args.case is None else [args.case]
        for number in numbers:
            fixed = kind == "fixed"
            case = Case.from_json(FIXED[number].read_text()) if fixed else generators()[kind](bench, args.seed, number)
            result = bench.run(case)
            outcome = result.outcome
            codes[str(outcome.code)] += 1
            longest, memory = max(longest, outcome.seconds), max(memory, outcome.memory_mb)
            cpu += outcome.cpu
            if args.case is not None:
                print(f"{case.words}\n{outcome.out}{outcome.err}exit code {outcome.code}, {outcome.seconds:.2f} s")
            if result.broken:
                failures.append({"case": number, "broken": result.broken})
                print(FIXED[number].name if fixed else "", result.describe())
                args.failed.mkdir(parents=True, exist_ok=True)
                (args.failed / f"{kind}-{args.seed}-{number}.json").write_text(case.to_json())
        broken += len(failures)
        rows.append(
            {
                "kind": kind,
                "cases": sum(codes.values()),
                "codes": dict(sorted(codes.items())),
                "broken": failures,
                "seconds": round(time.monotonic() - begin, 1),
                "cpu_seconds": round(cpu, 1),
                "longest_seconds": round(longest, 2),
                "memory_mb": round(memory),
                "seed": args.seed,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
