"""Known clusters of some images (semi-supervised clustering): read from a table, and kept fixed by EM."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fromnoise.utils.csv_cells import unescape_cell
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import printable, read_text


@dataclass(frozen=True)
class GivenLabels:
    """Known clusters.

    Attributes:
        clusters: cluster by the index of the image in the data set.
        names: of all clusters: the given labels in alphabetical order, then numbers.
    """

    clusters: dict[int, int]
    names: tuple[str, ...]

    def at(self, index: Tensor) -> Tensor:
        """The known clusters of the images ``index`` (N,), int64 (N,); -1 where unknown."""
        return torch.tensor([self.clusters.get(i, -1) for i in index.tolist()], dtype=torch.int64)


def read_given_labels(path: Path, images: int, clusters: int) -> GivenLabels:
    """Read a CSV file with the columns ``index``, counted from 0, and ``label``.

    Args:
        path: of the file.
        images: number of images in the data set.
        clusters: number of clusters.

    Raises:
        UserError: the file cannot be read, lacks a column, has an index outside the data set, or more labels than
            clusters.
    """
    text = read_text(path)
    try:
        rows = list(csv.DictReader(text.splitlines()))
        pairs = [(int(row["index"]), printable(unescape_cell(row["label"].strip()))) for row in rows]
    except (KeyError, ValueError, AttributeError, TypeError, csv.Error):
        raise UserError(f"{path} is not a table of labels: it needs the columns index and label") from None
    labels = sorted({label for _, label in pairs})
    if not labels:
        raise UserError(f"{path} has no rows: list the index and label of at least one image")
    if len(labels) > clusters:
        raise UserError(f"{path} has {len(labels)} labels for {clusters} clusters: use a larger -q")
    numbers = (str(k) for k in range(2 * clusters) if str(k) not in labels)
    names = tuple(labels) + tuple(next(numbers) for _ in range(clusters - len(labels)))
    for index, _ in pairs:
        if not 0 <= index < images:
            raise UserError(f"{path} has a label for image {index}, but the images are numbered 0 to {images - 1}")
    return GivenLabels({index: labels.index(label) for index, label in pairs}, names)


def with_given_labels(q: Tensor, given: Tensor) -> Tensor:
    """Responsibilities (N, Q) that are one-hot where ``given``, int64 (N,), is not -1."""
    one_hot = torch.zeros_like(q).scatter(1, given.clamp(min=0)[:, None], 1.0)
    return torch.where((given >= 0)[:, None], one_hot, q)


def with_known(q: Tensor, given: Tensor | None) -> Tensor:
    """As ``with_given_labels``; q itself without a table of labels."""
    return q if given is None else with_given_labels(q, given)


def align_clusters(q: Tensor, given: Tensor) -> Tensor:
    """Responsibilities with the clusters renumbered to agree best with the given ones, int64 (N,), -1 where unknown."""
    from scipy.optimize import linear_sum_assignment

    known = given >= 0
    votes = torch.zeros(q.shape[1], q.shape[1], dtype=torch.float64)
    votes.index_add_(0, given[known], q[known])
    rows, columns = linear_sum_assignment(-votes.numpy())
    return q[:, torch.from_numpy(columns)[torch.from_numpy(rows).argsort()]]
