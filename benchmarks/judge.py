"""Do the distances rank models as an eye does? One network on MNIST after 10, 30, 120 and 400 steps.

python benchmarks/judge.py [--folder DIR] [-n N] [--picture PNG]

Trains the four (those that are not there yet), draws from each, and prints every distance with its error and floor, and
whether each ranks them by their training. The picture shows the samples side by side, for the eye. It also prints what
judging took, and the accuracy of the classifiers of MNIST and Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.data import load
from fromnoise.evaluation import page, resolve
from fromnoise.evaluation.features import extractors
from fromnoise.evaluation.measurement import measure
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
    """Train, draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/judge"))
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    runs = [args.folder / f"{steps}-steps" for steps in STEPS]
    for steps, run in zip(STEPS, runs, strict=True):
        train(recipes.load("unet", NETWORK | {"train.steps": steps}), run)
    print(header())
    classifiers = {}
    for name in ("fashion_mnist", "mnist"):
        data = load(name)
        begun, worked = time.perf_counter(), time.process_time()
        classifiers[name] = extractors.classifier(data)
        print(
            f"classifier of {name}: accuracy {classifiers[name].accuracy:.2%} on {len(data.held_out):,} test images, "
            f"had in {time.perf_counter() - begun:.0f} s ({time.process_time() - worked:.0f} s of processor)"
        )
    data = load("mnist")
    config = resolve.Drawing(args.n, 0, None, 200, select_device())
    begun, worked = time.perf_counter(), time.process_time()
    subjects = resolve.subjects([str(r) for r in runs], {}, data, config, False)
    found = measure(subjects, RealImages("training images", data.train), data.held_out, classifiers["mnist"])
    drawing = sum(j.tally.cost.seconds * j.tally.n for j in found.judged if j.tally.cost)
    told = page.verdicts(found)
    print(page.distances(told).plain())
    self_evaluation = time.perf_counter() - begun - drawing
    print(
        f"drawing {drawing:.0f} s, judging {self_evaluation:.0f} s; both {time.process_time() - worked:.0f} s of processor"
    )
    for key in ("frechet", "kernel", "precision", "recall", "density", "coverage", "score"):
        numbers = [n for v in told if (n := v.number(key))]
        sign = -1 if numbers[0].better == "lower" else 1
        steps = [sign * (b.found.value - a.found.value) for a, b in zip(numbers, numbers[1:], strict=False)]
        errors = [math.hypot(a.found.error, b.found.error) for a, b in zip(numbers, numbers[1:], strict=False)]
        apart = ", ".join(f"{s / e:.1f}" if e else f"{s:g}" for s, e in zip(steps, errors, strict=True))
        verdict = "as they were trained" if min(steps) > 0 else "with ties" if min(steps) == 0 else "otherwise"
        print(f"{key:10} ranks them {verdict}; from one to the next {apart} standard errors")
    if args.picture:
        panels: list[tuple[str, Tensor]] = [
            (f"{steps} steps", v.judged.tally.pictures) for steps, v in zip(STEPS, told, strict=True)
        ]
        panels.append(("real", data.train.get(torch.arange(64))))
        image_io.save(
            image_io.side_by_side([(n, image_io.grid(p[:64], columns=8, scale=1)) for n, p in panels]), args.picture
        )
        print(args.picture)


if __name__ == "__main__":
    main()
