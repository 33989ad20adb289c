"""Which features rank samples with known faults as the faults grow: self-supervised ones, or the pixels?

python benchmarks/selfsupervised.py [--data SPEC] [-n N]

Samples are held-out images, spoilt more and more: blurred, made noisy, brightened or tinted, some of them replaced by
draws of a Gaussian with the images' own mean and covariance, or without one, three and five of their classes. Prints
each distance in standard errors above that of unspoilt images, and whether it rises with the fault.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from header import header
from torch import Tensor
from torch.nn import functional as F

from fromnoise.data import Data, load, shuffled_indices
from fromnoise.evaluation.features import extractors
from fromnoise.evaluation.metrics.frechet import Estimate, Moments, frechet_from, split
from fromnoise.evaluation.metrics.prdc import Reference

_REFERENCE = 10_000
_PARTS = 10


def blurred(x: Tensor, width: float) -> Tensor:
    """By a Gaussian of this deviation in pixels."""
    near = torch.exp(-(torch.arange(-4, 5).double() ** 2) / (2 * width**2))
    kernel = (near / near.sum()).view(1, 1, 1, -1).repeat(x.shape[1], 1, 1, 1)
    y = F.pad(x.double(), (4,) * 4, mode="replicate")
    y = F.conv2d(F.conv2d(y, kernel, groups=x.shape[1]), kernel.transpose(2, 3), groups=x.shape[1])
    return y.round().to(torch.uint8)


def noisy(x: Tensor, levels: float) -> Tensor:
    """With noise of this deviation."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + levels * noise).round().clamp(0, 255).to(torch.uint8)


def tinted(x: Tensor, levels: float) -> Tensor:
    """With so much more of the first channel."""
    y = x.double()
    y[:, 0] += levels
    return y.round().clamp(0, 255).to(torch.uint8)


def replaced(x: Tensor, share: float) -> Tensor:
    """A share of them by draws of a Gaussian with the mean and covariance of all."""
    flat, count = x.double().flatten(1), round(share * len(x))
    values, axes = torch.linalg.eigh(torch.cov(flat.T))
    z = torch.randn(count, flat.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = flat.mean(0) + (z * values.clamp(min=0).sqrt()) @ axes.T
    return torch.cat([drawn.view(count, *x.shape[1:]).round().clamp(0, 255).to(torch.uint8), x[count:]])


FAULTS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur": (blurred, (0.4, 0.6, 0.8, 1.2)),
    "noise": (noisy, (4, 8, 16, 32)),
    "tint": (tinted, (4, 8, 16, 32)),
    "Gaussian": (replaced, (0.1, 0.25, 0.5, 1.0)),
}


def spoilt(data: Data, n: int) -> dict[str, list[tuple[float, Tensor]]]:
    """Samples by fault, with its strength."""
    places = shuffled_indices(len(data.held_out), 0, range(min(n, len(data.held_out))))
    x = data.held_out.get(places)
    out = {name: [(level, spoil(x, level)) for level in levels] for name, (spoil, levels) in FAULTS.items()}
    if data.held_out.labels is not None:
        labels = data.held_out.labels[places]
        out["classes dropped"] = [(count, x[labels >= count]) for count in (1, 3, 5)]
    return {"none": [(0, x)]} | out


def apart(found: Estimate, whole: Estimate) -> float:
    """In standard errors of the difference."""
    return (found.value - whole.value) / math.hypot(found.error, whole.error)


def main() -> None:
    """Spoil, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("-n", type=int, default=2000)
    args = parser.parse_args()
    print(header())
    for name in args.data:
        data = load(name)
        begun, worked = time.perf_counter(), time.process_time()
        own = extractors.self_supervised(data)
        spent = f"{time.perf_counter() - begun:.0f} s ({time.process_time() - worked:.0f} s of processor)"
        print(f"\n{name}: {own.about}, had in {spent}")
        samples = spoilt(data, args.n)
        some = data.train.get(shuffled_indices(len(data.train), 0, range(min(_REFERENCE, len(data.train)))))
        for space in (own, extractors.pixels(data)):
            real = space.of(some)
            moments, reference = Moments.of(real), Reference(real[: args.n])
            whole: dict[str, Estimate] = {}
            for fault, each in samples.items():
                seen = [space.of(images) for _, images in each]
                found = {
                    "Frechet": [frechet_from(split(v, _PARTS), moments) for v in seen],
                    "kernel": [reference.kernel(v) for v in seen],
                }
                for distance, values in found.items():
                    whole.setdefault(distance, values[0])
                    if fault == "none":
                        continue
                    rise = [apart(v, whole[distance]) for v in values]
                    course = [whole[distance].value, *(v.value for v in values)]
                    verdict = "rises" if course == sorted(course) else "does not rise"
                    shown = "  ".join(f"{level:g}: {r:.1f}" for (level, _), r in zip(each, rise, strict=True))
                    print(f"{space.name:16} {distance:8} {fault:16} {verdict:14} {shown}", flush=True)


if __name__ == "__main__":
    main()
