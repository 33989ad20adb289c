"""Distance against evaluations: every rule on one trained model, and the grids of the best.

python benchmarks/solvers.py RUN [-n N] [--evaluations 5,10,20] [--rules NAME,...] [--picture PNG] [--json FILE]

All rules draw from the same noise; an evaluation is one call of the network an image (heun and pc make two a step).
Distances are to the training images, in the features of a classifier of the same set. The floor is that of as many
held-out real images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from header import header

from fromnoise import plots
from fromnoise.checkpoint import load_model
from fromnoise.compute import choose
from fromnoise.data import order
from fromnoise.draw import collect, draw
from fromnoise.metrics.choice import choose as choose_features
from fromnoise.metrics.distances import Frechet, Moments, frechet_from, split
from fromnoise.metrics.pairs import Reference
from fromnoise.model import Model
from fromnoise.recipe import SampleRecipe
from fromnoise.train.run import open_data

TWICE = {"heun", "pc"}
GRID = {"ancestral": "uniform", "ddim": "uniform"}  # the others: logsnr
RULES = ("ancestral", "sde", "ddim", "pc", "heun", "ipndm", "dpmpp-2m-sde", "dpmpp-2m", "dpmpp-3m", "unipc")
GRIDS = ("uniform", "quadratic", "logsnr", "karras")


def ways(rule: str, evaluations: int, model: Model) -> SampleRecipe | None:
    """The rule with as many evaluations, or None where it cannot have them."""
    steps = max(1, (evaluations + 1) // 2) if rule in TWICE else evaluations
    if model.schedule.steps is not None and steps > model.schedule.steps:
        return None
    changes = {"rule": rule, "steps": steps, "grid": GRID.get(rule, "logsnr"), "guidance": 1.0, "eta": 0.0}
    return model.recipe.sample.model_copy(update=changes)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=512)
    parser.add_argument("--evaluations", default="5,10,20,50,100,250,1000")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model, compute = load_model(args.run).model, choose()
    compute.place(model.denoiser)
    data = open_data(model.recipe, lambda line: None)
    seen = choose_features(None, data, compute=compute, log=print)
    chosen = torch.as_tensor(order(len(data.train), 0, range(min(10_000, len(data.train)))))
    real = seen.of(data.train.get(chosen))
    moments, reference = Moments.of(real), Reference(real)

    def measure(how: SampleRecipe) -> tuple[Frechet, float, float, float]:
        begun = time.perf_counter()
        images = collect(draw(model, how, compute, ids=torch.arange(args.n), batch=128)).images
        spent = time.perf_counter() - begun
        found = seen.of(images)
        near = reference.kernel(found)
        return frechet_from(split(found), moments), near.value, near.error, spent / args.n

    held_out = data.held_out.get(torch.as_tensor(order(len(data.held_out), 0, range(args.n))))
    floor = frechet_from(split(seen.of(held_out)), moments)
    print(header(), flush=True)
    print(f"{args.run}: {args.n} samples each, Frechet ({seen.name}) and kernel x 1000; floor {floor.value:.2f}")
    counts, curves = [int(word) for word in args.evaluations.split(",")], {}
    for name in args.rules.split(","):
        rows = []
        for count in counts:
            how = ways(name, count, model)
            if how is None:
                continue
            frechet, near, error, seconds = measure(how)
            rows.append((count, frechet.value, frechet.error, near, error, seconds))
            print(
                f"{name:13} {count:5} evaluations  Frechet {frechet.value:7.2f} +- {frechet.error:.2f}  "
                f"kernel {1000 * near:8.2f} +- {1000 * error:.2f}  {seconds:.4f} s/image",
                flush=True,
            )
        curves[name] = rows
    best = sorted((r for r in curves if r not in TWICE), key=lambda r: min(x[1] for x in curves[r] if x[0] <= 20))[:3]
    print("grids, at 10 and 20 evaluations")
    for name in best:
        for grid in GRIDS:
            told = []
            for count in (10, 20):
                how = ways(name, count, model)
                assert how is not None
                frechet, *_ = measure(how.model_copy(update={"grid": grid}))
                told.append(f"{frechet.value:7.2f} +- {frechet.error:.2f}")
            print(f"{name:13} {grid:10} {'   '.join(told)}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(curves, indent=1))
    if args.picture:
        made, (axes,) = plots.figure()
        for name, rows in curves.items():
            axes.plot([r[0] for r in rows], [r[1] for r in rows], marker="o", markersize=3, label=name)
        axes.axhline(floor.value, color="0.6", linestyle=":", label="held-out images")
        axes.set(xlabel="evaluations", ylabel=f"Frechet distance ({seen.name})", xscale="log", yscale="log")
        axes.legend(fontsize=7)
        plots.save(made, args.picture)


if __name__ == "__main__":
    main()
