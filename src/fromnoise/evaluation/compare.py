"""Evaluation from Python: samples and real images in, metrics out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fromnoise.data import Data, Images, MemoryImages, Shape
from fromnoise.data.convert import as_data
from fromnoise.evaluation.features.select import select_features
from fromnoise.evaluation.measurement import measure
from fromnoise.evaluation.result_tables import SourceReport, metrics_table, source_reports
from fromnoise.evaluation.rows import MetricRow
from fromnoise.evaluation.sources import RealImages, open_samples
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of samples, with their errors; printing it shows the table.

    Attributes:
        report: all rows and findings.
    """

    report: SourceReport

    def __getitem__(self, key: str) -> MetricRow:
        """The row of a metric, such as ``frechet``: ``.samples`` and ``.real_vs_real`` are its estimates.

        Raises:
            KeyError: it was not measured.
        """
        row = self.report.row(key)
        if row is None:
            raise KeyError(f"{key} was not measured: choose from {', '.join(r.key for r in self.report.rows)}")
        return row

    def __str__(self) -> str:
        """The table, and a line for each finding."""
        return "\n".join([metrics_table([self.report]).plain(), *map(str, self.report.findings)])


def evaluate(
    samples: Tensor | str | Path,
    real: object,
    *,
    features: str | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> EvaluationResult:
    """Compare samples with real images.

    Args:
        samples: uint8 (N, C, H, W), or a folder, .zip, .npz, .npy or .parquet of any program.
        real: training and held-out images, anything that ``as_data`` takes; ``Trainer.data`` has the split of a run.
        features: classifier, self-supervised, pixels, inception or dinov2; None is classifier for images with labels
            and self-supervised for others, each trained once for a data set.
        device: "cpu", "cuda", "cuda:1" or "mps"; None is the best available.
        precision: "auto" (bf16 where the hardware has it), "bf16" or "fp32".

    Raises:
        UserError: the images cannot be read, differ in shape, are too few, or there are no such features.
    """
    data = real if isinstance(real, Data) else as_data(real)
    images = _open(samples, data.shape)
    extractor = select_features(features, data, compute=select_device(device, precision))
    sources = [RealImages("samples", images)]
    measurement = measure(sources, RealImages("training images", data.train), data.held_out, extractor)
    return EvaluationResult(source_reports(measurement)[0])


def _open(samples: Tensor | str | Path, shape: Shape) -> Images:
    if not isinstance(samples, Tensor):
        return open_samples(str(samples), shape, resize=True)
    if samples.dtype != torch.uint8 or tuple(samples.shape[1:]) != tuple(shape):
        raise UserError(
            f"the samples are {samples.dtype} of shape {tuple(samples.shape)}: give uint8 of shape (N, "
            f"{', '.join(map(str, shape))}), as the real images are"
        )
    return MemoryImages(samples.cpu())
