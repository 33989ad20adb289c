"""Do samples show the label that they are conditioned on? Accuracy of a classifier on samples of each class.

python benchmarks/labels.py RUN [-n N] [--guidance W ...] [--steps K] [--image PNG] [--classifier FILE]

The classifier is a small convolutional network, trained here on the run's training images and tested on its held-out
images; its own accuracy is printed first. ``--classifier`` saves it to FILE, or loads it if FILE exists.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from header import header
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise import checkpoint
from fromnoise.config.recipe_data import open_data
from fromnoise.data import Data, to_float
from fromnoise.model import Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import image_io
from fromnoise.utils.device import select_device


def network(channels: int, classes: int) -> nn.Sequential:
    """Three convolutions, two of them with stride 2, and a hidden layer."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.LazyLinear(128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def train(data: Data, classes: int, steps: int) -> nn.Sequential:
    """Train on the training images."""
    torch.manual_seed(0)
    net = network(data.shape[0], classes)
    net(torch.zeros(2, *data.shape))
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        chosen = torch.randint(len(data.train), (128,))
        assert data.train.labels is not None
        loss = F.cross_entropy(net(to_float(data.train.get(chosen))), data.train.labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def classify(net: nn.Sequential, pixels: Tensor) -> Tensor:
    """Predicted class of each image, (N,)."""
    return torch.cat([net(to_float(part)).argmax(1) for part in pixels.split(500)])


def accuracy_line(name: str, correct: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> str:
    """Accuracy with its standard error, and the classes with the lowest accuracy."""
    accuracy = float(correct.double().mean())
    error = (accuracy * (1 - accuracy) / len(correct)) ** 0.5
    by_class = sorted((float(correct[labels == k].double().mean()), class_names[k]) for k in range(len(class_names)))
    lowest = ", ".join(f"{name} {value:.3f}" for value, name in by_class[:3])
    return f"{name:24} n {len(correct):6,}  {accuracy:.4f} +- {error:.4f}; lowest: {lowest}"


def main() -> None:
    """Train the classifier, sample, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--guidance", type=float, nargs="*")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--classifier-steps", type=int, default=3000)
    parser.add_argument("--image", type=Path)
    args = parser.parse_args()
    loaded = checkpoint.load_model(args.run)
    model, compute = loaded.model, select_device()
    compute.to_device(model.denoiser)
    class_names = model.dataset_info.class_names
    assert class_names is not None, "this run has no labels"
    data = open_data(model.recipe, lambda line: None)
    if args.classifier and args.classifier.exists():
        net = network(data.shape[0], len(class_names))
        net(torch.zeros(2, *data.shape))
        net.load_state_dict(checkpoint.read(args.classifier)[0])
        net.eval()
    else:
        net = train(data, len(class_names), args.classifier_steps)
        if args.classifier:
            checkpoint.write(args.classifier, net.state_dict(), {"kind": "classifier"})
    print(header())
    print(f"{args.run}, step {loaded.progress['step']:,}; accuracy of a classifier against the requested labels:")
    predicted = classify(net, data.held_out.get(torch.arange(len(data.held_out))))
    labels = data.held_out.labels
    assert labels is not None
    print(accuracy_line("held-out images", predicted == labels, labels, class_names), flush=True)
    for guidance in args.guidance or [model.recipe.sample.guidance]:
        evaluate(model, guidance, args, net, class_names)


def evaluate(
    model: Model, guidance: float, args: argparse.Namespace, net: nn.Sequential, class_names: tuple[str, ...]
) -> None:
    """Sample at one guidance scale and print; the samples of the last scale become the image."""
    config = model.recipe.sample.model_copy(update={"guidance": guidance})
    config = config.model_copy(update={"steps": args.steps}) if args.steps else config
    start = time.perf_counter()
    samples = collect(sample_steps(model, config, select_device(), ids=torch.arange(args.n), label="all", batch=250))
    seconds = time.perf_counter() - start
    assert samples.labels is not None
    correct = classify(net, samples.images) == samples.labels
    name = f"guidance {guidance:g}, {model.steps(config)} steps"
    print(f"{accuracy_line(name, correct, samples.labels, class_names)}; {seconds / args.n:.3f} s each", flush=True)
    if args.image and guidance == (args.guidance or [guidance])[-1]:
        count = 12 * len(class_names)
        image_io.save(image_io.labelled_grid(samples.images[:count], samples.labels[:count], class_names), args.image)


if __name__ == "__main__":
    main()
