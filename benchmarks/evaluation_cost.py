"""Cost of an evaluation: training of the feature extractors, time besides sampling, and memory for 50,000 images.

python benchmarks/evaluation_cost.py [--run RUN] [-n N] [--count M] [--data SPEC...]

Each part runs in its own process. The classifiers and the self-supervised networks are trained with an empty cache. The
evaluation is of N samples of RUN against its training data (without a run: of a run of ten steps on MNIST), with the
classifier from the cache; its time includes the start of Python and the loading of the data, and the sampling time of
the report is subtracted. The memory is the peak resident memory of an evaluation of an .npz of M images of 28x28.
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
from header import GENERAL_UNET, header

from fromnoise.data import load, shuffled_indices
from fromnoise.evaluation.features.trained import classifier_features, self_supervised_features


def train_features(kind: str, spec: str) -> dict[str, Any]:
    """Seconds to train a feature extractor of a data set, and its accuracy."""
    data = load(spec)
    start = time.perf_counter()
    if kind == "classifier":
        accuracy = classifier_features(data).accuracy
    else:
        accuracy = self_supervised_features(data).retrieval_accuracy
    return {"seconds": time.perf_counter() - start, "accuracy": accuracy, "n": len(data.held_out)}


def evaluate(options: list[str]) -> dict[str, Any]:
    """Seconds and peak memory of ``fromnoise evaluate OPTIONS``, and seconds of sampling."""
    from fromnoise.cli import main

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report"
        code = main(["evaluate", *options, "--out", str(out)])
        result = json.loads((out / "report.json").read_text())["evaluations"][0]
    cost = result["cost"]
    return {
        "code": code,
        "seconds": time.perf_counter() - start,
        "sampling": cost["seconds_per_image"] * result["n"] if cost else 0.0,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def in_process(part: str, options: list[str], cache: Path) -> dict[str, Any]:
    """The result of a part that runs in its own process, and the seconds of the process."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, *options],
        env={**os.environ, "FROMNOISE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"total": time.perf_counter() - start}


def run_part(options: list[str]) -> None:
    """Run a part in the process of ``in_process``."""
    name, rest = options[0], options[1:]
    print(json.dumps(evaluate(rest) if name == "evaluate" else train_features(name, rest[0])))


def noisy_images(spec: str, count: int, path: Path) -> Path:
    """An .npz of training images with a little noise."""
    images = load(spec).train
    pixels = images.get(shuffled_indices(len(images), 1, range(count)))
    noise = torch.randint(-8, 9, pixels.shape, generator=torch.Generator().manual_seed(0))
    np.savez(path, images=(pixels + noise).clamp(0, 255).to(torch.uint8).numpy())
    return path


def short_run(folder: Path) -> Path:
    """A run of ten steps on MNIST."""
    from metric_ranking import NETWORK

    from fromnoise import config as recipes
    from fromnoise.training.run import train

    train(recipes.load(GENERAL_UNET, NETWORK | {"train.steps": 10}), folder)
    return folder


def main() -> None:
    """Run the parts and print."""
    if sys.argv[1:2] == ["--part"]:
        run_part(sys.argv[2:])
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
                done = in_process(kind, [spec], cache)
                title = "accuracy" if kind == "classifier" else "retrieval accuracy"
                seconds, accuracy, n = done["seconds"], done["accuracy"], done["n"]
                print(f"{kind} of {spec}: {seconds:.0f} s, {title} {accuracy:.2%} on {n:,} test images", flush=True)
        run = args.run or short_run(Path(folder) / "run")
        in_process("evaluate", [str(run), "-n", "10", "--bits", "0"], cache)  # trains the classifier of its data
        for bits in ("0", "64"):
            done = in_process("evaluate", [str(run), "-n", str(args.n), "--bits", bits], cache)
            total, sampling = done["total"], done["sampling"]
            print(
                f"evaluate {run.name} -n {args.n} --bits {bits}: {total:.0f} s, of which {sampling:.0f} s of sampling: "
                f"{total - sampling:.0f} s besides; peak memory {done['memory'] / 2**20:,.0f} MiB",
                flush=True,
            )
        npz = noisy_images(args.data[0], args.count, Path(folder) / "images.npz")
        for name in ("classifier", "pixels"):
            options = [str(npz), "--against", args.data[0], "-n", str(args.count), "--features", name]
            done = in_process("evaluate", options, cache)
            print(
                f"{args.count:,} images of an .npz, features {name}: {done['total']:.0f} s, "
                f"peak memory {done['memory'] / 2**20:,.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
