"""Can the digits of a run be read? Two classifiers fitted to scikit-learn's real ones say how sure they are.

python benchmarks/digits.py [RUN] [-n N]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier


@dataclass(frozen=True)
class EvaluationReport:
    """What a classifier says.

    Attributes:
        classifier: its name.
        accuracy: on real test digits.
        sure_of_real: share of real test digits of which it is at least 90 % sure.
        floor: the same of real test digits with their pixels shuffled, which cannot be read.
        sure: the same of the samples.
        error: standard error of ``sure``.
        classes: samples that it takes for each class, of those it is sure of.
    """

    classifier: str
    accuracy: float
    sure_of_real: float
    floor: float
    sure: float
    error: float
    classes: list[int]


def judge(images: np.ndarray) -> list[EvaluationReport]:
    """Verdicts on samples, uint8 (N, 1, 8, 8)."""
    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(pixels / 16, labels, test_size=0.2, random_state=0, stratify=labels)
    samples, out = images.reshape(len(images), 64) / 255, []
    shuffled = np.random.default_rng(0).permuted(x_test, axis=1)
    for name, model in (
        ("3 nearest neighbours", KNeighborsClassifier(3)),
        ("500 random trees", ExtraTreesClassifier(500, random_state=0)),
    ):
        model.fit(x, y)
        told = model.predict_proba(samples)
        sure = told.max(1) >= 0.9
        share = float(sure.mean())
        real, floor = (float((model.predict_proba(v).max(1) >= 0.9).mean()) for v in (x_test, shuffled))
        error = (share * (1 - share) / len(images)) ** 0.5
        classes = np.bincount(told.argmax(1)[sure], minlength=10).tolist()
        out.append(EvaluationReport(name, model.score(x_test, y_test), real, floor, share, error, classes))
    return out


def main() -> None:
    """Draw, judge, print."""
    from header import header

    from fromnoise.checkpoint import load_model
    from fromnoise.pipeline import collect, draw
    from fromnoise.utils.device import select_device

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="runs/digits")
    parser.add_argument("-n", type=int, default=500)
    args = parser.parse_args()
    loaded, compute = load_model(args.run), select_device()
    compute.to_device(loaded.model.denoiser)
    own = loaded.model.recipe.sample
    drawn = collect(draw(loaded.model, own, compute, ids=torch.arange(args.n)))
    print(header())
    print(f"{args.n} samples of {args.run}, step {loaded.progress['step']}, rule {own.sampler}, {own.steps} steps")
    for v in judge(drawn.images.numpy()):
        print(
            f"{v.classifier:21} test accuracy {v.accuracy:.3f}; at least 90 % sure of {v.sure:.3f} +- {v.error:.3f} "
            f"of the samples, {v.sure_of_real:.3f} of real test digits, {v.floor:.3f} of shuffled ones; "
            f"by class {v.classes}"
        )


if __name__ == "__main__":
    main()
