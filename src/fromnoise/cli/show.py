"""``fromnoise show``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli.common import check_minimum, load_model_data, parse_times, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from fromnoise.config import SamplingConfig
    from fromnoise.model import Model
    from fromnoise.utils.device import ComputeConfig

HELP = "look at data, at the forward process, or at what a model knows on its way"
EPILOG = """examples:
  fromnoise show data ~/pictures --out data.png
  fromnoise show forward pulfer --out forward.png
  fromnoise show progressive runs/digits --out estimates.png     the estimates of x_0 on the way down
  fromnoise show shared runs/digits --out shared.png             samples that share x_t, for several t
  fromnoise show rate runs/digits --out rate.png                 rate and distortion over the reverse steps"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    things = parser.add_subparsers(dest="thing", metavar="THING", required=True, parser_class=type(parser))
    data = things.add_parser(
        "data",
        help="a grid of images as the model will see them",
        epilog=EPILOG,
        formatter_class=parser.formatter_class,
    )
    data.add_argument("spec", metavar="SPEC", help="data, as train --data takes them")
    data.add_argument("-n", dest="count", type=int, default=64, help="how many images")
    data.add_argument("--size", type=int, help="side in pixels; that of the data if left out")
    forward = things.add_parser(
        "forward", help="images under more and more noise", epilog=EPILOG, formatter_class=parser.formatter_class
    )
    forward.add_argument("source", metavar="RECIPE_OR_RUN", help="whose data and schedule")
    forward.add_argument("--data", metavar="SPEC", help="other data than the recipe's")
    forward.add_argument("-n", dest="count", type=int, default=6, help="how many images")
    progressive = things.add_parser(
        "progressive",
        help="estimates of x_0 on the way from noise",
        epilog=EPILOG,
        formatter_class=parser.formatter_class,
    )
    shared = things.add_parser(
        "shared", help="samples that share x_t", epilog=EPILOG, formatter_class=parser.formatter_class
    )
    rate = things.add_parser(
        "rate",
        help="rate against distortion of progressive coding, as a plot and a table",
        epilog=EPILOG,
        formatter_class=parser.formatter_class,
    )
    for each, count in ((progressive, 6), (shared, 8), (rate, 64)):
        each.add_argument("model", metavar="RUN", help="a run folder or one .safetensors file")
        each.add_argument("-n", dest="count", type=int, default=count, help="how many images")
        each.add_argument("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    for each in (progressive, shared):
        each.add_argument("--steps", metavar="K", type=int, help="steps; those of the recipe if left out")
    shared.add_argument("--depths", default="1,0.75,0.5,0.25", help="times t in (0, 1], with commas")
    rate.add_argument("--data", metavar="SPEC", help="images to code; held-out ones of the recipe's if left out")
    rate.add_argument("--json", metavar="FILE", type=Path, help="the table for programs")
    for each in (data, forward, progressive, shared, rate):
        each.add_argument("--seed", type=int, default=0, help="which images and noise")
        each.add_argument("--out", metavar="PNG", type=Path, required=True, help="where the picture goes")


def run(args: argparse.Namespace) -> int:
    """Make the picture."""
    from fromnoise.reporting import image_io
    from fromnoise.utils.files import check_file

    check_minimum(("-n", args.count, 1))
    check_file(args.out, ".png")
    if args.thing == "rate":
        _rate(args)
    else:
        makers = {"data": _data, "forward": _forward, "progressive": _progressive, "shared": _shared}
        image_io.save(makers[args.thing](args), args.out)
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
    from fromnoise.pipeline import noised
    from fromnoise.reporting import image_io

    where = Path(args.source)
    is_run = where.is_dir() or where.suffix == ".safetensors"
    recipe = load_model(where).model.recipe if is_run else recipes.load(args.source)
    if args.data:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": args.data})})
    data = open_data(recipe, print)
    pixels = data.train.get(shuffled_indices(len(data.train), args.seed, range(min(args.count, len(data.train)))))
    return image_io.forward_strip(*noised(build(recipe, dataset_info(recipe, data)).schedule, pixels, args.seed))


def _open(args: argparse.Namespace) -> tuple[Model, SamplingConfig, ComputeConfig]:
    """The model of a run where it is to run, and its way of sampling with the steps that were asked for."""
    from fromnoise.checkpoint import load_model
    from fromnoise.utils.device import select_device

    model = load_model(args.model).model
    config = model.recipe.sample
    steps = getattr(args, "steps", None)
    if steps is not None:
        check_minimum(("--steps", steps, 1))
        config = config.model_copy(update={"steps": steps})
    model.levels(config)  # impossible steps are told of first
    compute = select_device(args.device, "fp32")
    compute.to_device(model.denoiser)
    return model, config, compute


def _progressive(args: argparse.Namespace) -> Image:
    import torch

    from fromnoise.pipeline import collect, draw
    from fromnoise.reporting import image_io

    model, config, compute = _open(args)
    steps = draw(model, config, compute, ids=torch.arange(args.count), seed=args.seed, batch=args.count)
    drawn = collect(steps, frames=10, estimates=True)
    return image_io.reverse_strip([*drawn.frames, drawn.images], [*drawn.times, 0.0], columns=11)


def _shared(args: argparse.Namespace) -> Image:
    import torch

    from fromnoise.editing.interpolation import shared_latents
    from fromnoise.reporting import image_io

    depths = parse_times("--depths", args.depths)
    model, config, compute = _open(args)
    rows = shared_latents(model, config, compute, depths, args.count, args.seed)
    columns = list(torch.stack(rows, 1))  # a column a sample, a row a depth
    captions = [", ".join(f"t = {t:g}" for t in depths), *[""] * (args.count - 1)]
    return image_io.side_by_side(
        [(c, image_io.grid(each, columns=1)) for c, each in zip(captions, columns, strict=True)], gap=2
    )


def _rate(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from fromnoise.data import shuffled_indices
    from fromnoise.evaluation.likelihood import Measure
    from fromnoise.evaluation.progressive_coding import rate_and_distortion
    from fromnoise.reporting import plots
    from fromnoise.utils.files import check_file

    if args.json:
        check_file(args.json, ".json")
    model, _, compute = _open(args)
    images = load_model_data(model, args.data, print).held_out
    chosen = torch.as_tensor(shuffled_indices(len(images), args.seed, range(min(args.count, len(images)))))
    labels = images.labels[chosen] if model.dataset_info.class_names is not None and images.labels is not None else None
    measure = Measure(model, compute, args.seed)
    with tqdm(total=measure.code().steps, unit="step") as bar:
        found = rate_and_distortion(measure, images.get(chosen), labels, bar.update)
    plots.rate_plot(found.rates, found.distortions, found.steps, args.out)
    print(f"held-out images: {found.n}; rate in bits/dim, distortion as RMSE on 0-255")
    print("reverse steps      rate   distortion")
    count = len(found.steps)
    for row in sorted({max(0, round(count * share / 10) - 1) for share in range(1, 11)}, reverse=True):
        print(f"{found.steps[row]:13} {found.rates[row]:9.5f} {found.distortions[row]:9.3f} +- {found.errors[row]:.3f}")
    print(f"     lossless {found.lossless:9.5f}     0")
    if args.json:
        write_json(args.json, found.__dict__)
        print(args.json)
