"""Power and false alarms of the check for copies of training images.

python benchmarks/copies.py [SET ...] [--reference M] [--altered A] [--fresh H] [--fraction P] [--trials R]

Training images are altered and searched among M training images, and so are held-out images, which are no copies. A
trial takes n samples, of which a fraction P are altered training images and the others held-out ones, and n other
held-out images to compare with; it counts as found if `fromnoise evaluate` would report a finding of copies. False
alarms are trials without copies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from header import header
from torch import Tensor

from fromnoise.data import load
from fromnoise.evaluation.aligned_copies import ALIGNED, AlignedSearch, smoothed
from fromnoise.evaluation.estimate import proportion
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.findings import exceeds
from fromnoise.evaluation.measurement import MIRRORED
from fromnoise.evaluation.metrics.nearest import COPY_RATIO, NEIGHBOURS, NearestNeighbours
from fromnoise.evaluation.sources import RealImages

COUNTS = (50, 300, 2000)
Flags = dict[str, Tensor]


def _blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _noisy(x: Tensor) -> Tensor:
    return x + 40 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


ALTERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "unchanged": lambda x: x,
    "blurred by 3x3": _blurred,
    "shifted by one pixel": lambda x: x.roll((1, 1), (-2, -1)),
    "mirrored": lambda x: x.flip(-1),
    "brightness x 0.8": lambda x: 0.8 * x,
    "noise of deviation 40": _noisy,
    "shifted, brightness x 0.8, noise of deviation 20": lambda x: (
        _noisy(0.8 * x.roll((0, 1), (-2, -1))) * 0.5 + 0.4 * x.roll((0, 1), (-2, -1))
    ),
}


def main() -> None:
    """Search, simulate trials, and print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["fashion_mnist", "cifar10"])
    parser.add_argument("--reference", type=int, default=20_000)
    parser.add_argument("--altered", type=int, default=300)
    parser.add_argument("--fresh", type=int, default=1500)
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--trials", type=int, default=500)
    args = parser.parse_args()
    print(header())
    for spec in args.sets:
        data = load(spec, log=lambda line: None)
        reference = RealImages("training images", data.train, args.reference)
        fresh = next(RealImages("held-out", data.held_out, args.fresh, batch=args.fresh).batches())
        originals = reference.get(torch.arange(args.altered)).float()
        sets = {name: alter(originals).round().clamp(0, 255).byte() for name, alter in ALTERATIONS.items()}
        flags = search(reference, torch.cat([*sets.values(), fresh]))
        real = {space: f[-len(fresh) :] for space, f in flags.items()}
        print(f"\n{spec}, {reference.count:,} training images; {args.fraction:.0%} copies, {args.trials} trials")
        print(f"\n| copies | {' | '.join(f'near copies by {s}' for s in flags)} | found at n = {COUNTS} |")
        print("|---|" + "---|" * (len(flags) + 1))
        rates = " | ".join(f"{float(f.double().mean()):.3f}" for f in real.values())
        print(f"| none (false alarms) | {rates} | {power(args, None, real)} |", flush=True)
        for i, name in enumerate(sets):
            mine = {space: f[i * args.altered : (i + 1) * args.altered] for space, f in flags.items()}
            rates = " | ".join(f"{float(f.double().mean()):.3f}" for f in mine.values())
            print(f"| {name} | {rates} | {power(args, mine, real)} |", flush=True)


def search(reference: RealImages, queries: Tensor) -> Flags:
    """Whether each image is a near copy, by the space of the search."""
    pixels, k = PixelFeatures(reference.shape), NEIGHBOURS + 1
    plain = NearestNeighbours(pixels.features(queries), k)
    mirrored = NearestNeighbours(pixels.features(queries.flip(-1)), k)
    aligned = AlignedSearch(queries, k)
    small, first = [], 0
    for images in reference.batches():
        vectors = pixels.features(images)
        plain.add_reference(vectors, first)
        mirrored.add_reference(vectors, first)
        aligned.add_reference(images, first)
        small.append(smoothed(images).round().byte())
        first += len(images)
    kept = torch.cat(small)
    ratios = {
        "pixels": plain.distance_ratios,
        ALIGNED: aligned.result(lambda indices: kept[indices]).distance_ratios,
        MIRRORED: mirrored.distance_ratios,
    }
    return {space: ratio < COPY_RATIO for space, ratio in ratios.items()}


def power(args: argparse.Namespace, copies: Flags | None, fresh: Flags) -> str:
    """Fraction of trials with a finding, at each n."""
    generator = torch.Generator().manual_seed(0)
    size = len(next(iter(fresh.values())))
    out = []
    for n in COUNTS:
        found = 0
        for _ in range(args.trials):
            some, real = (torch.randint(size, (n,), generator=generator) for _ in range(2))
            count = round(args.fraction * n) if copies is not None else 0
            chosen = torch.randint(args.altered, (count,), generator=generator)
            found += any(
                exceeds(
                    proportion(torch.cat([copies[space][chosen], f[some[count:]]]) if copies else f[some]),
                    proportion(f[real]),
                )
                for space, f in fresh.items()
            )
        out.append(f"{found / args.trials:.2f}")
    return ", ".join(out)


if __name__ == "__main__":
    main()
