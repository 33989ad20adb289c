"""Do the metrics rank models by their training? One network on MNIST after 10, 30, 120 and 400 steps.

python benchmarks/metric_ranking.py [--folder DIR] [-n N] [--figure PNG]

Trains the four models (unless they exist), samples from each, and prints every metric with its error and the value of
held-out real images, and whether each metric ranks the models by their training. The figure shows the samples side by
side. It also prints the time that the evaluation takes, and the accuracy of the classifiers of MNIST and Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from header import GENERAL_UNET, header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.data import load
from fromnoise.evaluation import resolve
from fromnoise.evaluation.features.trained import classifier_features
from fromnoise.evaluation.measurement import measure
from fromnoise.evaluation.metrics import all_metrics
from fromnoise.evaluation.result_tables import metrics_table, source_reports
from fromnoise.evaluation.sources import RealImages
from fromnoise.reporting import image_io
from fromnoise.training.run import train
from fromnoise.utils.device import select_device

STEPS = (10, 30, 120, 400)
NETWORK = {
    "data.source": "mnist",
    "data.size": "auto",
    "data.flip": False,
    "network.width": 32,
    "network.multipliers": [1, 2],
    "network.blocks": 1,
    "network.blocks_up": 1,
    "network.attention_resolutions": [7],
    "network.patch": 2,
    "network.zero_output": True,
    "diffusion.schedule": "cosine",
    "train.batch": 128,
    "train.lr": 2e-3,
    "train.warmup": 20,
    "train.decay": "linear",
    "train.decay_from": 0.3,
    "train.previews": 0,
    "train.evaluations": 4,
    "ema.decays": [],
    "ema.widths": [0.1],
    "sample.sampler": "dpmpp-2m",
    "sample.steps": 20,
    "sample.count": 0,
}


def main() -> None:
    """Train, sample, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/metric-ranking"))
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    runs = [args.folder / f"{steps}-steps" for steps in STEPS]
    for steps, run in zip(STEPS, runs, strict=True):
        train(recipes.load(GENERAL_UNET, NETWORK | {"train.steps": steps}), run)
    print(header())
    classifiers = {}
    for name in ("fashion_mnist", "mnist"):
        data = load(name)
        start, cpu_start = time.perf_counter(), time.process_time()
        classifiers[name] = classifier_features(data)
        print(
            f"classifier of {name}: accuracy {classifiers[name].accuracy:.2%} on {len(data.held_out):,} test images, "
            f"trained or loaded in {time.perf_counter() - start:.0f} s ({time.process_time() - cpu_start:.0f} s CPU)"
        )
    data = load("mnist")
    request = resolve.SampleRequest(args.n, 0, None, 200, select_device())
    start, cpu_start = time.perf_counter(), time.process_time()
    names = [str(r) for r in runs]
    sources = resolve.image_sources(names, resolve.open_runs(names, {}), {}, data, request, False)
    measurement = measure(sources, RealImages("training images", data.train), data.held_out, classifiers["mnist"])
    costs = [(e.stats.cost, e.stats.n) for e in measurement.evaluations]
    sampling = sum(cost.seconds_per_image * n for cost, n in costs if cost)
    reports = source_reports(measurement)
    print(metrics_table(reports).plain())
    measuring = time.perf_counter() - start - sampling
    print(f"sampling {sampling:.0f} s, measuring {measuring:.0f} s; {time.process_time() - cpu_start:.0f} s CPU in all")
    for metric in all_metrics():
        values = [row.samples for report in reports if (row := report.row(metric.key))]
        sign = -1 if metric.better == "lower" else 1
        gains = [sign * (b.value - a.value) for a, b in zip(values, values[1:], strict=False)]
        errors = [math.hypot(a.error, b.error) for a, b in zip(values, values[1:], strict=False)]
        scores = ", ".join(f"{g / e:.1f}" if e else f"{g:g}" for g, e in zip(gains, errors, strict=True))
        ranking = "by their training" if min(gains) > 0 else "with ties" if min(gains) == 0 else "otherwise"
        print(f"{metric.key:16} ranks the models {ranking}; differences in standard errors: {scores}")
    if args.figure:
        panels: list[tuple[str, Tensor]] = [
            (f"{steps} steps", report.evaluation.stats.images) for steps, report in zip(STEPS, reports, strict=True)
        ]
        panels.append(("real", data.train.get(torch.arange(64))))
        grids = [(title, image_io.grid(images[:64], columns=8, scale=1)) for title, images in panels]
        image_io.save(image_io.side_by_side(grids), args.figure)
        print(args.figure)


if __name__ == "__main__":
    main()
