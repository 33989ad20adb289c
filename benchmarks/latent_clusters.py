"""A latent variant of clustering: an encoder with a Gaussian-mixture prior, learned with the denoiser by EM.

python benchmarks/latent_clusters.py [SET ...] [--seeds S] [--first-seed K] [-n N] [--set KEY=VALUE ...] [--OPTION V]

After ClusterDDPM (Yan et al. 2023, arXiv:2312.08029). An image has a latent z of its own:

    q(z | x0) = N(mu(x0), diag s(x0)^2)       p(z) = sum_c pi_c N(m_c, diag v_c)       p(x0 | z): denoiser, condition z
    loss of an image = sum over pixels of the denoising loss + beta * KL bound (``Mixture.kl``)

1. Pretraining: the denoising loss alone, so z is what helps the denoiser most.
2. The mixture starts from clusters of mu and is fitted by EM.
3. M-step: encoder and denoiser train with the mixture constant. E-step, after each ``--every`` steps: the mixture is
   fitted to q(z | x0) of all images by a few iterations of EM.

Beside it: as many further steps from the same pretraining without the prior, and the clusters of both z by k-means, by
a Gaussian mixture and by spectral clustering. The encoder has the layers of the one that starts ``fromnoise cluster``
(``clustering/encoder.py``), which learns by views; ``--views`` gives such views to this one too. Network, schedule and
target are those of recipe ``mixture``, with z as attributes of the images. Records are kept in --out.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from cluster import Case, Records, print_table
from header import header
from torch import Tensor, nn

from fromnoise.clustering.baselines import KMEANS_RESTARTS, gaussian_mixture
from fromnoise.clustering.encoder import SIZE, Encoder
from fromnoise.clustering.graph import prepare_features
from fromnoise.clustering.spectral import spectral_clusters
from fromnoise.clustering.task import limit_patch
from fromnoise.clustering.views import random_view
from fromnoise.data import Attribute, Batch, BatchStream, Images, to_float
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.losses import DiffusionLoss
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.model import build
from fromnoise.utils import fitting
from fromnoise.utils.device import ComputeConfig, select_device
from fromnoise.utils.files import write_atomic
from fromnoise.utils.kmeans import kmeans

BATCH, LR, WARMUP, WEIGHT_DECAY = 128, 2e-3, 50, 1e-3
FIRST_ITERATIONS, ITERATIONS = 50, 10
"""Iterations of EM on the mixture from its start, and in each later E-step."""
CHOSEN = ['loss.time_sampler={"kind": "lognormal", "mean": 0.7, "std": 1.0}']
"""Keys of the recipe: most times have much noise, where the denoiser needs z to know what is in the image."""
SMALLEST = 1e-3
"""Smallest variance of a component, as a part of the mean variance of z."""


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["digits", "mnist", "fashion_mnist"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=16, help="dimensions of z")
    parser.add_argument("--pretrain", type=int, default=400, help="steps without the prior")
    parser.add_argument("--steps", type=int, default=200, help="steps with the prior")
    parser.add_argument("--every", type=int, default=50, help="steps between two E-steps")
    parser.add_argument("--beta", type=float, default=0.1, help="weight of the KL bound")
    parser.add_argument("--start", choices=STARTS, default="spectral", help="clusters that start the mixture")
    parser.add_argument("--views", action="store_true", help="the encoder sees a random view of each image")
    parser.add_argument("--no-control", action="store_true", help="leave out the training without the prior")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-latent-clusters"))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of recipe mixture")
    args = parser.parse_args()
    args.set = [*CHOSEN, *args.set]
    print(header(), flush=True)
    for name in args.sets:
        rows: dict[str, list[dict[str, float]]] = {}
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            case = Case.of(args, name, seed)
            for label, record in _records(case, args).items():
                rows.setdefault(label, []).append(record)
        print_table(name, args.n, rows)


def _records(case: Case, args: argparse.Namespace) -> Records:
    """Scores of a set and a seed; read if they were measured with the same options."""
    options = {k: v for k, v in vars(args).items() if k not in ("sets", "seeds", "first_seed", "out")}
    path = case.stem.with_name(f"{case.stem.name}-latent.json")
    stored = json.loads(path.read_text()) if path.exists() else {}
    if stored.get("options") != options:
        start, cpu = time.perf_counter(), time.process_time()
        found = Trial(case, args).run()
        taken = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        stored = {"options": options, **taken, "records": found}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(stored, indent=1).encode())
    print(f"{case.stem.name}: {stored['seconds']:.0f} s, {stored['cpu_seconds']:.0f} s of CPU", flush=True)
    return stored["records"]


class Posterior(NamedTuple):
    """q(z | x0) of images, a Gaussian with a diagonal covariance.

    Attributes:
        mean: (N, D).
        variance: (N, D).
    """

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Mixture:
    """p(z), a mixture of Gaussians with diagonal covariances.

    Attributes:
        weights: pi, (Q,), sum 1.
        means: m, (Q, D).
        variances: v, (Q, D).
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    @staticmethod
    def from_responsibilities(q: Tensor, posterior: Posterior) -> Mixture:
        """The mixture with the smallest sum of sum_c q_c (KL_c + log(q_c / pi_c)) over images, for constant q (N, Q).

        Variances below ``SMALLEST`` of the mean variance of z are raised to it.
        """
        mean, variance = posterior
        sizes = q.sum(0).clamp(min=1e-6)
        means = q.T @ mean / sizes[:, None]
        second = q.T @ (variance + mean.square()) / sizes[:, None]
        smallest = SMALLEST * float((variance + (mean - mean.mean(0)).square()).mean())
        return Mixture(sizes / sizes.sum(), means, (second - means.square()).clamp(min=smallest))

    def divergences(self, posterior: Posterior) -> Tensor:
        """KL(q(z | x0), N(m_c, v_c)) of each image and component, (N, Q), nats."""
        mean, variance = (part[:, None] for part in posterior)
        ratio = variance / self.variances
        return ((mean - self.means).square() / self.variances + ratio - 1 - ratio.log()).sum(2) / 2

    def _joint(self, posterior: Posterior) -> Tensor:
        return self.weights.clamp(min=1e-12).log() - self.divergences(posterior)

    def responsibilities(self, posterior: Posterior) -> Tensor:
        """q_c proportional to pi_c exp(-KL_c), which minimizes sum_c q_c (KL_c + log(q_c / pi_c)), (N, Q)."""
        return self._joint(posterior).softmax(1)

    def kl(self, posterior: Posterior) -> Tensor:
        """The minimum, -log sum_c pi_c exp(-KL_c) >= KL(q(z | x0), p(z)), (N,) (Hershey and Olsen 2007)."""
        return -self._joint(posterior).logsumexp(1)

    def fit(self, posterior: Posterior, iterations: int) -> Mixture:
        """Iterations of EM; none raises the mean of ``kl`` while no variance is at its limit."""
        mixture = self
        for _ in range(iterations):
            mixture = Mixture.from_responsibilities(mixture.responsibilities(posterior), posterior)
        return mixture

    def to(self, dtype: torch.dtype) -> Mixture:
        """The same mixture in another type."""
        return Mixture(self.weights.to(dtype), self.means.to(dtype), self.variances.to(dtype))


