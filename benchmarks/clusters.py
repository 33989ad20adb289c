"""A run of fromnoise cluster, judged: whose its samples are by a classifier, and what an E-step costs, pruned or not.

python benchmarks/clusters.py RUN [-n N] [--samples S] [--steps K]

The classifier has learned the true classes of the run's own data. An E-step as EM does it that looks at every cluster
at every step is compared with one of two stages, which looks at those in question as often.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from header import header
from torch import Tensor

from fromnoise import checkpoint
from fromnoise.clustering.em import EStep
from fromnoise.clustering.fit import Task, prepare
from fromnoise.clustering.scores import Scores, majority
from fromnoise.config import Recipe
from fromnoise.data import MemoryImages, load
from fromnoise.diffusion.likelihood.code_length import StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig, posterior
from fromnoise.evaluation.features.trained import classifier_features
from fromnoise.pipeline import collect, draw
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig, select_device


def main() -> None:
    """Assign, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=8, help="of an E-step, each under a noise and its negative")
    args = parser.parse_args()
    loaded, compute = checkpoint.load_model(args.run), select_device("cpu", "fp32")
    compute.to_device(loaded.model.denoiser)
    recipe = loaded.model.recipe
    images = Believed.of(args.run, recipe, args.n)
    print(header())
    print(
        f"{args.run}, step {loaded.progress['step']:,}, {args.n} of its {len(images.task.index):,} images", flush=True
    )
    cost(EStep.of(loaded.model, recipe.clustering.count, compute, recipe.train.seed + 1), images, args.steps)
    judge(loaded, compute, images, args.samples)


@dataclass(frozen=True)
class Believed:
    """What the run has sorted, or part of it.

    Attributes:
        task: the images, and their true classes.
        ids: those that are looked at, (n,).
        tensors: what the run believes: q, shares, plan and seen, as ``cluster.em.State``.
    """

    task: Task
    ids: Tensor
    tensors: dict[str, Tensor]

    @staticmethod
    def of(run: str, recipe: Recipe, count: int) -> Believed:
        """So many of a run's images, evenly from all."""
        state = RunDir(Path(run)).load_state()
        if state is None:
            raise SystemExit(f"{run} has no state: give a folder of fromnoise cluster")
        tensors = {k.removeprefix("em."): v for k, v in state[0].items() if k.startswith("em.")}
        task = prepare(recipe, len(tensors["q"]), lambda line: None)
        return Believed(task, torch.linspace(0, len(tensors["q"]) - 1, count).long(), tensors)


def cost(sorter: EStep, images: Believed, steps: int) -> None:
    """E-steps as EM does them, what was first seen included; whole, and pruned."""
    part, tensors = MemoryImages(images.task.data.train.get(images.ids)), images.tensors
    seen, whole = tensors["seen"][images.ids], None
    assert images.task.labels is not None
    ways = ((steps, sorter.clusters, 1.0), (2, 3, 1.0), (4, 4, 1.0), (1, 3, 0.999), (1, 4, 0.9999), (2, 4, 0.9999))
    for first, keep, sure in ways:
        search = EStepConfig(first, steps - first, keep, sure)
        begun = time.perf_counter()
        found = [c for _, c in sorter.compare(part, StepProposal(tensors["plan"]), search, 0, seen)]
        spent = (time.perf_counter() - begun) / len(part)
        which = posterior(torch.cat([c.nats for c in found]) + seen, tensors["shares"]).argmax(1)
        forwards = float(torch.cat([c.forwards for c in found]).double().mean())
        whole = which if whole is None else whole
        print(
            f"{first} steps for all {sorter.clusters}, {steps - first} for {keep} where not sure of {sure}: "
            f"{forwards:.1f} evaluations an image, {spent:.3f} s, "
            f"agreement {float((which == whole).double().mean()):.4f}, "
            f"accuracy {Scores.of(which, images.task.labels[images.ids]).accuracy:.4f}",
            flush=True,
        )


def judge(loaded: checkpoint.LoadedModel, compute: ComputeConfig, images: Believed, count: int) -> None:
    """The share of each cluster's samples that the classifier gives to the cluster's most frequent class."""
    data = load(loaded.model.recipe.data.source, log=lambda line: None)
    assert images.task.labels is not None and data.class_names is not None
    features = classifier_features(data, compute=compute)
    mostly = majority(images.tensors["q"].argmax(1), images.task.labels)
    made = collect(
        draw(loaded.model, loaded.model.recipe.sample, compute, ids=torch.arange(count), label="all", batch=100)
    )
    assert made.labels is not None
    said = [features.extract(part).probabilities for part in made.images.split(500)]
    told = torch.cat([p.argmax(1) for p in said if p is not None])
    right = told == mostly[made.labels]
    print(
        f"{count} samples: {float(right.double().mean()):.4f} of their cluster's most frequent class, "
        f"by {features.description}"
    )
    for k, name in enumerate(loaded.model.dataset_info.class_names or ()):
        share = float(right[made.labels == k].double().mean())
        print(f"  cluster {name}, mostly {data.class_names[int(mostly[k])]}: {share:.2f}")


if __name__ == "__main__":
    main()
