"""How often an interval of two printed standard errors holds the value that many sets of samples have on average.

python benchmarks/error_coverage.py [--draws R] [-n N] [--real M] [--dim D] [--only CASE] [--metrics KEY,...]

Everything is simulated: features of samples and real images are clipped Gaussians, so that sets of samples can be drawn
anew as often as needed; bits are those of an exact denoiser of a Gaussian, of which every likelihood is known. In each
of R draws new samples (for the kernel distance new real images too; for bits new images) are taken, every number is
computed as `fromnoise evaluate` and `fromnoise bits` do, and its interval of two errors either holds the mean over all
draws or not. A correct error of a normal estimate has 0.954. The fraction itself is binomial: after R draws it has an
error of 0.21 / sqrt(R), so that 200 draws (0.015) put a correct error outside of 0.93 to 0.98 in 5 of 100 cases, and
600 draws (0.0085) in less than 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from header import header
from torch import Tensor

from fromnoise.diffusion import schedules
from fromnoise.diffusion.likelihood import ELBO, ProbabilityFlow, RungeKutta, StepProposal
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.rng import Noise
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.feature_stats import FeatureStats
from fromnoise.evaluation.memorization import adjusted_gap
from fromnoise.evaluation.metrics import SampleComparison, all_metrics
from fromnoise.evaluation.metrics.class_balance import group_shares
from fromnoise.evaluation.statistics import Moments, PredictionSums, split_moments

CLASSES = 10
STRATA = 16
ALLOWED = (0.93, 0.98)


def main() -> None:
    """Simulate every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=600)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--real", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--only", help="the cases whose name contains this")
    parser.add_argument("--metrics", help="keys of metrics, all by default")
    args = parser.parse_args()
    cases: dict[str, Callable[[int], dict[str, Estimate]]] = {
        "features, distribution as the real one": Features(args, 0.0),
        "features, a model with small faults": Features(args, 0.05),
        "features, a model with faults": Features(args, 0.15),
        "features, clusters, i.i.d. samples": Features(args, 0.1, clusters=True),
        "features, clusters, stratified samples": Features(args, 0.1, clusters=True, stratified=True),
        "bits of a Gaussian": bits,
    }
    print(header())
    print(f"{args.draws} draws; n = {args.n} samples, {args.real} real images, {args.dim} features")
    print("\n| case | number | mean | standard deviation | mean stated error | coverage of +-2 errors |")
    print("|---|---|---|---|---|---|")
    for case, measure in cases.items():
        if args.only and args.only not in case:
            continue
        found: dict[str, list[Estimate]] = {}
        for draw in range(args.draws):
            for name, estimate in measure(draw).items():
                found.setdefault(name, []).append(estimate)
        for name, estimates in found.items():
            print(f"| {case} | {name} | {row(estimates)} |", flush=True)


def row(estimates: list[Estimate]) -> str:
    """Mean, standard deviation, root mean square of the stated errors, and coverage."""
    values = torch.tensor([e.value for e in estimates], dtype=torch.float64)
    errors = torch.tensor([e.error for e in estimates], dtype=torch.float64)
    covered = float(((values - values.mean()).abs() <= 2 * errors).double().mean())
    flag = "" if ALLOWED[0] <= covered <= ALLOWED[1] else " (!)"
    stated = float(errors.square().mean().sqrt())
    return f"{float(values.mean()):.4g} | {float(values.std()):.3g} | {stated:.3g} | {covered:.3f}{flag}"


