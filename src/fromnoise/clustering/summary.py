"""The files of a finished clustering run: assignments, and a page with scores, sample images and the rounds of EM."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from fromnoise.clustering.agreement import calibration_blocks, score_blocks
from fromnoise.clustering.assignments import Assignments
from fromnoise.clustering.baselines import flat_pixels, principal_components
from fromnoise.clustering.expectation import evenly_spaced
from fromnoise.clustering.fit import ClusteringResult
from fromnoise.clustering.round_report import objective_plot, round_tables
from fromnoise.clustering.scores import majority_classes
from fromnoise.data import Images
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import image_io, plots
from fromnoise.reporting.documents import Block, Code, Figure, Heading, Table, write_document
from fromnoise.utils.csv_cells import escape_cell
from fromnoise.utils.files import write_atomic

_COLUMNS = 8  # images of each kind in a row
_MAP_IMAGES = 2000
_PERPLEXITY = 30.0
MAP_COLUMNS = 50
"""Images in a row of map_images.png."""


def assignments_of(result: ClusteringResult) -> Assignments:
    """The assignments of a finished run, in the order of the data set."""
    task, remaining = result.task, result.task.remaining
    index, q, labels = task.index, result.probabilities, task.labels
    if remaining is not None and result.remaining_probabilities is not None:
        order = torch.cat([index, remaining.index]).argsort()
        index = torch.cat([index, remaining.index])[order]
        q = torch.cat([q, result.remaining_probabilities])[order]
        if labels is not None and remaining.labels is not None:
            labels = torch.cat([labels, remaining.labels])[order]
        else:
            labels = None
    return Assignments(index, q, result.model.dataset_info.class_names or (), labels, task.class_names)


def write_summary(result: ClusteringResult, out: Path, command: str) -> list[Path]:
    """Write the assignments and the page of a run.

    Args:
        result: of the run.
        out: the run directory.
        command: the command line of the run.

    Returns:
        Paths of the written files.

    Raises:
        UserError: a file cannot be written.
    """
    table, clustering = assignments_of(result), result.model.recipe.clustering
    paths = [out / "assignments.csv", out / "assignments.parquet"]
    for path in paths:
        table.write(path)
    objective_plot(result.rounds, out / "objective.png")
    ids, embedding = _embedding(result)
    paths += _write_map(result, ids, embedding, out)
    blocks: list[Block] = [
        Heading(f"{len(table.index):,} images in {len(table.names)} clusters", 1),
        Code(command),
        *score_blocks(result),
        Heading("Clusters"),
        Figure(
            "clusters",
            _overview(result),
            "One row for each cluster: its images of highest and of lowest probability, samples, and its mean image.",
        ),
        Table(
            [
                "cluster",
                "images",
                "fraction",
                "mean probability",
                *(["main class"] if table.labels is not None else []),
            ],
            _cluster_rows(table),
        ),
        *calibration_blocks(result),
        Heading("Map"),
        Figure(
            "map",
            _map(result, ids, embedding),
            f"t-SNE of the first principal components of up to {_MAP_IMAGES:,} images, coloured by cluster.",
        ),
        Heading("Rounds"),
        *round_tables(result.rounds, clustering.encoder_weight, clustering.min_time),
    ]
    return [*paths, *write_document(out, "clusters", blocks), out / "objective.png"]


def _cluster_rows(table: Assignments) -> list[list[str]]:
    """The table of the clusters."""
    confidence, clusters = table.q.max(1)
    classes = majority_classes(clusters, table.labels) if table.labels is not None else None
    rows = []
    for k, name in enumerate(table.names):
        members = clusters == k
        count = int(members.sum())
        mean = f"{float(confidence[members].mean()):.3f}" if count else "-"
        row = [name, f"{count:,}", f"{count / len(clusters):.3f}", mean]
        if classes is not None and table.class_names is not None and table.labels is not None:
            main = int(classes[k]) if count else 0
            part = float((table.labels[members] == main).double().mean()) if count else 0.0
            row.append(f"{table.class_names[main]} ({part:.1%})" if count else "-")
        rows.append(row)
    return rows


# ---- images


def _overview(result: ClusteringResult) -> Image:
    """Four grids side by side, with a row for each cluster."""
    confidence, clusters = result.probabilities.max(1)
    images, names = result.task.data.train, result.model.dataset_info.class_names or ()
    highest, lowest, means = [], [], []
    for k in range(len(names)):
        members = (clusters == k).nonzero().flatten()
        ranked = members[confidence[members].argsort(descending=True, stable=True)]
        highest.append(_row(images, ranked[:_COLUMNS]))
        lowest.append(_row(images, ranked.flip(0)[:_COLUMNS]))
        means.append(_mean_image(images, members))
    panels = [
        ("highest probability", image_io.grid(torch.cat(highest), _COLUMNS)),
        ("lowest probability", image_io.grid(torch.cat(lowest), _COLUMNS)),
        ("samples", image_io.grid(_samples(result, _COLUMNS), _COLUMNS)),
        ("mean", image_io.grid(torch.stack(means), 1)),
    ]
    return image_io.side_by_side(panels)


def _samples(result: ClusteringResult, count: int) -> Tensor:
    """Samples of all clusters, uint8 (Q count, C, H, W), ordered by cluster."""
    clusters = len(result.model.dataset_info.class_names or ())
    ids = torch.arange(count * clusters)
    samples = collect(sample_steps(result.model, result.model.recipe.sample, result.compute, ids=ids, label="all"))
    return samples.images.unflatten(0, (count, clusters)).transpose(0, 1).flatten(0, 1)


def _row(images: Images, ids: Tensor) -> Tensor:
    """The images ``ids``, followed by white ones to fill the row."""
    row = torch.full((_COLUMNS, *images.shape), 255, dtype=torch.uint8)
    row[: len(ids)] = images.get(ids)
    return row


def _mean_image(images: Images, ids: Tensor) -> Tensor:
    if not len(ids):
        return torch.full(images.shape, 255, dtype=torch.uint8)
    total = torch.zeros(images.shape, dtype=torch.float64)
    for part in ids.split(1000):
        total += images.get(part).double().sum(0)
    return (total / len(ids)).round().to(torch.uint8)


def _embedding(result: ClusteringResult) -> tuple[Tensor, np.ndarray]:
    """Some images, (M,), and their places in the plane, (M, 2), by t-SNE (van der Maaten and Hinton 2008)."""
    from sklearn.manifold import TSNE

    ids = evenly_spaced(len(result.q), _MAP_IMAGES)
    points = principal_components(flat_pixels(result.task.data.train, ids), 30).numpy()
    perplexity = min(_PERPLEXITY, max(1.0, (len(points) - 1) / 4))
    return ids, TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(points)


def _write_map(result: ClusteringResult, ids: Tensor, embedding: np.ndarray, out: Path) -> list[Path]:
    """Write the map for other programs: map.csv, and its images in the same order as rows of map_images.png."""
    names: tuple[str, ...] = result.model.dataset_info.class_names or ()
    confidence, clusters = result.probabilities[ids].max(1)
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["index", "x", "y", "cluster", "probability"])
    for i, (index, place) in enumerate(zip(result.task.index[ids].tolist(), embedding.tolist(), strict=True)):
        name = escape_cell(names[int(clusters[i])])
        rows.writerow([index, *(f"{v:.3f}" for v in place), name, f"{float(confidence[i]):.4f}"])
    table, sheet = out / "map.csv", out / "map_images.png"
    write_atomic(table, text.getvalue().encode())
    images = image_io.grid(result.task.data.train.get(ids), MAP_COLUMNS, gap=0, scale=1)
    image_io.save(images, sheet)
    return [table, sheet]


def _map(result: ClusteringResult, ids: Tensor, embedding: np.ndarray) -> Image:
    """A scatter plot of the images."""
    figure, (axes,) = plots.figure(width=7, height=6)
    clusters = result.q[ids].argmax(1).numpy()
    for k, name in enumerate(result.model.dataset_info.class_names or ()):
        members = np.flatnonzero(clusters == k)
        if len(members):
            axes.scatter(*embedding[members].T, s=6, label=name)
    axes.set(xticks=[], yticks=[])
    axes.legend(markerscale=2, fontsize=8)
    return plots.to_image(figure)
