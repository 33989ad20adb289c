"""Distance against training time: recipes, budgets and seeds, judged alike.

python benchmarks/quality.py [--recipes fast,...] [--data fashion_mnist] [--minutes 1,3,10] [--seeds 0,1,2] [-n N]
    [--set KEY=VALUE] [--device cpu] [--folder DIR] [--json FILE]

Trains what is not trained yet, draws N samples as the recipe says, and prints the Frechet distance and the kernel
distance to the training images in the features of our classifier of that set, each with its standard error. The floor
is that of as many held-out images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from header import header

from fromnoise import pictures, recipe
from fromnoise.checkpoint import load_model
from fromnoise.compute import choose
from fromnoise.data import load, order
from fromnoise.draw import collect, draw
from fromnoise.metrics import features
from fromnoise.metrics.distances import Moments, frechet_from, split
from fromnoise.metrics.pairs import Reference
from fromnoise.train.run import train


def value(word: str) -> Any:
    """A value as TOML writes it, or the word itself."""
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def main() -> None:
    """Train, draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="fast")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--minutes", default="1,3,10")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device")
    parser.add_argument("--folder", type=Path, default=Path("runs/quality"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    compute = choose(args.device)
    data = load(args.data)
    seen = features.classifier(data, compute=compute)
    chosen = torch.as_tensor(order(len(data.train), 0, range(min(10_000, len(data.train)))))
    real = seen.of(data.train.get(chosen))
    moments, reference = Moments.of(real), Reference(real)
    places = torch.as_tensor(order(len(data.held_out), 0, range(min(args.n, len(data.held_out)))))
    floor = seen.of(data.held_out.get(places))
    print(header())
    print(compute.describe())
    near = reference.kernel(floor)
    print(
        f"{args.data}, n = {args.n}; floor: Frechet ({seen.name}, accuracy {seen.accuracy:.2%}) "
        f"{frechet_from(split(floor), moments).value:.2f}, "
        f"kernel x 1000 {1000 * near.value:.2f} +- {1000 * near.error:.2f}"
    )
    print("| recipe | minutes | seed | steps | Frechet | kernel x 1000 | images/s drawn |\n" + "|---" * 7 + "|")
    rows: list[dict[str, Any]] = []
    changes = {key: value(word) for key, _, word in (s.partition("=") for s in args.set)}
    for name in args.recipes.split(","):
        for minutes in map(float, args.minutes.split(",")):
            for seed in map(int, args.seeds.split(",")):
                folder = args.folder / "-".join([Path(name).stem, args.data, f"{minutes:g}", str(seed), *args.set])
                over = {"data.source": args.data, "train.minutes": minutes, "train.seed": seed, "sample.count": 0}
                done = train(recipe.load(name, over | changes), folder, device=args.device)
                model = load_model(folder).model
                compute.place(model.denoiser)
                begun = time.perf_counter()
                images = collect(draw(model, model.recipe.sample, compute, ids=torch.arange(args.n), batch=128)).images
                rate = args.n / (time.perf_counter() - begun)
                pictures.save(pictures.grid(images[:100], scale=2), folder / "judged.png")
                found = seen.of(images)
                frechet, kernel = frechet_from(split(found), moments), reference.kernel(found)
                rows.append(
                    {"recipe": name, "minutes": minutes, "seed": seed, "steps": done.step, "rate": rate}
                    | {"frechet": frechet.value, "frechet_error": frechet.error}
                    | {"kernel": kernel.value, "kernel_error": kernel.error}
                )
                print(
                    f"| {name} | {minutes:g} | {seed} | {done.step:,} | {frechet.value:.2f} +- {frechet.error:.2f} "
                    f"| {1000 * kernel.value:.2f} +- {1000 * kernel.error:.2f} | {rate:.0f} |",
                    flush=True,
                )
            mine = [r["frechet"] for r in rows if (r["recipe"], r["minutes"]) == (name, minutes)]
            if len(mine) > 1:
                print(
                    f"{name}, {minutes:g} minutes: Frechet {statistics.mean(mine):.2f}, sd over seeds "
                    f"{statistics.stdev(mine):.2f}"
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
