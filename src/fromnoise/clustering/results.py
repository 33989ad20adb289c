"""What is left of a sorting: the table of assignments, and a page with a row of pictures a cluster."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from fromnoise.clustering.baselines import flat_pixels, principal_components
from fromnoise.clustering.fit import ClusteringResult
from fromnoise.clustering.scores import Scores, majority
from fromnoise.data import Images
from fromnoise.pipeline import collect, draw
from fromnoise.reporting import image_io, plots
from fromnoise.reporting.documents import Block, Code, Figure, Heading, Table, Text, write_document
from fromnoise.utils.files import write_atomic

_SHOWN = 8  # pictures of each kind in a row
_MAP = 2000  # points of the map
_AWAY = 30.0  # perplexity of the map


@dataclass(frozen=True)
class Assignments:
    """Who belongs where.

    Attributes:
        index: of the images in their set, int64 (N,).
        q: probabilities of the clusters, float64 (N, Q).
        names: of the clusters.
        labels: true classes, int64 (N,); None if unknown.
        classes: their names.
    """

    index: Tensor
    q: Tensor
    names: tuple[str, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None

    def csv(self) -> bytes:
        """A row an image: index, cluster, probability, and label where known."""
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        known = self.labels is not None and self.classes is not None
        rows.writerow(["index", "cluster", "probability", *(["label"] if known else [])])
        sure, which = self.q.max(1)
        for n, (index, k, p) in enumerate(zip(self.index.tolist(), which.tolist(), sure.tolist(), strict=True)):
            label = [self.classes[int(self.labels[n])]] if known else []  # pyright: ignore[reportOptionalSubscript]
            rows.writerow([index, self.names[k], f"{p:.6f}", *label])
        return text.getvalue().encode()

    def parquet(self) -> bytes:
        """The same with the probability of every cluster."""
        import pyarrow
        from pyarrow import parquet

        sure, which = self.q.max(1)
        columns: dict[str, Any] = {"index": self.index.numpy(), "cluster": [self.names[k] for k in which.tolist()]}
        columns |= {"probability": sure.numpy()}
        columns |= {f"p_{name}": self.q[:, k].numpy() for k, name in enumerate(self.names)}
        if self.labels is not None and self.classes is not None:
            columns["label"] = [self.classes[k] for k in self.labels.tolist()]
        sink = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), sink)
        return sink.getvalue()

    def write(self, path: Path) -> None:
        """Write the table as ``path``, a .csv or a .parquet.

        Raises:
            UserError: as ``files.write_atomic``.
        """
        write_atomic(path, self.parquet() if path.suffix == ".parquet" else self.csv())


def assignments(found: ClusteringResult) -> Assignments:
    """Of a finished run, in the order of the set."""
    task = found.task
    index, q, labels = task.index, found.q, task.labels
    if task.rest is not None and found.rest is not None:
        order = torch.cat([index, task.rest[1]]).argsort()
        index, q = torch.cat([index, task.rest[1]])[order], torch.cat([q, found.rest])[order]
        labels = torch.cat([labels, task.rest[2]])[order] if labels is not None and task.rest[2] is not None else None
    return Assignments(index, q, found.model.dataset_info.class_names or (), labels, task.names)


def leave(found: ClusteringResult, out: Path, command: str) -> list[Path]:
    """Write the assignments and the page of a run.

    Args:
        found: by it.
        out: the run folder.
        command: that made it.

    Returns:
        What was written.

    Raises:
        UserError: as ``files.write_atomic``.
    """
    table = assignments(found)
    paths = [out / "assignments.csv", out / "assignments.parquet"]
    for path in paths:
        table.write(path)
    bound_plot(found.rounds, out / "bound.png")
    blocks: list[Block] = [
        Heading(f"{len(table.index):,} images in {len(table.names)} clusters", 1),
        Code(command),
        *scores(found),
        Heading("Clusters"),
        Figure(
            "clusters",
            previews(found),
            "a row a cluster: the images that it is most sure of, its least sure ones, samples, its mean",
        ),
        Table(
            ["cluster", "images", "share", "mean probability", *(["mostly"] if table.labels is not None else [])],
            sizes(table),
        ),
        Heading("Map"),
        Figure(
            "map",
            map_of(found),
            f"t-SNE of the first principal components of up to {_MAP:,} images; a colour a cluster",
        ),
        Heading("Rounds"),
        rounds(found.rounds),
    ]
    return [*paths, *write_document(out, "clusters", blocks), out / "bound.png"]


def scores(found: ClusteringResult) -> list[Block]:
    """Agreement with the labels, of the first sorting and of the last; nothing without labels."""
    labels = found.task.labels
    if labels is None:
        return []
    rows = []
    for name, clusters in (("first sorting", found.start), ("after EM", found.q.argmax(1))):
        s = Scores.of(clusters, labels)
        rows.append([name, f"{s.accuracy:.4f}", f"{s.nmi:.4f}", f"{s.ari:.4f}"])
    words = "Agreement with the labels, which were not looked at: accuracy with clusters matched to classes, NMI, ARI."
    return [Text(words), Table(["", "accuracy", "NMI", "ARI"], rows)]


def sizes(table: Assignments) -> list[list[str]]:
    """A row a cluster."""
    sure, which = table.q.max(1)
    classes = majority(which, table.labels) if table.labels is not None else None
    out = []
    for k, name in enumerate(table.names):
        members = which == k
        count = int(members.sum())
        mean = f"{float(sure[members].mean()):.3f}" if count else "-"
        row = [name, f"{count:,}", f"{count / len(which):.3f}", mean]
        if classes is not None and table.classes is not None and table.labels is not None:
            most = int(classes[k]) if count else 0
            part = float((table.labels[members] == most).double().mean()) if count else 0.0
            row.append(f"{table.classes[most]} ({part:.1%})" if count else "-")
        out.append(row)
    return out


def rounds(lines: Sequence[dict[str, Any]]) -> Table:
    """A row a round."""
    rows = []
    for r in lines:
        change = r["change"]
        anew = [*map(str, r["revived"]), *(f"{b} (joined to {a}) as half of {c}" for a, b, c in r["exchanged"])]
        rows.append(
            [
                str(r["number"]),
                f"{r['step']:,}",
                f"{r['temperature']:.3g}",
                f"{r['bound']['value']:.2f} ± {r['bound']['error']:.2f}",
                f"{change['value']:+.3f} ± {change['error']:.3f}" if change else "-",
                f"{r['moved']:.2%}",
                f"{r['sure']:.3f}",
                ", ".join(anew) or "-",
            ]
        )
    head = ["round", "step", "temperature", "bound, nats", "change", "moved", "sure", "begun anew"]
    return Table(head, rows)


# ---- pictures


def previews(found: ClusteringResult) -> Image:
    """Four blocks side by side, a row a cluster in each."""
    sure, which = found.q.max(1)
    images, names = found.task.data.train, found.model.dataset_info.class_names or ()
    most, least, means = [], [], []
    for k in range(len(names)):
        members = (which == k).nonzero().flatten()
        ranked = members[sure[members].argsort(descending=True, stable=True)]
        most.append(_row(images, ranked[:_SHOWN]))
        least.append(_row(images, ranked.flip(0)[:_SHOWN]))
        means.append(_mean(images, members))
    panels = [
        ("most sure", image_io.grid(torch.cat(most), _SHOWN)),
        ("least sure", image_io.grid(torch.cat(least), _SHOWN)),
        ("samples", image_io.grid(samples(found, _SHOWN), _SHOWN)),
        ("mean", image_io.grid(torch.stack(means), 1)),
    ]
    return image_io.side_by_side(panels)


def samples(found: ClusteringResult, each: int) -> Tensor:
    """Drawn pictures, uint8 (Q each, C, H, W), cluster after cluster."""
    clusters = len(found.model.dataset_info.class_names or ())
    made = collect(
        draw(found.model, found.model.recipe.sample, found.compute, ids=torch.arange(each * clusters), label="all")
    )
    return made.images.unflatten(0, (each, clusters)).transpose(0, 1).flatten(0, 1)


def _row(images: Images, ids: Tensor) -> Tensor:
    """Some images, and white in place of those that there are not."""
    white = torch.full((_SHOWN, *images.shape), 255, dtype=torch.uint8)
    white[: len(ids)] = images.get(ids)
    return white


def _mean(images: Images, ids: Tensor) -> Tensor:
    if not len(ids):
        return torch.full(images.shape, 255, dtype=torch.uint8)
    total = torch.zeros(images.shape, dtype=torch.float64)
    for part in ids.split(1000):
        total += images.get(part).double().sum(0)
    return (total / len(ids)).round().to(torch.uint8)


def map_of(found: ClusteringResult) -> Image:
    """Images as points of the plane, neighbours near each other (van der Maaten and Hinton 2008)."""
    from PIL.Image import open as read
    from sklearn.manifold import TSNE

    picked = torch.linspace(0, len(found.q) - 1, min(_MAP, len(found.q))).long()
    points = principal_components(flat_pixels(found.task.data.train, picked), 30).numpy()
    away = min(_AWAY, max(1.0, (len(points) - 1) / 4))
    plane = TSNE(2, perplexity=away, init="pca", random_state=0).fit_transform(points)
    made, (axes,) = plots.figure(width=7, height=6)
    which = found.q[picked].argmax(1).numpy()
    for k, name in enumerate(found.model.dataset_info.class_names or ()):
        mine = np.flatnonzero(which == k)
        if len(mine):
            axes.scatter(*plane[mine].T, s=6, label=name)
    axes.set(xticks=[], yticks=[])
    axes.legend(markerscale=2, fontsize=8)
    buffer = io.BytesIO()
    made.savefig(buffer, format="png")
    return read(buffer).convert("RGB")


def bound_plot(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """The bound over the rounds; the bars are of the change since the round before.

    Raises:
        UserError: as ``files.write_atomic``.
    """
    made, (axes,) = plots.figure()
    if lines:
        values = [r["bound"]["value"] for r in lines]
        errors = [r["change"]["error"] if r["change"] else 0.0 for r in lines]
        axes.errorbar([r["number"] for r in lines], values, errors, marker="o", markersize=4, capsize=3)
    axes.set(xlabel="round", ylabel="bound, nats an image", title="the evidence bound")
    axes.xaxis.get_major_locator().set_params(integer=True)
    plots.save(made, path)
