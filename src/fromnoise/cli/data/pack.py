"""``fromnoise data pack``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from fromnoise.cli.common import check_minimum
from fromnoise.cli.parsing import parse_size

HELP = "write a data set into .tar shards of the WebDataset layout, with an index; run again to go on"
EPILOG = """examples:
  fromnoise data pack ~/pictures --out shards                    files as they are
  fromnoise data pack ~/pictures --out shards --size 64          cropped and resized
  fromnoise data pack ~/pictures --out shards --recipe images    as this recipe crops and resizes
  fromnoise train images --data shards"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("spec", metavar="SPEC", help="data, as train --data takes it")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--size", metavar="S", help="crop and resize to this side, or HxW; as they are by default")
    parser.add_argument("--channels", metavar="C", type=int, help="convert to 1 grey, 3 RGB or 4 RGBA")
    parser.add_argument("--resize", choices=("lanczos", "bilinear"), default="lanczos", help="filter of --size")
    parser.add_argument("--recipe", metavar="RECIPE", help="take size, channels and filter from this recipe")
    parser.add_argument(
        "--encoding",
        choices=("auto", "png", "npy"),
        default="auto",
        help="files as they are, arrays and resized images as npy (fast) up to 64x64 and png above; or all of one kind",
    )
    parser.add_argument("--shard-mb", metavar="MB", type=int, default=256, help="size of a shard in MiB")
    parser.add_argument("--workers", metavar="N", type=int, default=0, help="threads; 0 for one per core, at most 8")
    parser.add_argument("--skip-damaged", action="store_true", help="leave out shards of SPEC that are damaged")


def run(args: argparse.Namespace) -> int:
    """Pack."""
    from tqdm import tqdm

    from fromnoise import config as recipes
    from fromnoise.data.shards.pack import PackSettings, pack
    from fromnoise.data.source import select_split
    from fromnoise.data.spec import open_splits, parse_spec
    from fromnoise.utils.errors import UserError
    from fromnoise.utils.files import check_folder

    check_minimum(("--channels", args.channels, 1), ("--shard-mb", args.shard_mb, 1), ("--workers", args.workers, 0))
    size = None if args.size is None else parse_size("--size", args.size)
    settings = PackSettings(size, args.channels, args.resize, args.encoding, args.shard_mb << 20)
    if args.recipe is not None:
        if size is not None or args.channels is not None:
            raise UserError("--recipe says size and channels: leave out --size and --channels")
        data = recipes.load(args.recipe).data
        settings = PackSettings(data.size, data.channels, data.resize, args.encoding, args.shard_mb << 20)
    if re.match(r"\w+:/", str(args.out)):  # a path has one slash of two
        raise UserError(f"--out {args.out} must be a folder of this machine: pack there, then copy it to the store")
    check_folder(args.out)
    name, split = parse_spec(args.spec)
    splits = open_splits(name, print, args.skip_damaged)
    if split is not None:
        splits = {"all": select_split(splits, split, args.spec)}
    with tqdm(unit="image", delay=1, total=sum(map(len, splits.values()))) as bar:
        manifest = pack(splits, args.out, settings, tqdm.write, args.workers, lambda done, _: bar.update(done - bar.n))
    images = sum(shard.images or 0 for shard in manifest.shards)
    size_gb = sum(shard.size or 0 for shard in manifest.shards) / 2**30
    print(f"{images:,} images in {len(manifest.shards)} shards, {size_gb:.3g} GiB")
    print(args.out)
    return 0
