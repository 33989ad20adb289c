"""Compare samplers and time grids on one trained model: distance to the data against network evaluations.

python benchmarks/solvers.py RUN [-n N] [--many N] [--evaluations 5,10,20] [--samplers NAME,...] [--grids] [--rows FILE]
    [--image PNG]

All samplers start from the same noise; an evaluation is one call of the network per image (heun and pc make two in a
step). Distances are to the training images, in the features of a classifier of the same data: the kernel distance
(KID), whose expectation does not depend on the number of samples, times 1000, and the Frechet distance. A second table
has the difference between each sampler's kernel distance and the least one, with the paired standard error over the
noise, the real images fixed. From 250 evaluations on --many samples are taken. Rows are appended to FILE as JSON lines,
and rows in FILE are not measured again, so that a long measurement can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from header import header
from torch import Tensor

from fromnoise.checkpoint import load_model
from fromnoise.config import SamplingConfig
from fromnoise.config.recipe_data import open_data
from fromnoise.data import shuffled_indices
from fromnoise.evaluation.estimate import standard_error
from fromnoise.evaluation.features.select import select_features
from fromnoise.evaluation.metrics.frechet import jackknifed_frechet
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.evaluation.statistics import Moments, split_moments
from fromnoise.model import Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import plots
from fromnoise.utils.device import select_device

TWO_EVALUATIONS = {"heun", "pc"}  # samplers that evaluate the network twice in a step
GRID = {"ancestral": "uniform", "ddim": "uniform"}  # of the main table; other samplers: logsnr
SAMPLERS = ("ancestral", "sde", "ddim", "pc", "heun", "ipndm", "dpmpp-2m-sde", "dpmpp-2m", "dpmpp-3m", "unipc")
GRIDS = ("uniform", "quadratic", "logsnr", "karras")
MANY_EVALUATIONS = 250
GRID_EVALUATIONS = (10, 20, 30)  # at which grids are compared
Row = dict[str, Any]


def sampling_config(model: Model, sampler: str, evaluations: int, grid: str) -> SamplingConfig | None:
    """A sampler with this number of evaluations; None if the schedule has too few steps."""
    steps = max(1, (evaluations + 1) // 2) if sampler in TWO_EVALUATIONS else evaluations
    if model.schedule.steps is not None and steps > model.schedule.steps:
        return None
    changes = {"sampler": sampler, "steps": steps, "grid": grid, "guidance": 1.0}
    return model.recipe.sample.model_copy(update=changes)


class Evaluator:
    """Distances of samples of a run, and of held-out images, to its training images."""

    def __init__(self, run: str, held_out: int) -> None:
        """Load the model, train the classifier, and compute the features of the training images.

        Args:
            run: a run directory.
            held_out: number of held-out images to compare with.
        """
        self.model, self._compute = load_model(run).model, select_device()
        self._compute.to_device(self.model.denoiser)
        data = open_data(self.model.recipe, lambda line: None)
        self._extractor = select_features(None, data, compute=self._compute, log=print)
        indices = shuffled_indices(len(data.train), 0, range(min(10_000, len(data.train))))
        real = self._extractor.features(data.train.get(torch.as_tensor(indices)))
        self._moments, self._kernel = Moments.of(real), KernelReference(real)
        indices = shuffled_indices(len(data.held_out), 0, range(held_out))
        self._held_out = self._extractor.features(data.held_out.get(torch.as_tensor(indices)))

    def samples(self, config: SamplingConfig, n: int) -> Row:
        """Distances of n samples."""
        steps = sample_steps(self.model, config, self._compute, ids=torch.arange(n), batch=128)
        return self._distances(self._extractor.features(collect(steps).images))

    def held_out(self, n: int) -> Row:
        """Distances of n held-out images: those between two real samples."""
        return self._distances(self._held_out[:n])

    def _distances(self, features: Tensor) -> Row:
        frechet = jackknifed_frechet(split_moments(features), self._moments)
        kernel = self._kernel.distance(features)
        return {
            "n": len(features),
            "features": self._extractor.name,
            "kernel": 1000 * kernel.value,
            "kernel_error": 1000 * kernel.error,
            "frechet": frechet.value,
            "frechet_error": frechet.error,
            "pseudo_values": [round(1000 * v, 2) for v in self._kernel.pseudo_values(features).tolist()],
        }


def cell(row: Row) -> str:
    """A kernel distance with its standard error."""
    return f"{row['kernel']:.1f} +- {row['kernel_error']:.1f}"


def paired_cell(row: Row, best: Row) -> str:
    """Kernel distance of a row minus that of the best one, with the error of the mean paired difference."""
    if row is best or row["n"] != best["n"] or "pseudo_values" not in row or "pseudo_values" not in best:
        return "least" if row is best else ""
    a, b = (torch.tensor(r["pseudo_values"], dtype=torch.float64) for r in (row, best))
    return f"{row['kernel'] - best['kernel']:.1f} +- {standard_error(a - b):.1f}"


def on_main_grid(row: Row) -> bool:
    """Whether a row belongs to the main table."""
    return row["grid"] == GRID.get(row["sampler"], "logsnr")


def print_tables(rows: list[Row], grids: bool) -> None:
    """Print the tables as Markdown."""
    counts = sorted({r["evaluations"] for r in rows if on_main_grid(r)})
    print("| sampler | " + " | ".join(map(str, counts)) + " |\n|---" + "|---" * len(counts) + "|")
    for sampler in SAMPLERS:
        by_count = {r["evaluations"]: r for r in rows if on_main_grid(r) and r["sampler"] == sampler}
        cells = [cell(by_count[c]) if c in by_count else "" for c in counts]
        if by_count:
            print(f"| {sampler} | " + " | ".join(cells) + " |")
    print("\n| minus the least | " + " | ".join(map(str, counts)) + " |\n|---" + "|---" * len(counts) + "|")
    main = [r for r in rows if on_main_grid(r)]
    least = {c: min((r for r in main if r["evaluations"] == c), key=lambda r: r["kernel"]) for c in counts}
    for sampler in SAMPLERS:
        mine = {r["evaluations"]: r for r in main if r["sampler"] == sampler}
        if mine:
            cells = [paired_cell(mine[c], least[c]) if c in mine else "" for c in counts]
            print(f"| {sampler} | " + " | ".join(cells) + " |")
    if grids:
        title = f"at {', '.join(map(str, GRID_EVALUATIONS))} evaluations"
        print(f"\n| {title} | " + " | ".join(GRIDS) + " |\n|---" + "|---" * len(GRIDS) + "|")
        for sampler in SAMPLERS:
            by_grid = {(r["grid"], r["evaluations"]): r for r in rows if r["sampler"] == sampler}
            if all((g, c) in by_grid for g in GRIDS for c in GRID_EVALUATIONS):
                cells = [", ".join(cell(by_grid[g, c]) for c in GRID_EVALUATIONS) for g in GRIDS]
                print(f"| {sampler} | " + " | ".join(cells) + " |")


def plot(rows: list[Row], held_out: Row, path: Path) -> None:
    """Plot each sampler's distance over the evaluations, with that of held-out images."""
    made, (axes,) = plots.figure()
    for sampler in SAMPLERS:
        curve = [r for r in rows if r["sampler"] == sampler and on_main_grid(r)]
        curve.sort(key=lambda r: r["evaluations"])
        axes.plot(
            [r["evaluations"] for r in curve], [r["kernel"] for r in curve], marker="o", markersize=3, label=sampler
        )
    real_vs_real = max(held_out["kernel"], held_out["kernel_error"])  # the unbiased estimate may be below 0
    axes.axhline(real_vs_real, color="0.6", linestyle=":", label="held-out images")
    features = held_out["features"]
    axes.set(xlabel="evaluations", ylabel=f"kernel distance x 1000 ({features})", xscale="log", yscale="log")
    axes.legend(fontsize=7)
    plots.save(made, path)


