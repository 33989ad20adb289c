"""Which distances rise with the strength of a distortion: those of self-supervised features, or those of pixels?

python benchmarks/feature_sensitivity.py [--data SPEC...] [-n N]

The samples are held-out images with distortions of increasing strength: blur, noise, tint, replacement of some images
by samples of a Gaussian with the images' mean and covariance, and removal of one, three or five classes. Prints the
increase of each distance in standard errors, and whether it rises monotonically.
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
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.features.trained import self_supervised_features
from fromnoise.evaluation.metrics.frechet import jackknifed_frechet
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.evaluation.statistics import Moments, split_moments

_REFERENCE = 10_000
_PARTS = 10


def blurred(x: Tensor, width: float) -> Tensor:
    """Blurred by a Gaussian of this standard deviation in pixels."""
    weights = torch.exp(-(torch.arange(-4, 5).double() ** 2) / (2 * width**2))
    kernel = (weights / weights.sum()).view(1, 1, 1, -1).repeat(x.shape[1], 1, 1, 1)
    y = F.pad(x.double(), (4,) * 4, mode="replicate")
    y = F.conv2d(F.conv2d(y, kernel, groups=x.shape[1]), kernel.transpose(2, 3), groups=x.shape[1])
    return y.round().to(torch.uint8)


def noisy(x: Tensor, strength: float) -> Tensor:
    """With noise of this standard deviation."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + strength * noise).round().clamp(0, 255).to(torch.uint8)


def tinted(x: Tensor, strength: float) -> Tensor:
    """With ``strength`` added to the first channel."""
    y = x.double()
    y[:, 0] += strength
    return y.round().clamp(0, 255).to(torch.uint8)


def replaced(x: Tensor, share: float) -> Tensor:
    """With a share of the images replaced by samples of a Gaussian with the mean and covariance of all."""
    flat, count = x.double().flatten(1), round(share * len(x))
    values, axes = torch.linalg.eigh(torch.cov(flat.T))
    z = torch.randn(count, flat.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gaussian = flat.mean(0) + (z * values.clamp(min=0).sqrt()) @ axes.T
    return torch.cat([gaussian.view(count, *x.shape[1:]).round().clamp(0, 255).to(torch.uint8), x[count:]])


DISTORTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur": (blurred, (0.4, 0.6, 0.8, 1.2)),
    "noise": (noisy, (4, 8, 16, 32)),
    "tint": (tinted, (4, 8, 16, 32)),
    "Gaussian": (replaced, (0.1, 0.25, 0.5, 1.0)),
}


def distorted(data: Data, n: int) -> dict[str, list[tuple[float, Tensor]]]:
    """Samples with their strengths, by distortion."""
    chosen = shuffled_indices(len(data.held_out), 0, range(min(n, len(data.held_out))))
    x = data.held_out.get(chosen)
    out = {name: [(float(s), distort(x, s)) for s in strengths] for name, (distort, strengths) in DISTORTIONS.items()}
    if data.held_out.labels is not None:
        labels = data.held_out.labels[chosen]
        out["classes dropped"] = [(float(count), x[labels >= count]) for count in (1, 3, 5)]
    return {"none": [(0.0, x)]} | out


def increase(distorted: Estimate, clean: Estimate) -> float:
    """In standard errors of the difference."""
    return (distorted.value - clean.value) / math.hypot(distorted.error, clean.error)


def main() -> None:
    """Distort, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("-n", type=int, default=2000)
    args = parser.parse_args()
    print(header())
    for name in args.data:
        data = load(name)
        start, cpu_start = time.perf_counter(), time.process_time()
        learned = self_supervised_features(data)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
        print(f"\n{name}: {learned.description}, trained or loaded in {seconds:.0f} s ({cpu:.0f} s CPU)")
        samples = distorted(data, args.n)
        images = data.train.get(shuffled_indices(len(data.train), 0, range(min(_REFERENCE, len(data.train)))))
        for extractor in (learned, PixelFeatures(data.shape)):
            real = extractor.features(images)
            moments, reference = Moments.of(real), KernelReference(real[: args.n])
            clean: dict[str, Estimate] = {}
            for distortion, each in samples.items():
                vectors = [extractor.features(x) for _, x in each]
                distances = {
                    "Frechet": [jackknifed_frechet(split_moments(v, _PARTS), moments) for v in vectors],
                    "kernel": [reference.distance(v) for v in vectors],
                }
                for distance, values in distances.items():
                    clean.setdefault(distance, values[0])
                    if distortion == "none":
                        continue
                    increases = [increase(v, clean[distance]) for v in values]
                    curve = [clean[distance].value, *(v.value for v in values)]
                    result = "rises" if curve == sorted(curve) else "does not rise"
                    shown = "  ".join(f"{s:g}: {z:.1f}" for (s, _), z in zip(each, increases, strict=True))
                    print(f"{extractor.name:16} {distance:8} {distortion:16} {result:14} {shown}", flush=True)


if __name__ == "__main__":
    main()
