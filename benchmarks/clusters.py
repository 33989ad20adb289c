"""Cost and accuracy of pruned E-steps, and how many samples of a cluster have its main class, for a clustering run.

python benchmarks/clusters.py RUN [-n N] [--samples S] [--steps K] [--guidance G]

An E-step that evaluates every cluster at every diffusion step is compared with E-steps of two stages, whose candidates
are evaluated at as many (not with -n 0). Samples are classified by a network trained on the true classes of the run's
data; beside their share of the cluster's most frequent class is that of the cluster's images, by true labels.
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
from fromnoise.clustering.expectation import EStep
from fromnoise.clustering.scores import ClusterScores, majority_classes
from fromnoise.clustering.task import ClusteringTask, prepare
from fromnoise.config import Recipe
from fromnoise.data import MemoryImages, load
from fromnoise.diffusion.likelihood.code_length import StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig, responsibilities
from fromnoise.evaluation.features.trained import classifier_features
from fromnoise.pipeline import collect, sample_steps
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig, select_device


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=8, help="diffusion steps of an E-step, each with two noises")
    parser.add_argument("--guidance", type=float, help="of the samples; the recipe's without")
    args = parser.parse_args()
    loaded, compute = checkpoint.load_model(args.run), select_device("cpu", "fp32")
    compute.to_device(loaded.model.denoiser)
    recipe = loaded.model.recipe
    subset = Subset.from_run(args.run, recipe, args.n)
    print(header())
    print(
        f"{args.run}, step {loaded.progress['step']:,}, {args.n} of its {len(subset.task.index):,} images", flush=True
    )
    if args.n:
        e_step = EStep.from_model(loaded.model, recipe.clustering.count, compute, recipe.train.seed + 1)
        compare_e_steps(e_step, subset, args.steps)
    classify_samples(loaded, compute, subset, args.samples, args.guidance)


@dataclass(frozen=True)
class Subset:
    """Some of the images of a run, and its EM state.

    Attributes:
        task: all images of the run.
        ids: those to evaluate, (n,).
        state: tensors of ``clustering.em.EMState``.
    """

    task: ClusteringTask
    ids: Tensor
    state: dict[str, Tensor]

    @staticmethod
    def from_run(run: str, recipe: Recipe, count: int) -> Subset:
        """``count`` evenly spaced images of a run."""
        saved = RunDir(Path(run)).load_state()
        if saved is None:
            raise SystemExit(f"{run} has no training state: give a run directory of fromnoise cluster")
        state = {k.removeprefix("em."): v for k, v in saved[0].items() if k.startswith("em.")}
        task = prepare(recipe, lambda line: None)
        return Subset(task, torch.linspace(0, len(state["q"]) - 1, count).long(), state)


def compare_e_steps(e_step: EStep, subset: Subset, steps: int) -> None:
    """E-steps with the encoder term, without and with pruning."""
    images, state = MemoryImages(subset.task.data.train.get(subset.ids)), subset.state
    offsets, reference = state["encoder_nats"][subset.ids], None
    assert subset.task.labels is not None
    pruned = ((2, 3, 1.0), (4, 4, 1.0), (1, 3, 0.999), (1, 4, 0.9999), (2, 4, 0.9999))
    for probes, candidates, confident in ((steps, e_step.clusters, 1.0), *pruned):
        config = EStepConfig(probes, steps - probes, candidates, confident)
        start = time.perf_counter()
        proposal = StepProposal(state["proposal"])
        found = [bounds for _, bounds in e_step.component_bounds(images, proposal, config, 0, offsets)]
        seconds = (time.perf_counter() - start) / len(images)
        nats = torch.cat([bounds.nats for bounds in found]) + offsets
        clusters = responsibilities(nats, state["weights"]).argmax(1)
        nfe = float(torch.cat([bounds.nfe for bounds in found]).double().mean())
        reference = clusters if reference is None else reference
        print(
            f"{probes} steps for all {e_step.clusters} clusters, {steps - probes} for {candidates} candidates unless "
            f"confident ({confident}): {nfe:.1f} network evaluations and {seconds:.3f} s per image, "
            f"agreement {float((clusters == reference).double().mean()):.4f}, "
            f"accuracy {ClusterScores.from_labels(clusters, subset.task.labels[subset.ids]).accuracy:.4f}",
            flush=True,
        )


def classify_samples(
    loaded: checkpoint.LoadedModel, compute: ComputeConfig, subset: Subset, count: int, guidance: float | None
) -> None:
    """The fraction of each cluster's samples that are classified as the most frequent class of its images."""
    recipe, labels = loaded.model.recipe, subset.task.labels
    data = load(recipe.data.source, log=lambda line: None)
    assert labels is not None and data.class_names is not None
    features = classifier_features(data, compute=compute)
    assigned = subset.state["q"].argmax(1)
    main_class = majority_classes(assigned, labels)
    config = recipe.sample if guidance is None else recipe.sample.model_copy(update={"guidance": guidance})
    samples = collect(sample_steps(loaded.model, config, compute, ids=torch.arange(count), label="all", batch=100))
    assert samples.labels is not None
    probabilities = [features.extract(part).probabilities for part in samples.images.split(500)]
    classes = torch.cat([p.argmax(1) for p in probabilities if p is not None])
    correct, pure = classes == main_class[samples.labels], labels == main_class[assigned]
    print(
        f"{count} samples with guidance {config.guidance:g}: {float(correct.double().mean()):.4f} classified as the "
        f"most frequent class of their cluster, by {features.description}; of the clusters' images "
        f"{float(pure.double().mean()):.4f} have it"
    )
    for k, name in enumerate(loaded.model.dataset_info.class_names or ()):
        found = torch.bincount(classes[samples.labels == k], minlength=len(data.class_names))
        own, most = float(correct[samples.labels == k].double().mean()), int(found.argmax())
        line = f"  cluster {name}, {data.class_names[int(main_class[k])]}: {own:.2f} of {int(found.sum())} samples"
        line += f", {float(pure[assigned == k].double().mean()):.2f} of {int((assigned == k).sum()):,} images"
        if most != int(main_class[k]):
            line += f"; {float(found[most] / found.sum()):.2f} of the samples are {data.class_names[most]}"
        print(line)


if __name__ == "__main__":
    main()
