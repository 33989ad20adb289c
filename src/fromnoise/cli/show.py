"""``fromnoise show``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli.common import check_minimum, parse_times, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from fromnoise.config import SamplingConfig
    from fromnoise.model import Model
    from fromnoise.utils.device import ComputeConfig

HELP = "make figures of data, of the forward process, and of the reverse process of a model"
EPILOG = """examples:
  fromnoise show data ~/pictures --out data.png
  fromnoise show forward pulfer --out forward.png
  fromnoise show progressive runs/digits --out estimates.png     estimates of x_0 during sampling
  fromnoise show shared runs/digits --out shared.png             samples that share x_t, for several t
  fromnoise show rate runs/digits --out rate.png                 rate and distortion over the reverse steps"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    figures = parser.add_subparsers(dest="figure", metavar="FIGURE", required=True, parser_class=type(parser))

    def add_figure(name: str, text: str, count: int) -> argparse.ArgumentParser:
        figure = figures.add_parser(name, help=text, epilog=EPILOG, formatter_class=parser.formatter_class)
        figure.add_argument("-n", dest="count", metavar="N", type=int, default=count, help="number of images")
        figure.add_argument("--seed", metavar="S", type=int, default=0, help="seed of the choice of images and noise")
        figure.add_argument("--out", metavar="PNG", type=Path, required=True, help="file of the figure")
        return figure

    data = add_figure("data", "a grid of images as the model will see them", 64)
    data.add_argument("spec", metavar="SPEC", help="data, as train --data takes it")
    data.add_argument("--size", metavar="S", type=int, help="side in pixels; that of the data by default")
    forward = add_figure("forward", "images with increasing noise", 6)
    forward.add_argument("source", metavar="RECIPE_OR_RUN", help="recipe or run with the data and the noise schedule")
    forward.add_argument("--data", metavar="SPEC", help="images, instead of those of the recipe")
    progressive = add_figure("progressive", "estimates of x_0 during sampling", 6)
    shared = add_figure("shared", "samples that share x_t", 8)
    rate = add_figure("rate", "rate against distortion of progressive coding, as a plot and a table", 64)
    for figure in (progressive, shared, rate):
        figure.add_argument("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
        figure.add_argument("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    for figure in (progressive, shared):
        figure.add_argument("--steps", metavar="K", type=int, help="sampling steps; those of the recipe by default")
    shared.add_argument("--times", default="1,0.75,0.5,0.25", help="times t in (0, 1] of the shared x_t, with commas")
    rate.add_argument("--data", metavar="SPEC", help="images; the held-out images of the recipe by default")
    rate.add_argument("--json", metavar="FILE", type=Path, help="also write the table as JSON")


def run(args: argparse.Namespace) -> int:
    """Make the figure."""
    from fromnoise.reporting import image_io
    from fromnoise.utils.files import check_file

    check_minimum(("-n", args.count, 1), ("--size", getattr(args, "size", None), 1))
    check_file(args.out, ".png")
    if args.figure == "rate":
        _rate(args)
    else:
        figures = {"data": _data, "forward": _forward, "progressive": _progressive, "shared": _shared}
        image_io.save(figures[args.figure](args), args.out)
    print(args.out)
    return 0


def _data(args: argparse.Namespace) -> Image:
    from fromnoise.data import load, shuffled_indices
    from fromnoise.reporting import image_io

    data = load(args.spec, size=args.size, seed=args.seed, log=print)
    count = min(args.count, len(data.train))
    print(f"{len(data.train):,} training images, {len(data.held_out):,} held out, {'x'.join(map(str, data.shape))}")
    return image_io.grid(data.train.get(shuffled_indices(len(data.train), args.seed, range(count))))


def _forward(args: argparse.Namespace) -> Image:
    from fromnoise import config as recipes
    from fromnoise.checkpoint import load_model
    from fromnoise.config.recipe_data import dataset_info, open_data
    from fromnoise.data import shuffled_indices
    from fromnoise.model import build
    from fromnoise.pipeline import forward_process
    from fromnoise.reporting import image_io
    from fromnoise.utils.hub import is_hub

    path = Path(args.source)
    is_run = path.is_dir() or path.suffix == ".safetensors" or is_hub(path)
    recipe = load_model(path).model.recipe if is_run else recipes.load(args.source)
    if args.data:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": args.data})})
    data = open_data(recipe, print)
    pixels = data.train.get(shuffled_indices(len(data.train), args.seed, range(min(args.count, len(data.train)))))
    return image_io.forward_strip(
        *forward_process(build(recipe, dataset_info(recipe, data)).schedule, pixels, args.seed)
    )


def _open(args: argparse.Namespace) -> tuple[Model, SamplingConfig, ComputeConfig]:
    """The model of a run on its device, and its sampling config with ``--steps``."""
    from fromnoise.checkpoint import load_model
    from fromnoise.utils.device import select_device

    model = load_model(args.model).model
    config = model.recipe.sample
    steps = getattr(args, "steps", None)
    if steps is not None:
        check_minimum(("--steps", steps, 1))
        config = config.model_copy(update={"steps": steps})
    model.levels(config)  # raises for an impossible number of steps
    compute = select_device(args.device, "fp32")
    compute.to_device(model.denoiser)
    return model, config, compute


def _progressive(args: argparse.Namespace) -> Image:
    import torch

    from fromnoise.pipeline import collect, sample_steps
    from fromnoise.reporting import image_io

    model, config, compute = _open(args)
    steps = sample_steps(model, config, compute, ids=torch.arange(args.count), seed=args.seed, batch=args.count)
    samples = collect(steps, frames=10, estimates=True)
    return image_io.reverse_strip([*samples.frames, samples.images], [*samples.times, 0.0], columns=11)


def _shared(args: argparse.Namespace) -> Image:
    import torch

    from fromnoise.editing.interpolation import shared_latents
    from fromnoise.reporting import image_io

    times = parse_times("--times", args.times)
    model, config, compute = _open(args)
    rows = shared_latents(model, config, compute, times, args.count, args.seed)
    columns = list(torch.stack(rows, 1))  # a column per sample, a row per time
    captions = [", ".join(f"t = {t:g}" for t in times), *[""] * (args.count - 1)]
    return image_io.side_by_side(
        [(caption, image_io.grid(column, columns=1)) for caption, column in zip(captions, columns, strict=True)], gap=2
    )


def _rate(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from fromnoise.data import shuffled_indices
    from fromnoise.evaluation.likelihood import LikelihoodEvaluator
    from fromnoise.evaluation.progressive_coding import rate_and_distortion
    from fromnoise.evaluation.resolve import load_model_data
    from fromnoise.reporting import plots
    from fromnoise.utils.files import check_file

    if args.json:
        check_file(args.json, ".json")
    model, _, compute = _open(args)
    images = load_model_data(model, args.data, print).held_out
    chosen = torch.as_tensor(shuffled_indices(len(images), args.seed, range(min(args.count, len(images)))))
    labels = images.labels[chosen] if model.dataset_info.class_names is not None and images.labels is not None else None
    evaluator = LikelihoodEvaluator(model, compute, args.seed)
    with tqdm(total=evaluator.elbo().steps, unit="step") as bar:
        curve = rate_and_distortion(evaluator, images.get(chosen), labels, bar.update)
    plots.rate_distortion_plot(curve.rates, curve.distortions, curve.steps, args.out)
    print(f"{curve.n} held-out images; rate in bits/dim, distortion as RMSE on 0-255")
    print("reverse steps      rate   distortion")
    count = len(curve.steps)
    for row in sorted({max(0, round(count * tenth / 10) - 1) for tenth in range(1, 11)}, reverse=True):
        print(f"{curve.steps[row]:13} {curve.rates[row]:9.5f} {curve.distortions[row]:9.3f} +- {curve.errors[row]:.3f}")
    print(f"     lossless {curve.lossless:9.5f}     0")
    if args.json:
        write_json(args.json, curve.__dict__)
        print(args.json)
