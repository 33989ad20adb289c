"""Averages from snapshots beside the one that was kept while training, and samples by the width of the average.

python benchmarks/ema_widths.py [RUN] [--widths 0.03,0.05,...] [-n N] [--features NAME] [--picture FILE] [--json FILE]

RUN was trained with ema.snapshots and one of ema.widths, such as a run of recipe fast. Prints the relative difference
of the reconstructed average to the kept one, over all weights and for the worst tensor, the size of the snapshots, and
the kernel distance of N samples to held-out images for each width, from the same noise. -n 0 leaves the samples out.
Without RUN: how far the profiles of averages from 4 to 32 evenly spaced snapshots are from the wanted ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from header import header
from torch import Tensor

from fromnoise import checkpoint
from fromnoise.reporting.plots import ema_plot
from fromnoise.training.ema_snapshots import Snapshots, reconstruction_weights
from fromnoise.training.ema_sweep import WIDTHS, sweep
from fromnoise.utils.device import select_device


def difference(found: dict[str, Tensor], kept: dict[str, Tensor]) -> tuple[float, float]:
    """Norm of the difference relative to that of the kept weights: over all of them, and of the worst tensor."""
    squares = {
        name: (float((t - kept[name]).square().sum()), float(kept[name].square().sum())) for name, t in found.items()
    }
    total = sum(a for a, _ in squares.values()) / sum(b for _, b in squares.values())
    return total**0.5, max((a / max(b, 1e-30)) ** 0.5 for a, b in squares.values())


def print_profiles() -> None:
    """Relative L2 distance of the reconstructed profile, with averages of widths 0.05 and 0.1 in each snapshot."""
    widths = (0.03, 0.04, 0.06, 0.08, 0.12, 0.15, 0.2)
    print(f"\n| snapshots | {' | '.join(f'{w:g}' for w in widths)} |\n|{'---|' * (len(widths) + 1)}")
    for count in (4, 8, 16, 32):
        stored = [(width, k / count) for k in range(1, count + 1) for width in (0.05, 0.1)]
        missed = [reconstruction_weights(stored, width, 1.0)[1] for width in widths]
        print(f"| {count} | {' | '.join(f'{m:.1%}' for m in missed)} |")


def main() -> None:
    """Compare, sample and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--widths", default=",".join(f"{w:g}" for w in WIDTHS))
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--features", help="default: classifier with labels, else self-supervised")
    parser.add_argument("--device")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(header())
    if args.run is None:
        print_profiles()
        return
    snapshots, kept = Snapshots(args.run), checkpoint.load_model(args.run)
    width, *_ = kept.model.recipe.ema.widths
    average, missed = snapshots.average(width)
    overall, worst = difference(average, kept.model.module.state_dict())
    print(
        f"{kept.model.parameters:,} parameters; {len(snapshots.profiles)} averages, {snapshots.bytes / 2**20:.1f} MiB"
    )
    print(f"width {width:g} at step {snapshots.step:,}, kept at step {kept.progress['step']:,}: profile {missed:.2%}")
    print(f"weights differ by {overall:.2%}, those of the worst tensor by {worst:.2%}")
    found = {"width": width, "profile": missed, "weights": overall, "worst_tensor": worst, "bytes": snapshots.bytes}
    rows = []
    if args.n:
        print("\n| width | kernel distance x 1000 | profile |\n|---|---|---|")
        widths = tuple(float(word) for word in args.widths.split(","))
        options = {"count": args.n, "features": args.features, "log": lambda line: None}
        for row in sweep(args.run, select_device(args.device), widths, **options):
            name = "kept" if row.width is None else f"{row.width:g}"
            rows.append((row.width, row.distance.value, row.distance.error, row.missed))
            value, error = 1000 * row.distance.value, 1000 * row.distance.error
            print(f"| {name} | {value:.2f} +- {error:.2f} | {row.missed:.1%} |", flush=True)
        if args.picture is not None:
            ema_plot([(w, value, error) for w, value, error, _ in rows if w is not None], rows[0][1], args.picture)
    if args.json is not None:
        args.json.write_text(json.dumps(found | {"n": args.n, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
