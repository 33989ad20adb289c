"""Confidence of two classifiers, fitted to scikit-learn's digits, in the samples of a run.

python benchmarks/digit_confidence.py [RUN] [-n N]
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier


@dataclass(frozen=True)
class Confidence:
    """Predictions of a classifier with a probability of at least 90 %.

    Attributes:
        classifier: name.
        accuracy: on real test digits.
        real: fraction of confident predictions for real test digits.
        shuffled: the same for real test digits with shuffled pixels, which are not readable.
        samples: the same for the samples.
        error: standard error of ``samples``.
        classes: confident predictions of each class among the samples.
    """

    classifier: str
    accuracy: float
    real: float
    shuffled: float
    samples: float
    error: float
    classes: list[int]


@dataclass(frozen=True)
class Classifier:
    """A classifier fitted to four fifths of scikit-learn's digits.

    Attributes:
        name: for printing.
        model: fitted; takes pixels in [0, 1], (N, 64).
        accuracy: on the other fifth.
        real: fraction of confident predictions there.
        shuffled: the same with shuffled pixels.
    """

    name: str
    model: KNeighborsClassifier | ExtraTreesClassifier
    accuracy: float
    real: float
    shuffled: float


@functools.cache
def classifiers() -> tuple[Classifier, Classifier]:
    """Both classifiers, fitted once."""
    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(pixels / 16, labels, test_size=0.2, random_state=0, stratify=labels)
    shuffled = np.random.default_rng(0).permuted(x_test, axis=1)

    def fitted(name: str, model: KNeighborsClassifier | ExtraTreesClassifier) -> Classifier:
        model.fit(x, y)
        real, noise = (float((np.asarray(model.predict_proba(v)).max(1) >= 0.9).mean()) for v in (x_test, shuffled))
        return Classifier(name, model, float(model.score(x_test, y_test)), real, noise)

    return (
        fitted("3 nearest neighbours", KNeighborsClassifier(3)),
        fitted("500 random trees", ExtraTreesClassifier(500, random_state=0)),
    )


def confidence(images: np.ndarray) -> list[Confidence]:
    """Confidence of both classifiers in samples, uint8 (N, 1, 8, 8)."""
    samples, out = images.reshape(len(images), 64) / 255, []
    for c in classifiers():
        probabilities = np.asarray(c.model.predict_proba(samples))
        confident = probabilities.max(1) >= 0.9
        share = float(confident.mean())
        error = (share * (1 - share) / len(images)) ** 0.5
        classes = np.bincount(probabilities.argmax(1)[confident], minlength=10).tolist()
        out.append(Confidence(c.name, c.accuracy, c.real, c.shuffled, share, error, classes))
    return out


def main() -> None:
    """Sample, classify and print."""
    from header import header

    from fromnoise.checkpoint import load_model
    from fromnoise.pipeline import collect, sample_steps
    from fromnoise.utils.device import select_device

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="runs/digits")
    parser.add_argument("-n", type=int, default=500)
    args = parser.parse_args()
    loaded, compute = load_model(args.run), select_device()
    compute.to_device(loaded.model.denoiser)
    config = loaded.model.recipe.sample
    samples = collect(sample_steps(loaded.model, config, compute, ids=torch.arange(args.n)))
    print(header())
    print(
        f"{args.n} samples of {args.run}, step {loaded.progress['step']}; "
        f"sampler {config.sampler}, {config.steps} steps"
    )
    for c in confidence(samples.images.numpy()):
        print(
            f"{c.classifier:21} test accuracy {c.accuracy:.3f}; at least 90 % confident for {c.samples:.3f} +- "
            f"{c.error:.3f} of the samples, {c.real:.3f} of real test digits, {c.shuffled:.3f} of shuffled ones; "
            f"by class {c.classes}"
        )


if __name__ == "__main__":
    main()
