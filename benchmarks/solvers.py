"""Distance against evaluations: every rule on one trained model, and the grids of the best.

python benchmarks/solvers.py RUN [-n N] [--many N] [--evaluations 5,10,20] [--samplers NAME,...] [--grids] [--rows FILE]
    [--picture PNG]

All rules draw from the same noise; an evaluation is one call of the network an image (heun and pc make two a step).
Distances are to the training images, in the features of a classifier of the same set: the kernel distance, whose
expectation does not depend on the number of samples, times 1000, and the Frechet distance. From 250 evaluations on
--many samples are drawn. Rows are kept in FILE as JSON lines, and what is there already is not measured again, so that
a long measurement may be cut into pieces.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from header import header

from fromnoise.checkpoint import load_model
from fromnoise.config import SamplingConfig
from fromnoise.config.recipe_data import open_data
from fromnoise.data import shuffled_indices
from fromnoise.evaluation.features.select import select_features
from fromnoise.evaluation.metrics.frechet import jackknifed_frechet
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.evaluation.statistics import Moments, split_moments
from fromnoise.model import Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import plots
from fromnoise.utils.device import select_device

TWICE = {"heun", "pc"}
GRID = {"ancestral": "uniform", "ddim": "uniform"}  # the others: logsnr
RULES = ("ancestral", "sde", "ddim", "pc", "heun", "ipndm", "dpmpp-2m-sde", "dpmpp-2m", "dpmpp-3m", "unipc")
GRIDS = ("uniform", "quadratic", "logsnr", "karras")
MANY = 250
FEW = (10, 20, 30)  # evaluations at which grids are compared
Row = dict[str, Any]


def way(model: Model, sampler: str, evaluations: int, grid: str) -> SamplingConfig | None:
    """The rule with as many evaluations, or None where it cannot have them."""
    steps = max(1, (evaluations + 1) // 2) if sampler in TWICE else evaluations
    if model.schedule.steps is not None and steps > model.schedule.steps:
        return None
    changes = {"sampler": sampler, "steps": steps, "grid": grid, "guidance": 1.0, "eta": 0.0}
    return model.recipe.sample.model_copy(update=changes)


def judge(run: str, most: int) -> tuple[Model, Callable[[SamplingConfig, int], Row], Callable[[int], Row]]:
    """The model, what measures a way of sampling it with n samples, and the floor of n held-out images."""
    model, compute = load_model(run).model, select_device()
    compute.to_device(model.denoiser)
    data = open_data(model.recipe, lambda line: None)
    seen = select_features(None, data, compute=compute, log=print)
    chosen = torch.as_tensor(shuffled_indices(len(data.train), 0, range(min(10_000, len(data.train)))))
    real = seen.features(data.train.get(chosen))
    moments, reference = Moments.of(real), KernelReference(real)

    def told(found: torch.Tensor) -> Row:
        frechet, near = jackknifed_frechet(split_moments(found), moments), reference.distance(found)
        return {
            "n": len(found),
            "features": seen.name,
            "kernel": 1000 * near.value,
            "kernel_error": 1000 * near.error,
            "frechet": frechet.value,
            "frechet_error": frechet.error,
        }

    def measure(config: SamplingConfig, n: int) -> Row:
        return told(seen.features(collect(sample_steps(model, config, compute, ids=torch.arange(n), batch=128)).images))

    held_out = seen.features(data.held_out.get(torch.as_tensor(shuffled_indices(len(data.held_out), 0, range(most)))))
    return model, measure, lambda n: told(held_out[:n])


def cell(row: Row) -> str:
    """A kernel distance with its standard error."""
    return f"{row['kernel']:.1f} +- {row['kernel_error']:.1f}"


def usual(row: Row) -> bool:
    """Whether a row is on its rule's usual grid."""
    return row["grid"] == GRID.get(row["sampler"], "logsnr")


def show(rows: list[Row], grids: bool) -> None:
    """The tables, as Markdown."""
    counts = sorted({r["evaluations"] for r in rows})
    mine = [r for r in rows if usual(r)]
    print("| rule | " + " | ".join(map(str, counts)) + " |\n|---" + "|---" * len(counts) + "|")
    for sampler in RULES:
        found = {r["evaluations"]: r for r in mine if r["sampler"] == sampler}
        cells = [cell(found[c]) if c in found else "" for c in counts]
        if found:
            print(f"| {sampler} | " + " | ".join(cells) + " |")
    if grids:
        print(
            f"\n| at {', '.join(map(str, FEW))} evaluations | "
            + " | ".join(GRIDS)
            + " |\n|---"
            + "|---" * len(GRIDS)
            + "|"
        )
        for sampler in RULES:
            of = {(r["grid"], r["evaluations"]): r for r in rows if r["sampler"] == sampler}
            if all((g, c) in of for g in GRIDS for c in FEW):
                cells = [", ".join(cell(of[g, c]) for c in FEW) for g in GRIDS]
                print(f"| {sampler} | " + " | ".join(cells) + " |")


def plot(rows: list[Row], floor: Row, path: Path) -> None:
    """Every rule's curve, on its usual grid."""
    made, (axes,) = plots.figure()
    for sampler in RULES:
        mine = sorted((r for r in rows if r["sampler"] == sampler and usual(r)), key=lambda r: r["evaluations"])
        axes.plot(
            [r["evaluations"] for r in mine], [r["kernel"] for r in mine], marker="o", markersize=3, label=sampler
        )
    near = max(floor["kernel"], floor["kernel_error"])  # that of held-out images may be below 0
    axes.axhline(near, color="0.6", linestyle=":", label="held-out images")
    axes.set(xlabel="evaluations", ylabel=f"kernel distance x 1000 ({floor['features']})", xscale="log", yscale="log")
    axes.legend(fontsize=7)
    plots.save(made, path)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=512)
    parser.add_argument("--many", type=int, default=128)
    parser.add_argument("--evaluations", default="5,10,20,50,100,250,1000")
    parser.add_argument("--samplers", default=",".join(RULES))
    parser.add_argument("--grids", action="store_true", help="every grid, at few evaluations")
    parser.add_argument("--rows", type=Path, default=Path("solvers.jsonl"))
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    model, measure, floor = judge(args.run, args.n)
    print(header(), flush=True)
    for n in (args.n, args.many):
        print("floor", json.dumps(floor(n)), flush=True)
    rules = args.rules.split(",")
    wanted = [(r, int(c), GRID.get(r, "logsnr")) for c in args.evaluations.split(",") for r in rules]
    if args.grids:
        wanted += [(sampler, count, grid) for sampler in rules for grid in GRIDS for count in FEW]
    for sampler, count, grid in wanted:
        rows = read(args.rows)
        config = way(model, sampler, count, grid)
        if config is None or any((r["sampler"], r["evaluations"], r["grid"]) == (sampler, count, grid) for r in rows):
            continue
        row = {"sampler": sampler, "evaluations": count, "grid": grid} | measure(
            config, args.many if count >= MANY else args.n
        )
        with args.rows.open("a", encoding="utf-8") as out:
            out.write(json.dumps({k: None if v is math.nan else v for k, v in row.items()}) + "\n")
        print(row, flush=True)
    rows = read(args.rows)
    show(rows, args.grids)
    if args.picture:
        plot(rows, floor(args.n), args.picture)


def read(path: Path) -> list[Row]:
    """The rows that are there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
