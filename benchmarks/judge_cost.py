"""What judging costs: training the classifiers, an evaluation beyond drawing, and the memory of 50,000 images.

python benchmarks/judge_cost.py [--run RUN] [-n N] [--count M] [--data SPEC...]

Each part runs in a process of its own. The classifiers, and the self-supervised network, are trained with an empty
cache. The evaluation is of N samples of RUN against what it learned from (without a run: of one of ten steps on MNIST,
made for it), with the classifier from the cache; what it took to draw, as the report says, and to load Python and the
data are told apart. The memory is the peak of resident memory while an .npz of M images of 28x28 is judged.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from header import header

from fromnoise.data import load, shuffled_indices
from fromnoise.evaluation.features import extractors


def trained(kind: str, spec: str) -> dict[str, Any]:
    """Seconds to have a network of a set, and how good it is."""
    data = load(spec)
    begun = time.perf_counter()
    if kind == "classifier":
        good = extractors.classifier(data).accuracy
    else:
        good = extractors.self_supervised(data).mark
    return {"seconds": time.perf_counter() - begun, "good": good, "n": len(data.held_out)}


def judged(words: list[str]) -> dict[str, Any]:
    """Seconds and peak memory of ``fromnoise evaluate WORDS``, and of drawing."""
    from fromnoise.cli import main

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report"
        code = main(["evaluate", *words, "--out", str(out)])
        told = json.loads((out / "report.json").read_text())["judged"][0]
    cost = told["cost"]
    return {
        "code": code,
        "seconds": time.perf_counter() - begun,
        "drawing": cost["seconds"] * told["n"] if cost else 0.0,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def alone(part: str, words: list[str], cache: Path) -> dict[str, Any]:
    """A part in a process of its own: what it returned, and its seconds as seen from here."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, *words],
        env={**os.environ, "FROMNOISE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"whole": time.perf_counter() - begun}


def part(words: list[str]) -> None:
    """What a process of ``alone`` does."""
    name, rest = words[0], words[1:]
    print(json.dumps(judged(rest) if name == "evaluate" else trained(name, rest[0])))


def others(spec: str, count: int, path: Path) -> Path:
    """So many pictures in an .npz: training images with a little noise, so that nothing is found at once."""
    images = load(spec).train
    pixels = images.get(shuffled_indices(len(images), 1, range(count)))
    noise = torch.randint(-8, 9, pixels.shape, generator=torch.Generator().manual_seed(0))
    np.savez(path, images=(pixels + noise).clamp(0, 255).to(torch.uint8).numpy())
    return path


def small_run(folder: Path) -> Path:
    """A run of ten steps on MNIST."""
    from judge import NETWORK

    from fromnoise import config as recipes
    from fromnoise.training.run import train

    train(recipes.load("unet", NETWORK | {"train.steps": 10}), folder)
    return folder


def main() -> None:
    """Run the parts, print."""
    if sys.argv[1:2] == ["--part"]:
        part(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion_mnist"])
    args = parser.parse_args()
    print(header(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        for spec in args.data:
            for kind in ("classifier", "self-supervised"):
                done = alone(kind, [spec], cache)
                what = "accuracy" if kind == "classifier" else "told apart"
                seconds, good, n = done["seconds"], done["good"], done["n"]
                print(f"{kind} of {spec}: {seconds:.0f} s, {what} {good:.2%} of {n:,} test images", flush=True)
        run = args.run or small_run(Path(folder) / "run")
        alone(
            "evaluate", [str(run), "-n", "10", "--bits", "0"], cache
        )  # the classifier of its data, where it is another
        for bits in ("0", "64"):
            done = alone("evaluate", [str(run), "-n", str(args.n), "--bits", bits], cache)
            whole, drawing = done["whole"], done["drawing"]
            print(
                f"evaluate {run.name} -n {args.n} --bits {bits}: {whole:.0f} s, of which {drawing:.0f} s of drawing: "
                f"{whole - drawing:.0f} s beyond; peak memory {done['memory'] / 2**20:,.0f} MiB",
                flush=True,
            )
        npz = others(args.data[0], args.count, Path(folder) / "others.npz")
        for name in ("classifier", "pixels"):
            words = [str(npz), "--against", args.data[0], "-n", str(args.count), "--features", name]
            done = alone("evaluate", words, cache)
            print(
                f"{args.count:,} images of an .npz by {name}: {done['whole']:.0f} s, "
                f"peak memory {done['memory'] / 2**20:,.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
