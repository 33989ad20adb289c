"""``fromnoise show``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

HELP = "look at data, or at the forward process of a recipe or run"
EPILOG = """examples:
  fromnoise show data ~/pictures --out data.png
  fromnoise show forward pulfer --out forward.png"""


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
    for each in (data, forward):
        each.add_argument("--seed", type=int, default=0, help="which images and noise")
        each.add_argument("--out", metavar="PNG", type=Path, required=True, help="where the picture goes")


def run(args: argparse.Namespace) -> int:
    """Make the picture."""
    from fromnoise import pictures
    from fromnoise.disk import check_file
    from fromnoise.errors import UserError

    if args.count < 1:
        raise UserError(f"-n {args.count} is too small: take at least 1")
    check_file(args.out, ".png")
    picture = _data(args) if args.thing == "data" else _forward(args)
    pictures.save(picture, args.out)
    print(args.out)
    return 0


def _data(args: argparse.Namespace) -> Image:
    from fromnoise import pictures
    from fromnoise.data import load, order

    data = load(args.spec, size=args.size, seed=args.seed, log=print)
    count = min(args.count, len(data.train))
    print(f"{len(data.train):,} training images, {len(data.held_out):,} held out, {'x'.join(map(str, data.shape))}")
    return pictures.grid(data.train.get(order(len(data.train), args.seed, range(count))))


def _forward(args: argparse.Namespace) -> Image:
    from fromnoise import pictures
    from fromnoise import recipe as recipes
    from fromnoise.checkpoint import load_model
    from fromnoise.data import order
    from fromnoise.draw import noised
    from fromnoise.model import build
    from fromnoise.train.run import facts, open_data

    where = Path(args.source)
    is_run = where.is_dir() or where.suffix == ".safetensors"
    recipe = load_model(where).model.recipe if is_run else recipes.load(args.source)
    if args.data:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": args.data})})
    data = open_data(recipe, print)
    pixels = data.train.get(order(len(data.train), args.seed, range(min(args.count, len(data.train)))))
    return pictures.forward_strip(*noised(build(recipe, facts(recipe, data)).schedule, pixels, args.seed))
