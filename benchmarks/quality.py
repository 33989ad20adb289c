"""Distance against training time: recipes, budgets and seeds, judged alike.

python benchmarks/quality.py [--recipes fast,...] [--data fashion_mnist] [--minutes 1,3,10] [--seeds 0,1,2] [-n N]
    [--set KEY=VALUE] [--draw "KEY=VALUE ..."] [--device cpu] [--folder DIR] [--json FILE]

Trains what is not trained yet, draws N samples as the recipe says, and prints the Frechet distance and the kernel
distance to the training images in the features of our classifier of that set, each with its standard error. The floor
is that of as many held-out images. --draw, which may be repeated, changes how pictures are drawn: any key of the
recipe's part sample, "n=128" for fewer, "weak=1.5" for autoguidance of that scale away from the run of the first
budget.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.checkpoint import load_model
from fromnoise.config import change
from fromnoise.data import Data, load, shuffled_indices
from fromnoise.diffusion import Autoguidance, Unconditional
from fromnoise.evaluation.features import extractors
from fromnoise.evaluation.metrics.frechet import Moments, frechet_from, split
from fromnoise.evaluation.metrics.prdc import Reference
from fromnoise.model import Wrapper, no_wrapper
from fromnoise.pipeline import collect, draw
from fromnoise.reporting import image_io
from fromnoise.training.run import train
from fromnoise.utils.device import ComputeConfig, select_device


def value(word: str) -> Any:
    """A value as TOML writes it, or the word itself."""
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


@dataclass(frozen=True)
class Judge:
    """The features of a set's classifier, and what training images have there."""

    seen: extractors.Classifier
    moments: Moments
    reference: Reference

    @staticmethod
    def of(data: Data, compute: ComputeConfig) -> Judge:
        """By 10,000 training images."""
        seen = extractors.classifier(data, compute=compute)
        chosen = torch.as_tensor(shuffled_indices(len(data.train), 0, range(min(10_000, len(data.train)))))
        real = seen.of(data.train.get(chosen))
        return Judge(seen, Moments.of(real), Reference(real))

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Both distances, each with its standard error."""
        found = self.seen.of(images)
        frechet, kernel = frechet_from(split(found), self.moments), self.reference.kernel(found)
        return {
            "frechet": frechet.value,
            "frechet_error": frechet.error,
            "kernel": 1000 * kernel.value,
            "kernel_error": 1000 * kernel.error,
        }


def drawn(folder: Path, weak: Path, words: str, compute: ComputeConfig, count: int) -> tuple[Tensor, float]:
    """Pictures of a run as its recipe says and ``words`` change, and how many a second."""
    settings = {key: value(word) for key, _, word in (w.partition("=") for w in words.split())}
    count, scale = settings.pop("n", count), settings.pop("weak", None)
    model = load_model(folder).model
    compute.to_device(model.denoiser)
    wrap: Wrapper = no_wrapper
    if scale is not None:
        bad = load_model(weak).model.denoiser
        compute.to_device(bad)
        heard = Unconditional(bad) if bad.pseudo_labels is None else bad  # runs of one seed know the same clusters
        wrap = lambda denoise: Autoguidance(denoise, heard, scale)  # noqa: E731
    config = change(model.recipe, {f"sample.{key}": v for key, v in settings.items()}).sample
    label = "all" if model.dataset_info.class_names is not None else None
    begun = time.perf_counter()
    steps = draw(model, config, compute, ids=torch.arange(count), batch=128, wrap=wrap, label=label)
    images = collect(steps).images
    return images, count / (time.perf_counter() - begun)


def main() -> None:
    """Train, draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="fast")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--minutes", default="1,3,10", help="0 is the recipe's own budget")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument(
        "--draw", action="append", default=[], metavar="KEY=VALUE ...", help="of its part sample: a row"
    )
    parser.add_argument("--device")
    parser.add_argument("--folder", type=Path, default=Path("runs/quality"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    compute = select_device(args.device)
    data = load(args.data)
    judge = Judge.of(data, compute)
    places = torch.as_tensor(shuffled_indices(len(data.held_out), 0, range(min(args.n, len(data.held_out)))))
    floor = judge(data.held_out.get(places))
    print(header())
    print(compute.describe())
    print(
        f"{args.data}, n = {args.n}; floor: Frechet ({judge.seen.name}, accuracy {judge.seen.accuracy:.2%}) "
        f"{floor['frechet']:.2f}, kernel x 1000 {floor['kernel']:.2f} +- {floor['kernel_error']:.2f}"
    )
    print("| recipe | minutes | seed | steps | drawn by | Frechet | kernel x 1000 | images/s |\n" + "|---" * 8 + "|")
    rows: list[dict[str, Any]] = []
    changes = {key: value(word) for key, _, word in (s.partition("=") for s in args.set)}
    budgets = [float(m) for m in args.minutes.split(",")]
    for name in args.recipes.split(","):
        for minutes in budgets:
            for seed in map(int, args.seeds.split(",")):

                def folder(budget: float, of: str = f"{Path(name).stem}-{args.data}", seed: int = seed) -> Path:
                    return args.folder / "-".join([of, f"{budget:g}", str(seed), *args.set])

                budget = {"train.minutes": minutes} if minutes else {}
                over = {"data.source": args.data, "train.seed": seed, "sample.count": 0} | budget
                done = train(recipes.load(name, over | changes), folder(minutes), device=args.device)
                for words in args.draw or [""]:
                    images, rate = drawn(folder(minutes), folder(budgets[0]), words, compute, args.n)
                    image_io.save(image_io.grid(images[:100], scale=2), folder(minutes) / f"judged {words}.png")
                    found = judge(images)
                    row = {"recipe": name, "minutes": minutes, "seed": seed, "steps": done.step, "rate": rate}
                    rows.append(row | {"drawn": words} | found)
                    print(
                        f"| {name} | {minutes:g} | {seed} | {done.step:,} | {words or 'its recipe'} "
                        f"| {found['frechet']:.2f} +- {found['frechet_error']:.2f} "
                        f"| {found['kernel']:.1f} +- {found['kernel_error']:.1f} | {rate:.3g} |",
                        flush=True,
                    )
            for words in args.draw or [""]:
                mine = [r["frechet"] for r in rows if (r["recipe"], r["minutes"], r["drawn"]) == (name, minutes, words)]
                if len(mine) > 1:
                    print(
                        f"{name}, {minutes:g} minutes, {words or 'its recipe'}: Frechet {statistics.mean(mine):.2f}, "
                        f"sd over seeds {statistics.stdev(mine):.2f}"
                    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
