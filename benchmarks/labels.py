"""Does a model draw what it is told? A classifier of real images looks for the asked class among samples.

python benchmarks/labels.py RUN [-n N] [--guidance W ...] [--steps K] [--picture PNG] [--classifier FILE]

The classifier is a small convolutional network, trained here on the run's own training images and tested on its held
out ones; its own error is printed first. ``--classifier`` keeps it for the next time.
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
    """Two halvings by convolution, and a hidden layer."""
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


def learn(data: Data, classes: int, steps: int) -> nn.Sequential:
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
def found(net: nn.Sequential, pixels: Tensor) -> Tensor:
    """The class of each image."""
    return torch.cat([net(to_float(part)).argmax(1) for part in pixels.split(500)])


def told(name: str, right: Tensor, labels: Tensor, names: tuple[str, ...]) -> str:
    """A line: the share that is what was asked, with its error, and the worst classes."""
    share = float(right.double().mean())
    error = (share * (1 - share) / len(right)) ** 0.5
    each = sorted((float(right[labels == k].double().mean()), names[k]) for k in range(len(names)))
    worst = ", ".join(f"{n} {s:.3f}" for s, n in each[:3])
    return f"{name:24} n {len(right):6,}  {share:.4f} +- {error:.4f}; least: {worst}"


def main() -> None:
    """Learn the classifier, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--guidance", type=float, nargs="*")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--classifier-steps", type=int, default=3000)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    loaded = checkpoint.load_model(args.run)
    model, compute = loaded.model, select_device()
    compute.to_device(model.denoiser)
    names = model.dataset_info.class_names
    assert names is not None, "this run knows no labels"
    data = open_data(model.recipe, lambda line: None)
    if args.classifier and args.classifier.exists():
        net = network(data.shape[0], len(names))
        net(torch.zeros(2, *data.shape))
        net.load_state_dict(checkpoint.read(args.classifier)[0])
        net.eval()
    else:
        net = learn(data, len(names), args.classifier_steps)
        if args.classifier:
            checkpoint.write(args.classifier, net.state_dict(), {"kind": "classifier"})
    print(header())
    print(f"{args.run}, step {loaded.progress['step']:,}; found by a classifier the class that was asked:")
    real = found(net, data.held_out.get(torch.arange(len(data.held_out))))
    assert data.held_out.labels is not None
    print(told("held-out images", real == data.held_out.labels, data.held_out.labels, names), flush=True)
    for guidance in args.guidance or [model.recipe.sample.guidance]:
        show(model, guidance, args, net, names)


def show(model: Model, guidance: float, args: argparse.Namespace, net: nn.Sequential, names: tuple[str, ...]) -> None:
    """Draw at one scale, and print; a picture of the last scale if asked."""
    config = model.recipe.sample.model_copy(update={"guidance": guidance})
    config = config.model_copy(update={"steps": args.steps}) if args.steps else config
    begun = time.perf_counter()
    made = collect(sample_steps(model, config, select_device(), ids=torch.arange(args.n), label="all", batch=250))
    spent = time.perf_counter() - begun
    assert made.labels is not None
    line = told(
        f"guidance {guidance:g}, {config.steps} steps", found(net, made.images) == made.labels, made.labels, names
    )
    print(f"{line}; {spent / args.n:.3f} s each", flush=True)
    if args.picture and guidance == (args.guidance or [guidance])[-1]:
        shown = 12 * len(names)
        image_io.save(image_io.labelled_grid(made.images[:shown], made.labels[:shown], names), args.picture)


if __name__ == "__main__":
    main()
