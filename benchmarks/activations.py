"""Activations of a denoiser as features: clusters of every block and time, and criteria that choose among them.

python benchmarks/activations.py RUN SPEC [-n N] [-q Q] [--times T ...] [--seed S] [--json FILE] [--choice]

For each block and time, features of two independent pairs of noises, and of slightly moved images, give
- silhouette: of the clusters, over the features;
- stability: adjusted Rand index of the clusters under the two pairs of noises;
- invariance: adjusted Rand index of the clusters and of those of the moved images' nearest other images;
- neighbours: fraction of the nearest neighbours under one pair that are so under the other;
- modularity: of the clusters in the graph of nearest neighbours;
- gap: between eigenvalues Q and Q + 1 of the graph's normalized affinity.
None sees a label. NMI and accuracy are of spectral clusters, the mean over the two pairs; the last table has Spearman's
rank correlation of each criterion with NMI, and the NMI at the block and time that each would choose.

--choice measures only what a clustering starts from, at the block and time that it chooses, over five seeds of k-means.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from header import header
from torch import Tensor

from fromnoise.clustering.activation_choice import TIMES, choose, shared_neighbours
from fromnoise.clustering.activations import Activations, standardized
from fromnoise.clustering.baselines import flat_pixels
from fromnoise.clustering.features import NOISES
from fromnoise.clustering.graph import NeighbourGraph, prepare_features
from fromnoise.clustering.scores import ClusterScores
from fromnoise.clustering.spectral import spectral_partition
from fromnoise.data import MemoryImages, load
from fromnoise.diffusion.augmentation import EDMAugmentation
from fromnoise.diffusion.rng import Noise
from fromnoise.utils.device import select_device

CRITERIA = ("silhouette", "stability", "invariance", "neighbours", "modularity", "gap")
SUMS = {"mean rank of all": CRITERIA, "mean rank without gap": CRITERIA[:-1]}
MOVES = EDMAugmentation(probability=1.0, flip=False, scale=0.1, rotate=0.05, anisotropy=0.1, translate=0.03)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("spec")
    parser.add_argument("-n", type=int, default=3000)
    parser.add_argument("-q", type=int, default=10)
    parser.add_argument("--times", type=float, nargs="*", default=list(TIMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--choice", action="store_true", help="measure the start of a clustering alone")
    args = parser.parse_args()
    print(header(), flush=True)
    images, labels = some_images(args.spec, args.n, args.seed)
    activations = Activations.from_run(args.run, images.shape, select_device("cpu"), args.seed)
    if args.choice:
        measure_choice(activations, images, labels, args)
        return
    pixels = scores(partition(prepare_features(flat_pixels(images)), args)[0], labels)
    print(f"\nspectral clusters of the pixels: NMI {pixels['nmi']:.3f}, accuracy {pixels['accuracy']:.3f}\n")
    print(f"| block | t | {' | '.join(CRITERIA)} | NMI | accuracy |\n|---|---|{'---|' * (len(CRITERIA) + 2)}")
    rows = []
    for time in args.times:
        ids = torch.arange(len(images))
        kinds = [
            activations.at(images, ids, time, activations.layers, [0, 1]),
            activations.at(images, ids, time, activations.layers, [2, 3]),
            activations.at(images, ids, time, activations.layers, [4, 5], moved),
        ]
        for layer in activations.layers:
            row = measure([kind.pop(layer) for kind in kinds], labels, args)
            rows.append({"layer": layer, "time": time} | row)
            numbers = " | ".join(f"{row[key]:.3f}" for key in (*CRITERIA, "nmi", "accuracy"))
            print(f"| {layer} | {time:g} | {numbers} |", flush=True)
    print_choices(rows)
    if args.json:
        args.json.write_text(json.dumps({"run": args.run, "spec": args.spec, "pixels": pixels, "rows": rows}, indent=1))


def measure_choice(activations: Activations, images: MemoryImages, labels: Tensor, args: argparse.Namespace) -> None:
    """Print NMI and accuracy of the start of a clustering, and of spectral clusters of the pixels."""
    begin = monotonic()
    chosen = choose(activations, images)
    print(f"{chosen.describe()}; {monotonic() - begin:.0f} s")
    begin, ids = monotonic(), torch.arange(len(images))
    found = activations.at(images, ids, chosen.time, [chosen.layer], range(NOISES))[chosen.layer]
    print(f"activations of {len(images):,} images: {monotonic() - begin:.0f} s")
    for name, matrix in (("activations", standardized(found)), ("pixels", flat_pixels(images))):
        graph = NeighbourGraph.from_points(prepare_features(matrix))
        each = [scores(spectral_partition(graph, args.q, seed), labels) for seed in range(5)]
        numbers = {key: torch.tensor([one[key] for one in each]) for key in each[0]}
        print(name, ", ".join(f"{key} {v.mean():.3f} +- {v.std():.3f}" for key, v in numbers.items()), flush=True)


def some_images(spec: str, n: int, seed: int) -> tuple[MemoryImages, Tensor]:
    """At most ``n`` images of the training split, selected by the seed, and their classes."""
    data = load(spec)
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:n].sort().values
    if data.train.labels is None:
        raise SystemExit(f"{spec} has no classes to compare with")
    return MemoryImages(data.train.get(chosen)), data.train.labels[chosen]


def moved(x0: Tensor, ids: Tensor) -> Tensor:
    """Images that are moved a little."""
    return MOVES(x0, Noise(1, ids))[0]


def partition(points: Tensor, args: argparse.Namespace) -> tuple[Tensor, NeighbourGraph]:
    """Spectral clusters of prepared features, and their graph."""
    graph = NeighbourGraph.from_points(points)
    return spectral_partition(graph, args.q, args.seed), graph


def scores(clusters: Tensor, labels: Tensor) -> dict[str, float]:
    """NMI and accuracy."""
    found = ClusterScores.from_labels(clusters, labels)
    return {"nmi": found.nmi, "accuracy": found.accuracy}


def measure(features: list[Tensor], labels: Tensor, args: argparse.Namespace) -> dict[str, float]:
    """Criteria and scores of one block and time; features under two noises, and of moved images."""
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    first, second = (prepare_features(standardized(matrix)) for matrix in features[:2])
    (a, graph), (b, _) = partition(first, args), partition(second, args)
    both = prepare_features(standardized(torch.cat([features[0], features[2]])))
    nearest = neighbours(both[: len(a)], both[len(a) :], 2)
    own = nearest[:, 0] == np.arange(len(a))
    other = torch.from_numpy(np.where(own, nearest[:, 1], nearest[:, 0]))
    values, _ = graph.leading_eigenvectors(args.q + 1, args.seed)
    each = [scores(clusters, labels) for clusters in (a, b)]
    return {
        "silhouette": float(silhouette_score(first.numpy(), a.numpy())),
        "stability": float(adjusted_rand_score(a, b)),
        "invariance": float(adjusted_rand_score(a, a[other])),
        "neighbours": shared_neighbours(first, second),
        "modularity": modularity(graph, a),
        "gap": float(values[args.q - 1] - values[args.q]),
    } | {key: (each[0][key] + each[1][key]) / 2 for key in each[0]}


def neighbours(points: Tensor, queries: Tensor, count: int) -> np.ndarray:
    """Numbers of the nearest of ``points`` to each query, (n, count)."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count, algorithm="brute").fit(points.numpy()).kneighbors(queries.numpy())[1]