class LatentModel(nn.Module):
    """Encoder and denoiser with its loss."""

    def __init__(self, shape: tuple[int, int, int], dim: int, denoising: DiffusionLoss) -> None:
        """Create the encoder's layers from torch's random numbers."""
        super().__init__()
        self.encoder, self.moments, self.denoising = Encoder(shape), nn.Linear(SIZE, 2 * dim), denoising

    def posterior(self, x: Tensor) -> Posterior:
        """Of images (B, C, H, W) in [-1, 1]."""
        mean, log_variance = self.moments(self.encoder(x)[0]).float().chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-12, 4).exp())

    @torch.inference_mode()
    def encode(self, images: Images, compute: ComputeConfig) -> Posterior:
        """Of all images, float64."""
        training = self.training
        self.eval()
        parts = []
        for ids in torch.arange(len(images)).split(500):
            x = to_float(images.get(ids).to(compute.device)).contiguous(memory_format=compute.memory_format)
            parts.append([part.double().cpu() for part in self.posterior(x)])
        self.train(training)
        mean, variance = (torch.cat(column) for column in zip(*parts, strict=True))
        return Posterior(mean, variance)


class Trial:
    """Pretraining, EM and its control on one set with one seed."""

    def __init__(self, case: Case, args: argparse.Namespace) -> None:
        """Build the model."""
        self.case, self.args = case, args
        self.images, self.seed = case.task.data.train, case.keys["train.seed"]
        self.compute = select_device("cpu", case.precision)
        attributes = tuple(Attribute(f"z{i}", 0.0, 1.0) for i in range(args.dim))
        info = DatasetInfo(self.images.shape, attributes=attributes)
        denoising = build(limit_patch(case.recipe, case.task), info).training_loss()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = LatentModel(self.images.shape, args.dim, denoising)

    def run(self) -> Records:
        """Scores of the clusters of z after pretraining, after EM and after training alone."""
        args = self.args
        self._train(self.model, args.pretrain, 0)
        posterior = self.model.encode(self.images, self.compute)
        starts = self._partitions(posterior.mean.float())
        found = {f"{label}, pretrained z": self.case.score(clusters) for label, clusters in starts.items()}
        q = torch.nn.functional.one_hot(starts[STARTS[args.start]], self.case.clusters).double()
        mixture = Mixture.from_responsibilities(q, posterior).fit(posterior, FIRST_ITERATIONS)
        found["mixture that starts EM"] = self.case.score(mixture.responsibilities(posterior))

        model = copy.deepcopy(self.model)
        mixture = self._train(model, args.steps, args.pretrain, mixture)
        assert mixture is not None
        posterior = model.encode(self.images, self.compute)
        found["EM"] = self.case.score(mixture.responsibilities(posterior)) | {"kl": float(mixture.kl(posterior).mean())}
        more = {"z after EM": posterior}
        if not args.no_control:
            self._train(self.model, args.steps, args.pretrain)
            more["z after training alone"] = self.model.encode(self.images, self.compute)
        for name, posterior in more.items():
            for label, clusters in self._partitions(posterior.mean.float()).items():
                found[f"{label}, {name}"] = self.case.score(clusters)
        return found

    def _partitions(self, z: Tensor) -> dict[str, Tensor]:
        """Clusters of the means of z, (N, D), by each method."""
        count, seed = self.case.clusters, self.seed
        return {
            "k-means": kmeans(z, count, seed, KMEANS_RESTARTS).labels,
            "Gaussian mixture": gaussian_mixture(z, count, seed),
            "spectral": spectral_clusters(prepare_features(z), count, seed).argmax(1),
        }

    def _train(self, model: LatentModel, steps: int, first: int, mixture: Mixture | None = None) -> Mixture | None:
        """Train with a mixture as the prior, and return its last fit; or without a prior."""
        args, pixels = self.args, self.images.get(torch.arange(1))[0].numel()
        current = [mixture.to(torch.float32)] if mixture is not None else []

        def loss(batch: Batch) -> Tensor:
            x0 = to_float(batch.pixels)
            seen = self._view(x0, int(batch.positions[0])) if args.views else x0
            x0, seen = (
                x.to(self.compute.device).contiguous(memory_format=self.compute.memory_format) for x in (x0, seen)
            )
            with self.compute.autocast():
                posterior = model.posterior(seen)
                noise = Noise(self.seed, batch.positions).normal((args.dim,), Stream.LATENT, like=posterior.mean)
                z = posterior.mean + posterior.variance.sqrt() * noise
                total = model.denoising(x0, batch.positions, z).weighted.float().mean()
            for prior in current:
                total = total + args.beta / pixels * prior.kl(posterior).mean()
            return total

        batches = islice(BatchStream(self.images, self.seed).iterate(first * BATCH, BATCH), steps)
        schedule = fitting.lr_by_step(lambda k: LR * min(1.0, (k + 1) / WARMUP, 2 * (1 - k / steps)))
        training = fitting.fit(model, batches, loss, self.compute, lr_schedule=schedule, weight_decay=WEIGHT_DECAY)
        for step, _ in enumerate(training, 1):
            if mixture is not None and (step % args.every == 0 or step == steps):
                mixture = mixture.fit(model.encode(self.images, self.compute), ITERATIONS)
                current[0] = mixture.to(torch.float32)
        return mixture

    def _view(self, x0: Tensor, position: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed << 40) + position)
            return random_view(x0)


STARTS = {"kmeans": "k-means", "mixture": "Gaussian mixture", "spectral": "spectral"}
"""Clusters of the pretrained z that may start the mixture, by option."""


if __name__ == "__main__":
    main()
