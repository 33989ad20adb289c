"""The table of cluster assignments: index, cluster, probability and, where known, the true label of each image."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise.utils.csv_cells import escape_cell
from fromnoise.utils.files import write_atomic


@dataclass(frozen=True)
class Assignments:
    """Responsibilities of images.

    Attributes:
        index: indices of the images in their data set, int64 (N,).
        q: responsibilities, float64 (N, Q).
        names: names of the clusters.
        labels: true classes, int64 (N,); None if unknown.
        class_names: names of the true classes.
    """

    index: Tensor
    q: Tensor
    names: tuple[str, ...]
    labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None

    def csv(self) -> bytes:
        """A row for each image: index, cluster, probability and, where known, label.

        Names that a spreadsheet would evaluate get an apostrophe in front.
        """
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        labels = self._label_names()
        rows.writerow(["index", "cluster", "probability", *(["label"] if labels is not None else [])])
        confidence, clusters = self.q.max(1)
        columns = zip(self.index.tolist(), clusters.tolist(), confidence.tolist(), strict=True)
        for n, (index, k, p) in enumerate(columns):
            label = [escape_cell(labels[n])] if labels is not None else []
            rows.writerow([index, escape_cell(self.names[k]), f"{p:.6f}", *label])
        return text.getvalue().encode()

    def parquet(self) -> bytes:
        """The same as a Parquet file, with the probability of every cluster in the columns p_NAME."""
        import pyarrow
        from pyarrow import parquet

        confidence, clusters = self.q.max(1)
        columns: dict[str, Any] = {"index": self.index.numpy(), "cluster": [self.names[k] for k in clusters.tolist()]}
        columns |= {"probability": confidence.numpy()}
        columns |= {f"p_{name}": self.q[:, k].numpy() for k, name in enumerate(self.names)}
        labels = self._label_names()
        if labels is not None:
            columns["label"] = labels
        sink = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), sink)
        return sink.getvalue()

    def _label_names(self) -> list[str] | None:
        if self.labels is None or self.class_names is None:
            return None
        return [self.class_names[k] for k in self.labels.tolist()]

    def write(self, path: Path) -> None:
        """Write a .csv or a .parquet file.

        Raises:
            UserError: the file cannot be written.
        """
        write_atomic(path, self.parquet() if path.suffix == ".parquet" else self.csv())