def modularity(graph: NeighbourGraph, clusters: Tensor) -> float:
    """Modularity of a partition of a weighted graph (Newman 2004)."""
    degree, total = np.asarray(graph.affinity.sum(1)).ravel(), graph.affinity.sum()
    one_hot = torch.nn.functional.one_hot(clusters).double().numpy()
    inside = (one_hot * (graph.affinity @ one_hot)).sum(0) / total
    return float((inside - ((one_hot * degree[:, None]).sum(0) / total) ** 2).sum())


def print_choices(rows: list[dict[str, float]]) -> None:
    """Correlation of each criterion with NMI, and what it would choose."""
    from scipy.stats import rankdata, spearmanr

    nmi = [row["nmi"] for row in rows]
    print(f"\nNMI of a random block and time {np.mean(nmi):.3f}, of the best {max(nmi):.3f}")
    print("\n| criterion | rank correlation with NMI | would choose | NMI | accuracy |\n|---|---|---|---|---|")
    columns = {name: rankdata([row[name] for row in rows]) for name in CRITERIA}
    columns |= {name: np.mean([columns[key] for key in keys], 0) for name, keys in SUMS.items()}
    for name, values in columns.items():
        chosen, correlation = rows[int(np.argmax(values))], float(np.asarray(spearmanr(values, nmi))[0])
        where = f"{chosen['layer']}, t = {chosen['time']:g}"
        print(f"| {name} | {correlation:.2f} | {where} | {chosen['nmi']:.3f} | {chosen['accuracy']:.3f} |")


if __name__ == "__main__":
    main()
