"""A run of fromnoise cluster, judged: whose its samples are by a classifier, and what an E-step costs, pruned or not.

python benchmarks/clusters.py RUN [-n N] [--samples S] [--steps K]

The classifier has learned the true classes of the run's own data. An E-step that looks at every cluster at every step
is compared with one of two stages at the same steps for those in question.
"""

from __future__ import annotations

import argparse
import time

import torch
from header import header

from fromnoise import checkpoint
from fromnoise.cluster.assign import assign
from fromnoise.cluster.report import Assignments
from fromnoise.cluster.scores import Scores, majority
from fromnoise.compute import Compute, choose
from fromnoise.data import Data, load
from fromnoise.diffusion.membership import Search
from fromnoise.draw import collect, draw
from fromnoise.metrics.features import classifier


def main() -> None:
    """Assign, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=8, help="of an E-step, each under a noise and its negative")
    args = parser.parse_args()
    loaded, compute = checkpoint.load_model(args.run), choose("cpu", "fp32")
    compute.place(loaded.model.denoiser)
    data = load(loaded.model.recipe.data.source, log=lambda line: None)
    print(header())
    print(f"{args.run}, step {loaded.progress['step']:,}", flush=True)
    whole = cost(loaded, data, compute, args)
    judge(loaded, data, compute, whole, args.samples)


def cost(loaded: checkpoint.Loaded, data: Data, compute: Compute, args: argparse.Namespace) -> Assignments:
    """E-steps of training images, whole and pruned; the whole one."""
    clusters, steps = len(loaded.model.facts.labels or ()), args.steps
    whole = None
    for first, keep in ((steps, clusters), (1, 2), (1, 3), (2, 3), (2, 4)):
        search = Search(first, steps - first, keep)
        begun = time.perf_counter()
        found = assign(loaded, data, compute, search, args.n, 0)
        spent = (time.perf_counter() - begun) / args.n
        whole = whole or found
        same = float((found.q.argmax(1) == whole.q.argmax(1)).double().mean())
        assert found.labels is not None
        s = Scores.of(found.q.argmax(1), found.labels)
        print(
            f"{first} steps for all {clusters}, {steps - first} for {keep}: {search.forwards(clusters):4} evaluations "
            f"an image, {spent:.3f} s, agreement {same:.4f}, accuracy {s.accuracy:.4f}",
            flush=True,
        )
    assert whole is not None
    return whole


def judge(loaded: checkpoint.Loaded, data: Data, compute: Compute, sorted_: Assignments, count: int) -> None:
    """The share of each cluster's samples that the classifier gives to the cluster's most frequent class."""
    assert sorted_.labels is not None and data.labels is not None
    judge = classifier(data, compute=compute)
    mostly = majority(sorted_.q.argmax(1), sorted_.labels)
    made = collect(
        draw(loaded.model, loaded.model.recipe.sample, compute, ids=torch.arange(count), label="all", batch=100)
    )
    assert made.labels is not None
    said = [judge.see(part).probabilities for part in made.images.split(500)]
    told = torch.cat([p.argmax(1) for p in said if p is not None])
    right = told == mostly[made.labels]
    print(
        f"{count} samples, by {judge.about}: {float(right.double().mean()):.4f} of their cluster's most frequent class"
    )
    for k, name in enumerate(sorted_.names):
        share = float(right[made.labels == k].double().mean())
        print(f"  cluster {name}, mostly {data.labels[int(mostly[k])]}: {share:.2f}")


if __name__ == "__main__":
    main()