def main() -> None:
    """Sample, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=512)
    parser.add_argument("--many", type=int, default=128)
    parser.add_argument("--evaluations", default="5,10,20,50,100,250,1000")
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--grids", action="store_true", help="compare the grids at few evaluations")
    parser.add_argument("--rows", type=Path, default=Path("solvers.jsonl"))
    parser.add_argument("--image", type=Path)
    args = parser.parse_args()
    evaluator = Evaluator(args.run, args.n)
    print(header(), flush=True)
    for n in (args.n, args.many):
        print("held-out images", json.dumps(summary(evaluator.held_out(n))), flush=True)
    samplers = args.samplers.split(",")
    wanted = [(s, int(c), GRID.get(s, "logsnr")) for c in args.evaluations.split(",") for s in samplers]
    if args.grids:
        wanted += [(sampler, count, grid) for sampler in samplers for grid in GRIDS for count in GRID_EVALUATIONS]
    for sampler, count, grid in wanted:
        measured = {(r["sampler"], r["evaluations"], r["grid"]) for r in read(args.rows)}
        config = sampling_config(evaluator.model, sampler, count, grid)
        if config is None or (sampler, count, grid) in measured:
            continue
        row = {"sampler": sampler, "evaluations": count, "grid": grid}
        row |= evaluator.samples(config, args.many if count >= MANY_EVALUATIONS else args.n)
        with args.rows.open("a", encoding="utf-8") as out:
            out.write(json.dumps({k: None if v is math.nan else v for k, v in row.items()}) + "\n")
        print(summary(row), flush=True)
    rows = read(args.rows)
    print_tables(rows, args.grids)
    if args.image:
        plot(rows, evaluator.held_out(args.n), args.image)


def summary(row: Row) -> Row:
    """A row without the values of single samples."""
    return {key: value for key, value in row.items() if key != "pseudo_values"}


def read(path: Path) -> list[Row]:
    """The rows measured so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