class Features:
    """Metrics of simulated features, all by the code of an evaluation."""

    def __init__(
        self, args: argparse.Namespace, fault: float, clusters: bool = False, stratified: bool = False
    ) -> None:
        """Prepare the real images.

        Args:
            args: of the command line.
            fault: relative difference of the samples' spread, and a shift.
            clusters: whether samples are a mixture of `STRATA` clusters.
            stratified: whether every set of samples has equally many of each cluster.
        """
        generator = torch.Generator().manual_seed(0)
        self.metrics = [m for m in all_metrics() if not args.metrics or m.key in args.metrics.split(",")]
        self.n, self.count, self.dim = args.n, args.real, args.dim
        self.fault, self.clusters, self.stratified = fault, clusters, stratified
        axes = torch.linalg.qr(torch.randn(self.dim, self.dim, generator=generator, dtype=torch.float64))[0]
        self.axes = axes * torch.arange(1, self.dim + 1, dtype=torch.float64) ** -0.5
        self.centroids = 0.5 * torch.randn(STRATA, self.dim, generator=generator, dtype=torch.float64)
        self.head = 2 * torch.randn(self.dim, CLASSES, generator=generator, dtype=torch.float64)
        self.reference = self.stats("real", self.count, generator, 0.0, False)

    def stats(self, name: str, n: int, generator: torch.Generator, fault: float, stratified: bool) -> FeatureStats:
        """Statistics of n simulated images."""
        z = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        x = (1 + fault) * (z @ self.axes.T) + 0.3 * fault
        cluster = None
        if self.clusters:
            even = torch.arange(n)[torch.randperm(n, generator=generator)] % STRATA
            cluster = even if stratified else torch.randint(STRATA, (n,), generator=generator)
            x = 0.5 * x + self.centroids[cluster]
        x = x.clamp(min=-0.3).float()
        p = (x.double() @ self.head).softmax(1)
        parts = [PredictionSums.of(part) for part in p.chunk(20)]
        colour = Moments.of(x[:, :2])
        images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
        strata = cluster if stratified else None
        return FeatureStats(name, n, split_moments(x), parts, x, p.float(), colour, images, strata=strata)

    def __call__(self, draw: int) -> dict[str, Estimate]:
        """Every metric of a new set of samples."""
        generator = torch.Generator().manual_seed(1000 + draw)
        samples = self.stats("samples", self.n, generator, self.fault, self.stratified)
        fresh = self.stats("real", self.count, generator, 0.0, False)
        out, same, anew = {}, SampleComparison(samples, self.reference), SampleComparison(samples, fresh)
        for metric in self.metrics:
            estimate = metric.estimate(anew if "real" in metric.resampled else same)
            if estimate is not None:
                out[metric.key] = estimate
        if len(self.metrics) < len(all_metrics()):
            return out
        assert samples.probabilities is not None and self.reference.probabilities is not None
        groups, real = samples.probabilities.argmax(1), self.reference.probabilities.argmax(1)
        for share in group_shares(groups, real, tuple("abcdefghij"), samples.strata)[:2]:
            out[f"share of class {share.name}"] = Estimate(share.samples, share.error, self.n)
        return out


def bits(draw: int) -> dict[str, Estimate]:
    """Bound, flow and gap of an exact denoiser of a Gaussian, 64 new images of 16 values each."""
    shape, n = (1, 4, 4), 64
    size = math.prod(shape)
    generator = torch.Generator().manual_seed(draw)
    schedule = schedules.linear(100)
    covariance = 0.05 * torch.eye(size, dtype=torch.float64) + 0.1
    exact = GaussianMixture(torch.ones(1), torch.zeros(1, size), covariance[None])
    factor = torch.linalg.cholesky(covariance)
    parts = []
    for _ in range(2):
        x = (torch.randn(n, size, generator=generator, dtype=torch.float64) @ factor.T).clamp(-1, 1)
        parts.append(((x + 1) * 127.5).round().div(127.5).sub(1).reshape(n, *shape).float())
    noise = Noise(draw, torch.arange(n))

    def denoise(x: Tensor, level: schedules.NoiseLevel, cond: Tensor | None, previous: Tensor | None):
        return exact(x, level, cond, previous)

    per_bit = 1 / (math.log(2) * size)
    elbo = ELBO(denoise, schedule)
    flow = ProbabilityFlow(exact, schedule, RungeKutta(6))
    pilot = elbo.sampled_terms(parts[1], Noise(draw + 10**6, torch.arange(n)), StepProposal.uniform(100), 16)
    proposal = StepProposal.importance(pilot, 100)
    bound = per_bit * elbo.sampled_terms(parts[0], noise, proposal, 16).total
    held_out, training = (per_bit * elbo.flow_nll(flow, part, noise) for part in parts)
    varied = [part.double().flatten(1).var(1).log1p() for part in parts]
    return {
        "bits, bound": Estimate.mean_of(bound),
        "bits, flow": Estimate.mean_of(held_out),
        "bits, adjusted gap": adjusted_gap(held_out, training, varied[0], varied[1], shared_noise=True),
    }


if __name__ == "__main__":
    main()
